"""Small networks, each named after the hazard that it holds."""

import torch
import torch.nn.functional as F
from torch import nn

from rotated_relu import Rotated, RotatedReLU


def awake(net: nn.Module, seed: int = 0) -> nn.Module:
    """Batch norms as after training: scale, shift and statistics that are neither 0 nor 1."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.uniform_(-1, 1, generator=generator)
            module.running_mean.uniform_(-1, 1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return net.eval()


def kill(net: nn.Module, name: str, channels: list[int]) -> None:
    """Set some slopes of one rotated activation to zero."""
    net.get_submodule(name).slope.data[channels] = 0.0


class Chain(nn.Module):
    """conv - bn - act - conv - bn - act - pool - linear."""

    def __init__(self, bias: bool = False):
        super().__init__()
        self.conv1, self.bn1, self.act1 = nn.Conv2d(3, 8, 3, bias=bias), nn.BatchNorm2d(8), RotatedReLU(8)
        self.conv2, self.bn2, self.act2 = nn.Conv2d(8, 6, 3, bias=bias), nn.BatchNorm2d(6), RotatedReLU(6)
        self.pool, self.fc = nn.MaxPool2d(2), nn.Linear(6 * 6 * 6, 5)

    def forward(self, x):
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.pool(self.act2(self.bn2(self.conv2(x))))
        return self.fc(torch.flatten(x, 1))


class Block(nn.Module):
    """Post-activation residual block, the slope after the addition."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.conv1, self.bn1, self.act1 = (
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            RotatedReLU(width),
        )
        self.conv2, self.bn2, self.act2 = (
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            RotatedReLU(width),
        )

    def forward(self, x):
        y = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        return self.act2(y + x)


class Residual(nn.Module):
    """Stem, two blocks on one stream, head."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.stem, self.act = nn.Conv2d(3, width, 3, padding=1), RotatedReLU(width)
        self.block1, self.block2 = Block(width), Block(width)
        self.fc = nn.Linear(width, 5)

    def forward(self, x):
        x = self.block2(self.block1(self.act(self.stem(x))))
        return self.fc(x.mean((2, 3)))


class PreActivation(nn.Module):
    """The stream itself carries no slope: its channels stay."""

    def __init__(self, width: int = 6):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1, self.act1, self.conv1 = (
            nn.BatchNorm2d(width),
            RotatedReLU(width),
            nn.Conv2d(width, width, 1, bias=False),
        )
        self.bn2, self.act2, self.conv2 = (
            nn.BatchNorm2d(width),
            RotatedReLU(width),
            nn.Conv2d(width, width, 1, bias=False),
        )
        self.bn3, self.fc = nn.BatchNorm2d(width), nn.Linear(width, 4)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.conv2(self.act2(self.bn2(self.conv1(self.act1(self.bn1(x))))))
        return self.fc(F.relu(self.bn3(x)).mean((2, 3)))


class PadShortcut(nn.Module):
    """Widths written into the code, in a module without parameters."""

    def forward(self, x):
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))


class OptionA(nn.Module):
    """A stage of 4 channels, a padding shortcut, a stage of 8."""

    def __init__(self):
        super().__init__()
        self.stem, self.act = nn.Conv2d(3, 4, 3, padding=1), RotatedReLU(4)
        self.conv, self.shortcut, self.act2 = (
            nn.Conv2d(4, 8, 3, stride=2, padding=1),
            PadShortcut(),
            RotatedReLU(8),
        )
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.act(self.stem(x))
        return self.fc(self.act2(self.conv(x) + self.shortcut(x)).mean((2, 3)))


class LiteralView(nn.Module):
    """A width written into forward: the tensor keeps it, the layers around still shrink."""

    def __init__(self):
        super().__init__()
        self.conv, self.act, self.fc = nn.Conv2d(3, 8, 4), RotatedReLU(8), nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.act(self.conv(x)).mean((2, 3)).view(-1, 8))


class Concat(nn.Module):
    """Two branches side by side."""

    def __init__(self):
        super().__init__()
        self.a, self.act_a = nn.Conv2d(3, 4, 3), RotatedReLU(4)
        self.b, self.act_b = nn.Conv2d(3, 6, 3), RotatedReLU(6)
        self.head = nn.Conv2d(10, 5, 1)

    def forward(self, x):
        return self.head(torch.cat([self.act_a(self.a(x)), self.act_b(self.b(x))], 1)).amax((2, 3))


class Depthwise(nn.Module):
    """expand - act - depthwise - act - project, without norms."""

    def __init__(self):
        super().__init__()
        self.expand, self.act1 = nn.Conv2d(3, 8, 1), RotatedReLU(8)
        self.depthwise, self.act2 = nn.Conv2d(8, 8, 3, groups=8, bias=False), RotatedReLU(8)
        self.project = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.project(self.act2(self.depthwise(self.act1(self.expand(x))))).sum((2, 3))


class Grouped(nn.Module):
    """A convolution with 4 groups of 2: a group goes when both of its channels do."""

    def __init__(self):
        super().__init__()
        self.conv1, self.act1 = nn.Conv2d(3, 8, 1), RotatedReLU(8)
        self.conv2, self.act2 = nn.Conv2d(8, 8, 3, groups=4, bias=False), RotatedReLU(8)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.head(self.act2(self.conv2(self.act1(self.conv1(x))))).amax((2, 3))


class Shuffle(nn.Module):
    """ShuffleNet's channel shuffle: views with widths in them."""

    def __init__(self):
        super().__init__()
        self.conv1, self.act, self.conv2 = nn.Conv2d(3, 8, 1), RotatedReLU(8), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.act(self.conv1(x))
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.conv2(x).amax((2, 3))


