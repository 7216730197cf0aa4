"""Every way in which networks call their gates: each call has slopes of its own, and the network stays what it was."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import nn

import rotated_relu as rr
from rotated_relu.core.errors import (
    GateError,
    NothingRotatedWarning,
    PlainActivationsWarning,
    RotationError,
    UnknownNameError,
)

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


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_get_slopes_at_every_call(name):
    check(Calls(FUNCTIONS[name]), ROWS, [8, 10, 6])


MODULES = [nn.ReLU, lambda: nn.ReLU(inplace=True), nn.PReLU, nn.SiLU, lambda: nn.GELU("tanh"), nn.Hardswish]


@pytest.mark.parametrize("make", MODULES)
def test_one_module_called_three_times_with_three_widths(make):
    check(Calls(make()), ROWS, [8, 10, 6])


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


class Embedded(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.b(F.relu(self.a(x)))


DIMS = {
    "permuted": (lambda x: x.permute(0, 2, 3, 1), 3),
    "squeezed": (lambda x: x.mean((2, 3)), 1),
    "flattened": (lambda x: x.flatten(2), 1),
    "moved": (lambda x: x.movedim(1, -1), 3),
    "first row": (lambda x: x[:, :, 0], 1),
    "stacked rows": (lambda x: x.unbind(2)[0].transpose(1, 2), 2),
    "interpolated": (lambda x: F.interpolate(x, scale_factor=2), 1),
    "pooled": (lambda x: F.max_pool2d(x, 2), 1),
    "padded": (lambda x: F.pad(x, (1, 1)), 1),
    "new axis": (lambda x: x[:, None], 2),
}


class Moved(nn.Module):
    def __init__(self, move):
        super().__init__()
        self.move, self.conv = move, nn.Conv2d(3, 5, 1)

    def forward(self, x):
        return F.relu(self.move(self.conv(x)))


@pytest.mark.parametrize("name", DIMS)
def test_channels_are_followed_through_what_moves_them(name):
    move, dim = DIMS[name]
    x = torch.randn(2, 3, 6, 8)
    net = rr.rotate(Moved(move), x)
    (slope,) = rr.slopes(net).values()
    assert slope.shape == (5,)  # no other dimension is 5 long
    assert net.relu_1.channel_dim % net(x).dim() == dim


def test_unknown_channels_are_asked_for():
    with pytest.raises(RotationError, match=r"channel_dim=\{'0': 1\}.*exclude=\['0'\]"):
        rr.rotate(nn.Sequential(nn.ReLU()), IMAGE)
    for given in (1, -3, {"0": 1}):
        net = rr.rotate(nn.Sequential(nn.ReLU()), IMAGE, channel_dim=given)
        assert [len(slope) for slope in rr.slopes(net).values()] == [3]


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


class Auxiliary(nn.Module):
    """A branch that only training takes, before a gate that both modes call."""

    def __init__(self, mode):
        super().__init__()
        self.mode = mode
        self.a, self.b, self.aux = nn.Linear(6, 8), nn.Linear(8, 2), nn.Linear(6, 8)

    def forward(self, x):
        extra = 0.0
        if self.training is self.mode:
            extra = F.relu(self.aux(x)).sum() * 0.1
        return self.b(F.relu(self.a(x))) + extra


@pytest.mark.parametrize("mode", [True, False])
def test_a_branch_of_one_mode_has_slopes_too(mode):
    net = rr.rotate(Auxiliary(mode), ROWS)
    assert len(rr.slopes(net)) == 2
    used = []
    for training in (mode, not mode):
        net.train(training).zero_grad(set_to_none=True)
        net(ROWS).sum().backward()
        used.append(frozenset(name for name, slope in rr.slopes(net).items() if slope.grad is not None))
    assert len(used[0]) == 2
    assert len(used[1]) == 1  # the gate of both modes keeps its own slopes in both


class DropPath(nn.Module):
    """Stochastic depth, which multiplies in train mode only, below an owner that counts products."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.drop = nn.Linear(6, 6), nn.Linear(6, 2), self.Drop()

    class Drop(nn.Module):
        def forward(self, x):
            if not self.training:
                return x
            return x / 0.5 * torch.empty(x.shape[0], 1).bernoulli_(0.5)

    class Mask(nn.Module):
        def forward(self, x):
            return x * 2 if self.training else x

    def forward(self, x):
        x = x + self.drop(self.a(x))
        x = x * torch.sigmoid(x)
        return self.b(x)


def test_stochastic_depth_is_not_refused():
    check(DropPath(), ROWS, [6])


