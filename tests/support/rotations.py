"""Networks that call their gates in many ways, and all that a rotation of them promises."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import nn

import rotated_relu as rr

IMAGE = torch.randn(2, 3, 6, 6)


ROWS = torch.randn(4, 6)


def outputs(net, x, seed=0):
    torch.manual_seed(seed)
    with torch.no_grad():
        return net(x.clone())


def check(net, x, widths):
    """Rotate, and hold everything that rotate promises; returns the network."""
    kind, before = type(net), copy.deepcopy(net)
    training = [module.training for module in net.modules()]
    given = x.clone()
    rotated = rr.rotate(net, x)
    assert rotated is net
    assert isinstance(net, kind)
    assert type(net).__name__ == kind.__name__
    assert torch.equal(x, given)
    assert [len(slope) for slope in rr.slopes(net).values()] == widths
    assert not net.load_state_dict(before.state_dict(), strict=False).unexpected_keys
    assert net.training == training[0]
    for mode in (False, True):
        torch.testing.assert_close(
            outputs(net.train(mode), x), outputs(before.train(mode), x), rtol=0, atol=1e-6
        )
    # Slopes of 2 and 0 differ from those of 1 in a copy, an export and a compiled network alike.
    for number, slope in enumerate(rr.slopes(net).values()):
        slope.data.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(number))
    net.eval()
    want = outputs(net, x)
    assert not torch.allclose(want, outputs(before.eval(), x))
    assert torch.equal(outputs(copy.deepcopy(net), x), want)
    exported = torch.export.export(net, (x.clone(),), strict=False).module()
    torch.testing.assert_close(outputs(exported, x), want)
    for slope in rr.slopes(net).values():
        slope.data[: len(slope) // 2] = 0.0
    small = rr.compact(net, x, threshold=1e-3).model
    torch.testing.assert_close(outputs(small, x), outputs(net, x), rtol=1e-4, atol=1e-5)
    return net


class Calls(nn.Module):
    """One gate, called by a function, in a network that calls it in three places."""

    def __init__(self, gate):
        super().__init__()
        self.gate = gate
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 10), nn.Linear(10, 6)
        self.last = nn.Linear(6, 2)

    def forward(self, x):
        x = self.gate(self.a(x))
        for layer in (self.b, self.c):
            x = self.gate(layer(x))
        return self.last(x)


FUNCTIONS = {
    "F.relu": F.relu,
    "torch.relu": torch.relu,
    "x.relu": lambda x: x.relu(),
    "x.relu_": lambda x: x.relu_(),
    "torch.relu_": torch.relu_,
    "F.relu inplace": lambda x: F.relu(x, inplace=True),
    "F.silu": F.silu,
    "F.gelu": F.gelu,
    "F.gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "F.hardswish": nn.functional.hardswish,
    "F.leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "F.elu": F.elu,
    "F.mish": F.mish,
    "F.relu6 by keyword": lambda x: F.relu6(input=x),
    "silu": lambda x: x * torch.sigmoid(x),
    "silu in place": lambda x: x.mul_(x.sigmoid()),
    "silu by division": lambda x: x / (1 + torch.exp(-x)),
    "quick gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "tanh gelu": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "erf gelu": lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
    "hardswish": lambda x: x * F.relu6(x + 3) / 6,
    "hardsigmoid": lambda x: x * F.hardsigmoid(x),
    "mish": lambda x: x * torch.tanh(F.softplus(x)),
    "squared relu": lambda x: F.relu(x) ** 2,
    "squared relu by square": lambda x: torch.square(torch.relu(x)),
    "leaky by maximum": lambda x: torch.maximum(x, 0.1 * x),
    "leaky by where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "relu by clamp": lambda x: x.clamp(min=0),
    "relu by a mask": lambda x: x * (x > 0),
}


class Child(nn.Module):
    def __init__(self, width=6):
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x):
        return F.relu(self.linear(x))


class Nested(nn.Module):
    """Root, child and grandchild each call F.relu, and a plain module is called between."""

    def __init__(self):
        super().__init__()
        self.child, self.act = Child(), nn.ReLU()
        self.inner = nn.Sequential(Child(), nn.Linear(6, 5))
        self.first, self.last = nn.Linear(6, 6), nn.Linear(5, 2)

    def forward(self, x):
        x = F.relu(self.first(x))
        x = self.act(self.child(x) - 0.5)
        return self.last(F.relu(self.inner(x)))


class Embedded(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.b(F.relu(self.a(x)))
