"""``torch.jit.script`` hides calls from everything that looks at them: never in silence."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rotated_relu as rr
from rotated_relu.core.errors import CaptureError, PlainActivationsWarning, RotationError

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:")


def gelu_of_mine(x: Tensor) -> Tensor:
    return x * 0.5 * (1.0 + torch.erf(x / 1.41421))


def joined(x: Tensor, y: Tensor) -> Tensor:
    return torch.relu(x + y)


def scaled(x: Tensor) -> Tensor:
    return x * 2.0


@pytest.fixture
def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script


class Between(nn.Module):
    """A function between two layers, and a gate after them."""

    def __init__(self, between, gate=F.relu):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.between, self.gate = between, gate

    def forward(self, x):
        return self.last(self.gate(self.second(self.between(self.first(x)))))


X = torch.randn(2, 4)


def test_a_gate_behind_a_script_function_is_found(scripted):
    net = rr.rotate(Between(scripted(scaled)), X)
    assert [slope.numel() for slope in rr.slopes(net).values()] == [8]


def test_a_script_function_that_is_a_gate_is_named(scripted):
    net = Between(scripted(gelu_of_mine))
    with pytest.raises(RotationError, match=r"script function gelu_of_mine.*take torch.jit.script away"):
        rr.rotate(net, X)
    assert rr.slopes(net) == {}


def test_what_is_said_about_a_script_function_works(scripted):
    net = Between(scripted(gelu_of_mine))
    expected = net(X)
    rr.rotate(net, X, exclude=["gate_1"])
    assert [slope.numel() for slope in rr.slopes(net).values()] == [8]
    torch.testing.assert_close(net(X), expected)


def test_an_activation_inside_a_script_function_is_named(scripted):
    function = scripted(joined)
    net = Between(lambda y: function(y, y), gate=F.silu)
    with pytest.warns(PlainActivationsWarning, match="script functions joined in the root module"):
        rr.rotate(net, X)
    assert [slope.numel() for slope in rr.slopes(net).values()] == [8]


def test_the_same_function_inside_and_beside_a_script_function_is_refused(scripted):
    function = scripted(joined)
    net = Between(lambda y: function(y, y))
    with pytest.raises(RotationError, match="joined beside it calls relu too"):
        rr.rotate(net, X)


def test_a_module_that_wraps_a_script_function_keeps_it(scripted):
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.function = scripted(gelu_of_mine)

        def forward(self, x):
            return self.function(x)

    net = nn.Sequential(nn.Linear(4, 8), Wrapper(), nn.Linear(8, 3))
    expected = net(X)
    rr.rotate(net, X)
    assert list(rr.slopes(net)) == ["1.slope"]
    torch.testing.assert_close(net(X), expected)


def test_a_script_module_is_named(scripted):
    inner = scripted(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    with pytest.raises(CaptureError, match=r"1 went through torch\.jit"):
        rr.rotate(nn.Sequential(nn.Linear(4, 4), inner, nn.Linear(4, 4), nn.ReLU()), X)


def test_script_functions_are_as_before_afterwards(scripted):
    before = torch.jit.ScriptFunction.__call__
    rr.rotate(Between(scripted(scaled)), X)
    assert torch.jit.ScriptFunction.__call__ is before