def test_lp_pool_contains_no_site():
    class Pool(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv1d(3, 8, 3), nn.Conv1d(8, 2, 1)

        def forward(self, x):
            return self.b(F.lp_pool1d(F.relu(self.a(x)), 2, 2))

    net = rr.rotate(Pool(), torch.randn(2, 3, 12))
    assert [len(slope) for slope in rr.slopes(net).values()] == [8]


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.reentrant = reentrant
        self.child, self.act, self.last = Child(), nn.ReLU(), nn.Linear(6, 2)

    def _hidden(self, x):
        return self.act(self.child(x) - 0.1)

    def forward(self, x):
        if self.training:
            return self.last(torch.utils.checkpoint.checkpoint(self._hidden, x, use_reentrant=self.reentrant))
        return self.last(self._hidden(x))


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_of_modules(reentrant):
    net = rr.rotate(Checkpointed(reentrant), ROWS).train()
    assert len(rr.slopes(net)) == 2
    x = ROWS.clone().requires_grad_()
    net(x).sum().backward()
    with_checkpoints = [slope.grad.clone() for slope in rr.slopes(net).values()]
    net.eval().zero_grad()
    net(x).sum().backward()
    for got, slope in zip(with_checkpoints, rr.slopes(net).values(), strict=True):
        torch.testing.assert_close(got, slope.grad)


class CheckpointedFunction(Checkpointed):
    def _hidden(self, x):
        return F.relu(self.child(x) - 0.1)


def test_a_function_inside_a_checkpoint_is_refused_by_name():
    net = CheckpointedFunction(False)
    with pytest.raises(RotationError, match=r"checkpoint.*exclude=\['relu_1'"):
        rr.rotate(net, ROWS)
    assert not rr.slopes(net)
    net = rr.rotate(net, ROWS, exclude=["relu_1"])
    assert list(rr.slopes(net)) == ["child.relu_1.slope"]


@pytest.mark.parametrize("activation", ["relu", "gelu", F.relu, nn.GELU(), F.silu])
@pytest.mark.parametrize("batch_first", [True, False])
def test_transformer_encoder_layers_use_their_slopes_in_eval_mode_too(activation, batch_first):
    layer = nn.TransformerEncoderLayer(8, 2, 12, 0.0, activation, batch_first=batch_first)
    x = torch.randn(3, 4, 8)
    net = rr.rotate(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval(), x)
    assert [len(slope) for slope in rr.slopes(net).values()] == [12, 12]
    before = outputs(net, x)
    for slope in rr.slopes(net).values():
        slope.data.zero_()
    assert not torch.allclose(outputs(net, x), before)


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


class Embedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x, *rest, embed=False, **more):
        hidden = F.relu(self.a(x))
        return hidden if embed else self.b(F.relu(hidden - 0.1))


def test_arguments_pass_as_before():
    net = rr.rotate(Embedding(), ROWS)
    assert net(ROWS, 1, 2, embed=True, other=None).shape == (4, 8)


def test_compiles_as_one_graph():
    net = rr.rotate(Nested(), ROWS).eval()
    compiled = torch.compile(copy.deepcopy(net), fullgraph=True, backend="eager")
    torch.testing.assert_close(outputs(compiled, ROWS), outputs(net, ROWS))
    exported = torch.export.export(net, (ROWS,), strict=True).module()
    torch.testing.assert_close(outputs(exported, ROWS), outputs(net, ROWS))


@pytest.mark.parametrize("name", ["F.relu", "quick gelu", "tanh gelu", "silu in place"])
def test_composed_gates_compile_as_one_graph(name):
    net = rr.rotate(Calls(FUNCTIONS[name]), ROWS).eval()
    for slope in rr.slopes(net).values():
        slope.data.uniform_(0.5, 2)
    compiled = torch.compile(copy.deepcopy(net), fullgraph=True, backend="eager")
    torch.testing.assert_close(outputs(compiled, ROWS), outputs(net, ROWS))


@pytest.mark.parametrize("make", [lambda: Calls(F.relu), lambda: Calls(FUNCTIONS["silu"]), Nested])
def test_folded_for_training_computes_the_same(make):
    net = rr.rotate(make(), ROWS, init="published").train()
    want = net(ROWS)
    want.sum().backward()
    gradients = [slope.grad.clone() for slope in rr.slopes(net).values()]
    net.zero_grad()
    rr.fast_training(net, ROWS)
    got = net(ROWS)
    torch.testing.assert_close(got, want)
    got.sum().backward()
    for one, slope in zip(gradients, rr.slopes(net).values(), strict=True):
        torch.testing.assert_close(one, slope.grad)


