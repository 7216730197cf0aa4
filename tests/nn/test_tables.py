"""Branches that read no input, but a table of the network: position biases, learned queries."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import rotated_relu as rr


class PositionBias(nn.Module):
    """A small network over positions is added to a large one over inputs."""

    def __init__(self, learned, width=6):
        super().__init__()
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        self.one, self.two = nn.Linear(2, width), nn.Linear(width, 3)
        table = torch.randn(5, 2)
        if learned:
            self.table = nn.Parameter(table)
        else:
            self.register_buffer("table", table)

    def forward(self, x):
        return self.head(F.relu(self.body(x))) + self.two(F.silu(self.one(self.table))).mean(0)


@pytest.mark.parametrize("learned", [False, True])
def test_gates_of_a_branch_without_inputs_get_slopes_and_go(learned):
    torch.manual_seed(0)
    net, x = PositionBias(learned).eval(), torch.randn(2, 4)
    expected = net(x)
    rr.rotate(net, x)
    torch.testing.assert_close(net(x), expected)
    assert [slope.numel() for slope in rr.slopes(net).values()] == [8, 6]
    for slope in rr.slopes(net).values():
        slope.data[::2] = 0.0
    result = rr.compact(net, x, 0.1)
    torch.testing.assert_close(result.model(x), net(x))
    assert result.model.one.weight.shape == (3, 2)
    assert result.model.two.weight.shape == (3, 3)


def test_a_constant_that_no_layer_makes_is_no_site():
    class Positive(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.scale = nn.Linear(4, 8), nn.Parameter(torch.ones(8))

        def forward(self, x):
            return F.relu(self.layer(x)) * F.relu(self.scale)

    net = rr.rotate(Positive(), torch.randn(2, 4))
    assert [slope.numel() for slope in rr.slopes(net).values()] == [8]


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_layer_without_outputs_stays_without():
    """A width that a small configuration rounds down to 0."""
    torch.manual_seed(0)
    net, x = PositionBias(learned=False, width=0).eval(), torch.randn(2, 4)
    rr.rotate(net, x)
    slope = next(iter(rr.slopes(net).values()))
    slope.data[:4] = 0.0
    result = rr.compact(net, x, 0.1)
    torch.testing.assert_close(result.model(x), net(x))
    assert result.model.head.weight.shape == (3, 4)
