"""Networks whose code depends on the mode, and what a rotation leaves alone in both modes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import rotated_relu as rr
from rotated_relu.core.errors import RotationError
from support.rotations import IMAGE, ROWS, check, outputs


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
