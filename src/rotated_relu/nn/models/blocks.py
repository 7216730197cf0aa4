"""What the networks share: activations, convolutions, the parameter-free shortcut, the initial weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..activation import RotatedReLU


def activation(channels: int, rotated: bool) -> nn.Module:
    """One activation module for one call site: rotated with ``channels`` slopes, or a plain ReLU."""
    return RotatedReLU(channels) if rotated else nn.ReLU()


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution with padding 1 and no bias."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """A 1x1 convolution without bias."""
    return nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)


class ChannelPadShortcut(nn.Module):
    """Shortcut without parameters ("option A"): take every ``stride``-th pixel, pad the channels with zeros.

    Shape:
        - Input: (N, in_channels, H, W).
        - Output: (N, out_channels, ceil(H / stride), ceil(W / stride)); the input's channels lie in the
        middle.

    Source: He et al., *Deep Residual Learning*, 2016, Section 3.3, option A.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.before = (out_channels - in_channels) // 2
        self.after = out_channels - in_channels - self.before
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Subsample and pad."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))

    def extra_repr(self) -> str:
        """Show padding and stride in ``print(model)``."""
        return f"pad=({self.before}, {self.after}), stride={self.stride}"


def stages(
    block: Callable[[int, int, int], nn.Module],
    in_channels: int,
    widths: Sequence[int],
    blocks: int,
    expansion: int = 1,
) -> list[nn.Sequential]:
    """Stages of equally many blocks; all but the first stage halve height and width.

    Args:
        block: Makes one from its input channels, its width and its stride.
        in_channels: Of the first block.
        widths: Of the blocks, per stage.
        blocks: Per stage.
        expansion: Output channels of a block over its width.
    """
    made = []
    for index, width in enumerate(widths):
        layers = []
        for position in range(blocks):
            layers.append(block(in_channels, width, 2 if index > 0 and position == 0 else 1))
            in_channels = width * expansion
        made.append(nn.Sequential(*layers))
    return made


def weight_generator() -> torch.Generator:
    """A generator seeded with one draw from torch's default one.

    Called before a network is built, so that the rotated network and the plain one start from the same
    weights for the same ``torch.manual_seed``, however many draws their slopes take.
    """
    seed = int(torch.randint(2**62, (), dtype=torch.int64, device="cpu"))
    return torch.Generator("cpu").manual_seed(seed)


def initialise_weights(net: nn.Module, generator: torch.Generator) -> None:
    """Kaiming normal (fan-in) for convolutions and linear layers, zero for their biases.

    Batch norm keeps torch's ones and zeros, and slopes keep their own distribution. Drawn on the CPU, so that
    the start is the same on every device.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            drawn = torch.empty(module.weight.shape, device="cpu")
            with torch.no_grad():
                module.weight.copy_(nn.init.kaiming_normal_(drawn, generator=generator))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
