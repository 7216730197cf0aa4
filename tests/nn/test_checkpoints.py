"""Gates inside ``torch.utils.checkpoint``, which runs a part of the forward once more in the backward pass."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import rotated_relu as rr
from rotated_relu.core.errors import RotationError
from support.rotations import ROWS, Child


class Checkpointed(nn.Module):
    """In train mode through a checkpoint, in eval mode without; a plain call of the same function before it."""

    def __init__(self, reentrant):
        super().__init__()
        self.reentrant = reentrant
        self.first, self.child, self.act, self.last = nn.Linear(6, 6), Child(), nn.ReLU(), nn.Linear(6, 2)

    def _hidden(self, x):
        return self.act(self.child(x) - 0.1)

    def _rest(self, x):
        return self._hidden(x)

    def forward(self, x):
        x = F.relu(self.first(x))
        if self.training:
            return self.last(checkpoint(self._rest, x, use_reentrant=self.reentrant))
        return self.last(self._rest(x))


class Function(Checkpointed):
    def _hidden(self, x):
        return F.relu(self.child(x) - 0.1)


class Loop(Checkpointed):
    def _hidden(self, x):
        for _ in range(3):
            x = F.silu(F.relu(self.child(x) - 0.1))
        return x


class SharedModule(Checkpointed):
    def _hidden(self, x):
        return self.act(self.child(self.act(self.child(x) - 0.1)) + 0.1)


class Composed(Checkpointed):
    def _hidden(self, x):
        x = self.child(x)
        return self.child(x * torch.sigmoid(x))


class InClosure(Checkpointed):
    """As torchvision's DenseNet: an inner function that calls a method."""

    def _rest(self, x):
        def closure(y):
            return self._hidden(y)

        if self.training:
            return checkpoint(closure, x, use_reentrant=self.reentrant)
        return closure(x)

    def _hidden(self, x):
        return F.relu(self.child(x) - 0.1)

    def forward(self, x):
        return self.last(self._rest(F.relu(self.first(x))))


class TwoMethods(Checkpointed):
    def _hidden(self, x):
        return F.relu(self.child(x) - 0.1)

    def _other(self, x):
        return F.gelu(F.relu(self.child(x) + 0.1))

    def forward(self, x):
        x = super().forward(x)
        x = torch.cat([x, x, x], 1)
        x = checkpoint(self._other, x, use_reentrant=self.reentrant) if self.training else self._other(x)
        return self.last(x)


SITES = {Checkpointed: 3, Function: 3, Loop: 8, SharedModule: 4, Composed: 3, InClosure: 3, TwoMethods: 5}


def gradients(net, x):
    net.zero_grad()
    x = x.clone().requires_grad_()
    output = net(x)
    output.square().sum().backward()
    found = {name: value.grad for name, value in net.named_parameters() if value.grad is not None}
    return output.detach(), {**found, "x": x.grad}


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("kind", SITES)
def test_gradients_are_those_without_checkpoints(kind, reentrant):
    torch.manual_seed(0)
    net = kind(reentrant)
    names = set(net.state_dict())
    assert rr.rotate(net, ROWS) is net
    assert isinstance(net, kind)
    assert len(rr.slopes(net)) == SITES[kind]
    assert names < set(net.state_dict())
    for number, slope in enumerate(rr.slopes(net).values()):
        slope.data.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(number))
    net = copy.deepcopy(net)
    wanted, without = gradients(net.eval(), ROWS)
    output, found = gradients(net.train(), ROWS)
    torch.testing.assert_close(output, wanted)
    assert found.keys() == without.keys()
    assert len([name for name in found if name.endswith("slope")]) == SITES[kind]
    for name, value in without.items():
        assert value.abs().max() > 0
        torch.testing.assert_close(found[name], value, msg=name)


@pytest.mark.parametrize("kind", [Function, SharedModule])
def test_they_are_compacted_as_any_other(kind):
    net = rr.rotate(kind(False), ROWS)
    for slope in rr.slopes(net).values():
        slope.data[:2] = 0.0
    small = rr.compact(net, ROWS, threshold=1e-3).model
    with torch.no_grad():
        torch.testing.assert_close(small.eval()(ROWS), net.eval()(ROWS), rtol=1e-4, atol=1e-5)
    assert sum(value.numel() for value in small.parameters()) < sum(v.numel() for v in net.parameters())
    output, found = gradients(small.train(), ROWS)
    torch.testing.assert_close(output, small.eval()(ROWS))
    for name, value in gradients(small.eval(), ROWS)[1].items():
        torch.testing.assert_close(found[name], value, msg=name)


class Lambda(Checkpointed):
    def _rest(self, x):
        return x

    def forward(self, x):
        return self.last(checkpoint(lambda y: F.relu(self.child(y) - 0.1), x, use_reentrant=self.reentrant))


class SharedInLambda(Lambda):
    def forward(self, x):
        return self.last(
            checkpoint(lambda y: self.act(self.child(self.act(y))), x, use_reentrant=self.reentrant)
        )


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize(
    ("kind", "names", "left"),
    [
        (Lambda, ["relu_1"], ["child.relu_1.slope"]),
        (SharedInLambda, ["act_1", "act_2"], ["child.relu_1.slope"]),
    ],
)
def test_an_inner_function_is_refused_and_the_advice_works(kind, names, left, reentrant):
    net = kind(reentrant)
    with pytest.raises(RotationError, match=r"checkpoint a method of the module.*exclude=") as caught:
        rr.rotate(net, ROWS)
    assert f"exclude={names!r}" in str(caught.value)
    assert not rr.slopes(net)
    net = rr.rotate(net, ROWS, exclude=names)
    assert list(rr.slopes(net)) == left


class Twice(Checkpointed):
    def _hidden(self, x):
        return F.relu(self.child(x) - 0.1)

    def forward(self, x):
        for _ in range(2):
            x = checkpoint(self._rest, x, use_reentrant=self.reentrant)
        return self.last(x)


def test_a_method_run_several_times_is_refused_and_the_advice_works():
    net = Twice(False)
    with pytest.raises(RotationError, match=r"runs _rest several times.*exclude=") as caught:
        rr.rotate(net, ROWS)
    assert not rr.slopes(net)
    names = str(caught.value).partition("exclude=")[2]
    net = rr.rotate(net, ROWS, exclude=["relu_1", "relu_2"])
    assert "relu_2" in names
    assert list(rr.slopes(net)) == ["child.relu_1.slope"]