class SharedLayer(nn.Module):
    """One convolution called twice: cut to what either call needs."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1)
        self.act0, self.act1, self.act2 = RotatedReLU(6), RotatedReLU(6), RotatedReLU(6)
        self.fc = nn.Linear(6, 5)

    def forward(self, x):
        x = self.act1(self.conv(self.act0(self.stem(x))))
        return self.fc(self.act2(self.conv(x)).mean((2, 3)))


class Tokens(nn.Module):
    """A transformer block: attention and an MLP with rotated GELU on the last dimension."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.embed, self.norm = nn.Linear(5, width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.fc1, self.act, self.fc2 = nn.Linear(width, 12), Rotated(nn.GELU(), 12, -1), nn.Linear(12, width)

    def forward(self, x):
        x = self.embed(x)
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return (x + self.fc2(self.act(self.fc1(x)))).mean(1)


class TwoInputs(nn.Module):
    """Two inputs, two outputs, and a gate that multiplies."""

    def __init__(self):
        super().__init__()
        self.image, self.act = nn.Conv2d(3, 8, 3), RotatedReLU(8)
        self.squeeze, self.gate = nn.Linear(2, 8), nn.Linear(8, 8)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, image, vector):
        gate = torch.sigmoid(self.gate(torch.relu(self.squeeze(vector))))
        y = self.head(self.act(self.image(image)) * gate[:, :, None, None])
        return y.mean((2, 3)), {"maximum": y.amax((2, 3))}


class ScaledTokens(nn.Module):
    """A layer scale as a bare parameter of the module, and an affine after the gate."""

    def __init__(self):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(4, 8), RotatedReLU(8, -1), nn.Linear(8, 3)
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 8))

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)) * self.scale)


class AnySize(nn.Module):
    """Convolutions and a mean over the pixels: takes images of any size."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), RotatedReLU(8), nn.Conv2d(8, 6, 3, padding=1)
        )
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


def classifier() -> nn.Sequential:
    """3x3 convolution of 3 -> 8 channels with norm, mean over the pixels, 8 -> 5."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


def two_layers() -> nn.Sequential:
    """3 -> 4 -> 2 -> 1, all slopes 1: 3*4 + 4*2 + 2*1 = 22 multiplications, as many weights, 7 biases, 6 slopes."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), RotatedReLU(4), nn.Linear(4, 2), RotatedReLU(2), nn.Linear(2, 1))
    with torch.no_grad():
        for module in net:
            if isinstance(module, RotatedReLU):
                module.slope.fill_(1.0)
    return net


# Case -> network, dead channels of its activations, shape of the input.
DEAD = {
    "residual": (Residual, {"act": [0, 1], "block1.act1": [2, 3], "block1.act2": [0, 4]}, (4, 3, 8, 8)),
    "dead branch": (Residual, {"block1.act1": list(range(8)), "act": [2]}, (4, 3, 8, 8)),
    "padded": (OptionA, {"act": [1], "act2": [0, 3]}, (4, 3, 8, 8)),
    "grouped": (Grouped, {"act1": [0, 1, 2], "act2": [6, 7]}, (4, 3, 8, 8)),
    "called twice": (SharedLayer, {"act0": [0, 1], "act1": [0, 2], "act2": [0, 3]}, (4, 3, 8, 8)),
    "tokens": (Tokens, {"act": [0, 5, 6]}, (4, 4, 5)),
}