def test_saved_and_loaded_into_a_network_without_slopes(tmp_path):
    for make in (lambda: Calls(F.relu), lambda: Calls(FUNCTIONS["silu"]), Nested):
        net = rr.rotate(make(), ROWS)
        for slope in rr.slopes(net).values():
            slope.data[:3] = 0.0
        result = rr.compact(net, ROWS, threshold=0.1)
        loaded = rr.load(rr.save(result, tmp_path / "small.safetensors"), make())
        assert torch.equal(outputs(loaded.eval(), ROWS), outputs(result.model.eval(), ROWS))


def test_state_dicts_of_rotated_networks_fit_each_other():
    one, other = rr.rotate(Nested(), ROWS, init="published"), rr.rotate(Nested(), ROWS)
    other.load_state_dict(one.state_dict())
    assert torch.equal(outputs(one.eval(), ROWS), outputs(other.eval(), ROWS))
    plain = Nested()
    missing = one.load_state_dict(plain.state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert all(name.endswith(".slope") for name in missing.missing_keys)


def test_hooks_of_a_swapped_gate_stay_and_can_be_removed():
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    seen = []
    handle = net[1].register_forward_hook(lambda module, args, output: seen.append(output))
    rr.rotate(net, ROWS)
    seen.clear()
    net[1].slope.data.fill_(3.0)
    net(ROWS)
    assert len(seen) == 1
    assert torch.equal(seen[0], 3 * F.relu(net[0](ROWS)))
    handle.remove()
    net(ROWS)
    assert len(seen) == 1


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


class Conflicting(nn.Module):
    """Which of its calls comes first depends on an argument."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x, first=True):
            if first:
                x = F.relu(self.a(x))
            return F.relu(self.b(x))

    def __init__(self):
        super().__init__()
        self.block, self.act, self.last = self.Block(), nn.ReLU(), nn.Linear(6, 2)

    def forward(self, x):
        return self.last(self.act(self.block(self.block(x), first=False) - 0.1))


def test_calls_in_another_order_are_refused_and_nothing_changes():
    net = Conflicting()
    modules, classes = dict(net.named_modules()), [type(module) for module in net.modules()]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(RotationError, match="another order") as refused:
        rr.rotate(net, ROWS)
    assert dict(net.named_modules()) == modules
    assert [type(module) for module in net.modules()] == classes
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    names = [name for name in ("block.relu_1", "block.relu_2") if name in str(refused.value)]
    rr.rotate(net, ROWS, exclude=names)
    assert list(rr.slopes(net)) == ["act.slope"]


def test_statistics_of_norms_do_not_move():
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1)).train()
    rr.rotate(net, IMAGE)
    assert int(net[1].num_batches_tracked) == 0
    assert torch.equal(net[1].running_mean, torch.zeros(8))
    assert net.training
    assert net[2].training


def test_random_state_does_not_move():
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 2))
    torch.manual_seed(3)
    want = torch.rand(3)
    torch.manual_seed(3)
    rr.rotate(net, ROWS)
    assert torch.equal(torch.rand(3), want)


def test_under_no_grad_and_inference_mode():
    for mode in (torch.no_grad, torch.inference_mode):
        net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
        with mode():
            rr.rotate(net, torch.randn(2, 6))
        net(ROWS).sum().backward()
        assert net[1].slope.grad is not None


def test_starts():
    net = rr.rotate(nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 2)), ROWS, init="published")
    assert {1.0, -1.0} == set(net[1].slope.sign().tolist())
    with pytest.raises(UnknownNameError, match="start of slopes 'twos'"):
        rr.rotate(nn.Sequential(nn.Linear(6, 8), nn.ReLU()), ROWS, init="twos")


def test_data_parallel_networks_are_rotated_inside():
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
    wrapped = nn.DataParallel(net)
    assert rr.rotate(wrapped, ROWS) is wrapped
    assert list(rr.slopes(net)) == ["1.slope"]


@pytest.fixture
def one_process(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_distributed_networks_are_rotated_before_they_are_wrapped(one_process):
    wrapped = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(6, 8), nn.ReLU()))
    with pytest.raises(RotationError, match=r"DistributedDataParallel.*rotate the network first"):
        rr.rotate(wrapped, ROWS)
    net = nn.parallel.DistributedDataParallel(rr.rotate(Nested(), ROWS))
    net(ROWS).sum().backward()
    assert all(slope.grad is not None for slope in rr.slopes(net.module).values())


def test_a_compiled_network_is_rotated_inside():
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    compiled = torch.compile(net, backend="eager")
    compiled(ROWS)
    assert rr.rotate(compiled, ROWS) is compiled
    net[1].slope.data.zero_()
    torch.testing.assert_close(compiled(ROWS), net(ROWS))
