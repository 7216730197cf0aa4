"""Gates of every kind: modules of one's own, written out, gated linear units, named by the user, and what is none."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import rotated_relu as rr
from rotated_relu.core.errors import GateError, NothingRotatedWarning, PlainActivationsWarning
from support.rotations import IMAGE, ROWS, Calls, check


class QuickGelu(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class HardSwish(nn.Module):
    def forward(self, x):
        return x * F.relu6(x + 3.0) / 6.0


class Swish(nn.Module):
    """With a learned parameter."""

    def __init__(self):
        super().__init__()
        self.beta = nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return x * torch.sigmoid(self.beta * x)


class _HiddenSwish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return grad * s * (1 + x * (1 - s))


class MemoryEfficientSwish(nn.Module):
    def forward(self, x):
        return _HiddenSwish.apply(x)


@pytest.mark.parametrize("kind", [QuickGelu, HardSwish, Swish, MemoryEfficientSwish, nn.PReLU])
def test_modules_of_ones_own_are_swapped(kind):
    net = check(nn.Sequential(nn.Linear(6, 8), kind(), nn.Linear(8, 2)), ROWS, [8])
    assert list(rr.slopes(net)) == ["1.slope"]


@pytest.mark.parametrize("kind", [QuickGelu, HardSwish, Swish])
def test_a_module_of_ones_own_shared_by_all_calls(kind):
    check(Calls(kind()), ROWS, [8, 10, 6])


def test_prelu_with_one_parameter_per_channel_keeps_it():
    gate = nn.PReLU(8, init=0.1)
    net = check(nn.Sequential(nn.Conv2d(3, 8, 1), gate, nn.Conv2d(8, 2, 1)), IMAGE, [8])
    assert any(parameter is gate.weight for parameter in net.parameters())


class SwiGlu(nn.Module):
    def __init__(self, gate):
        super().__init__()
        self.gate = gate
        self.both, self.down = nn.Linear(6, 20), nn.Linear(10, 6)

    def forward(self, x):
        gate, up = self.both(x).chunk(2, -1)
        return self.down(self.gate(gate) * up)


@pytest.mark.parametrize("gate", [F.silu, F.gelu, lambda x: x * torch.sigmoid(x)])
def test_gated_linear_units_have_slopes_on_their_gate(gate):
    check(SwiGlu(gate), ROWS, [10])


def test_lp_pool_contains_no_site():
    class Pool(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv1d(3, 8, 3), nn.Conv1d(8, 2, 1)

        def forward(self, x):
            return self.b(F.lp_pool1d(F.relu(self.a(x)), 2, 2))

    net = rr.rotate(Pool(), torch.randn(2, 3, 12))
    assert [len(slope) for slope in rr.slopes(net).values()] == [8]


def squashed(x):
    return 2 * torch.tanh(F.relu(x))


class Soft(nn.Module):
    def forward(self, x):
        return torch.sign(x) * F.relu(x.abs() - 0.5)


class Shifted(nn.Module):
    def forward(self, x):
        return F.relu(x + 1)


def test_gates_that_the_user_names():
    net = nn.Sequential(nn.Linear(6, 8), Soft(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 2))
    rr.rotate(net, ROWS, gates=[Soft, torch.tanh])
    assert list(rr.slopes(net)) == ["1.slope", "3.slope"]
    net = rr.rotate(Calls(squashed), ROWS, gates=[squashed])
    assert [len(slope) for slope in rr.slopes(net).values()] == [8, 10, 6]
    for slope, value in zip(rr.slopes(net).values(), (2.0, 3.0, 5.0), strict=True):
        slope.data.fill_(value)
    hidden = 3 * squashed(net.b(2 * squashed(net.a(ROWS))))
    torch.testing.assert_close(net(ROWS), net.last(5 * squashed(net.c(hidden))))


def test_what_is_named_must_be_a_gate():
    net = nn.Sequential(nn.Linear(6, 8), Shifted(), nn.Linear(8, 2))
    with pytest.raises(GateError, match=r"Shifted.*gate\(0\) = 1"):
        rr.rotate(net, ROWS, gates=[Shifted])
    with pytest.raises(GateError, match="pass its class"):
        rr.rotate(net, ROWS, gates=[Shifted()])


class SimpleGate(nn.Module):
    def forward(self, x):
        one, other = x.chunk(2, 1)
        return one * other


def test_multiplicative_gates_are_named():
    with pytest.warns(NothingRotatedWarning, match="1 multiply two parts of one tensor"):
        rr.rotate(nn.Sequential(nn.Conv2d(3, 8, 1), SimpleGate(), nn.Conv2d(4, 2, 1)), IMAGE)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), SimpleGate(), nn.Conv2d(4, 6, 1), nn.ReLU(), nn.Conv2d(6, 2, 1))
    with pytest.warns(PlainActivationsWarning, match="1 multiply"):
        rr.rotate(net, IMAGE)
    assert list(rr.slopes(net)) == ["3.slope"]


def test_a_plain_activation_among_gates_is_named():
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 2))
    with pytest.warns(PlainActivationsWarning, match="tanh in 3"):
        rr.rotate(copy.deepcopy(net), ROWS)
    assert len(rr.slopes(rr.rotate(net, ROWS, exclude=["3"]))) == 1
