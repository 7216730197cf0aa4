"""Code that writes into its tensors: what is dead behind it goes as it does elsewhere."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import rotated_relu as rr

GATES = {
    "relu_, its argument goes on": lambda y: [y.relu_(), y][1],
    "F.relu_, its argument goes on": lambda y: [F.relu_(y), y][1],
    "silu in place, its argument goes on": lambda y: [F.silu(y, inplace=True), y][1],
    "copied into its argument": lambda y: y.copy_(F.relu(y)),
    "multiplied in place": lambda y: y.mul_(torch.sigmoid(y)),
}


class Gated(nn.Module):
    def __init__(self, gate, write=False):
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 5, 1)
        self.gate, self.write = gate, write

    def forward(self, x):
        y = self.last(self.gate(self.norm(self.conv(x))))
        if self.write:
            y[:, 0] = 0.0  # through a view: torch's own functionalisation takes the graph over
        return y


def half_removed(net):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 6)
    rr.rotate(net.eval(), x)
    for slope in rr.slopes(net).values():
        slope.data[::2] = 0.0
    expected = net(x)
    result = rr.compact(net, x, 0.1)
    torch.testing.assert_close(result.model(x), expected)
    return result


@pytest.mark.parametrize("gate", GATES.values(), ids=GATES)
def test_channels_behind_a_gate_that_writes_into_its_argument_are_removed(gate):
    result = half_removed(Gated(gate))
    assert result.model.conv.weight.shape == (4, 3, 3, 3)
    assert result.model.norm.weight.shape == (4,)
    assert result.model.last.weight.shape == (5, 4, 1, 1)
    assert result.plan.held == []
    assert result.plan.unhandled == {}


def test_batch_norms_get_narrow_in_a_graph_that_writes_through_a_view():
    result = half_removed(Gated(F.relu, write=True))
    assert result.model.norm.weight.shape == (4,)
    assert result.model.last.weight.shape == (5, 4, 1, 1)
    assert result.plan.held == []


def test_a_copy_of_fewer_dimensions_spreads_to_its_target():
    class Spread(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x):
            y = F.relu(self.first(x))
            table = torch.zeros(5, *y.shape)
            return self.last(table.copy_(y))

    net = Spread().eval()
    x = torch.randn(2, 4)
    rr.rotate(net, x)
    next(iter(rr.slopes(net).values())).data[:6] = 0.0
    result = rr.compact(net, x, 0.1)
    torch.testing.assert_close(result.model(x), net(x))
    assert result.model.last.weight.shape == (3, 2)
