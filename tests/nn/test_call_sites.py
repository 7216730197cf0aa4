"""Every way in which networks call their gates: each call has slopes of its own, and the network stays what it was."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import rotated_relu as rr
from rotated_relu.core.errors import RotationError
from support.rotations import FUNCTIONS, ROWS, Calls, Child, Embedded, Nested, check, outputs


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_get_slopes_at_every_call(name):
    check(Calls(FUNCTIONS[name]), ROWS, [8, 10, 6])


MODULES = [nn.ReLU, lambda: nn.ReLU(inplace=True), nn.PReLU, nn.SiLU, lambda: nn.GELU("tanh"), nn.Hardswish]


@pytest.mark.parametrize("make", MODULES)
def test_one_module_called_three_times_with_three_widths(make):
    check(Calls(make()), ROWS, [8, 10, 6])


def test_nested_owners():
    check(Nested(), ROWS, [6] * 4 + [5])


def test_excluded_child_of_a_counting_owner():
    net = rr.rotate(Nested(), ROWS, exclude=["child", "inner"])
    assert sorted(rr.slopes(net)) == ["act.slope", "relu_1.slope", "relu_2.slope"]
    for parameter in net.parameters():
        parameter.data.abs_()  # no gate that is closed by chance
    rows = 10 * ROWS.abs()
    before = outputs(net.eval(), rows)
    net.get_parameter("relu_1.slope").data.zero_()
    assert not torch.equal(outputs(net, rows), before)
    net.child.linear.weight.data.zero_()
    assert torch.isfinite(outputs(net, ROWS)).all()


class CalledTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.child, self.last = Child(), nn.Linear(6, 2)

    def forward(self, x):
        return self.last(self.child(self.child(x)))


def test_a_child_called_twice_has_its_slopes_once():
    check(CalledTwice(), ROWS, [6])


class SharedList(nn.Module):
    """Two parents keep one and the same list of gates."""

    class Parent(nn.Module):
        def __init__(self, acts):
            super().__init__()
            self.acts, self.linear = acts, nn.Linear(6, 6)

        def forward(self, x):
            return self.acts[0](self.linear(x))

    def __init__(self):
        super().__init__()
        acts = nn.ModuleList([nn.ReLU()])
        self.one, self.other, self.last = self.Parent(acts), self.Parent(acts), nn.Linear(6, 2)

    def forward(self, x):
        return self.last(self.other(self.one(x)))


def test_a_list_item_shared_by_two_parents():
    check(SharedList(), ROWS, [6, 6])


def test_one_gate_at_two_places_of_a_sequential():
    act = nn.ReLU()
    net = check(nn.Sequential(nn.Linear(6, 8), act, nn.Linear(8, 5), act, nn.Linear(5, 2)), ROWS, [8, 5])
    assert list(rr.slopes(net)) == ["1.slope", "3.slope"]


class SequentialWithMore(nn.Sequential):
    def forward(self, x):
        return F.relu(super().forward(F.relu(x)))


def test_a_sequential_with_a_forward_of_its_own():
    net = nn.Sequential(
        nn.Linear(6, 6), SequentialWithMore(nn.Linear(6, 8), nn.Linear(8, 4)), nn.Linear(4, 2)
    )
    check(net, ROWS, [6, 4])
    assert len(net[1]) == 2


class ClassGate(nn.Module):
    """Calls its gate by an attribute that is no registered child."""

    act = nn.SiLU()

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.b(self.act(self.a(x)))


def test_a_gate_that_belongs_to_the_class():
    check(ClassGate(), ROWS, [8])


def test_functions_in_a_graph_module_are_refused_by_name():
    net = torch.fx.symbolic_trace(Embedded())
    with pytest.raises(RotationError, match=r"relu in the root module .*GraphModule.*before it becomes one"):
        rr.rotate(net, ROWS)


class OnTheFly(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.b(nn.ReLU()(self.a(x)))


def test_a_gate_made_in_forward():
    check(OnTheFly(), ROWS, [8])


class Statement(nn.Module):
    """Works in place and does not use what is returned."""

    def __init__(self, gate):
        super().__init__()
        self.gate, self.a, self.b = gate, nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x):
        x = self.a(x)
        self.gate(x)
        return self.b(x)


@pytest.mark.parametrize("gate", [torch.relu_, lambda x: x.relu_(), nn.ReLU(inplace=True)])
def test_in_place_calls_whose_result_is_not_used(gate):
    net = rr.rotate(Statement(gate), ROWS)
    assert [len(slope) for slope in rr.slopes(net).values()] == [8]
    (slope,) = rr.slopes(net).values()
    slope.data.uniform_(0.5, 2)
    torch.testing.assert_close(net(ROWS), net.b(slope * F.relu(net.a(ROWS))))
    net(ROWS).sum().backward()
    assert slope.grad is not None


class LoopOverRows(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))

    def forward(self, x):
        return torch.stack([F.relu(self.body(row)) for row in x])


def test_more_calls_than_were_seen_are_an_error_not_plain():
    net = rr.rotate(LoopOverRows(), ROWS)
    assert len(rr.slopes(net)) == 1 + 4
    net(ROWS[:2])
    with pytest.raises(RotationError, match="5th time"):
        net(torch.randn(5, 6))
    fresh = rr.rotate(LoopOverRows(), ROWS, exclude=[""])
    assert list(rr.slopes(fresh)) == ["body.1.slope"]
    fresh(torch.randn(5, 6))
