"""A network is as it was after anything that ran it."""

import functools
from collections import deque

import pytest
import torch
from torch import nn

from rotated_relu.core.errors import CopyError, ShapeError
from rotated_relu.core.modules import Call
from rotated_relu.core.state import check_fit, copy_of, trial, unchanged

TABLES = {}


@functools.lru_cache
def positions(length):
    return torch.arange(length)


class Holder:
    """A cache of its own, as of keys and values."""

    def __init__(self):
        self.seen = 0


class Stateful(nn.Module):
    calls = 0

    def __init__(self, shared):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("memory", torch.zeros(2))
        self.history, self.shared, self.cache = [], shared, {}
        self.recent, self.holder, self.last = deque(maxlen=2), Holder(), None
        self.norm = nn.BatchNorm1d(2)

    def forward(self, x):
        self.count += 1
        self.memory = self.memory + x.detach().mean(0)
        self.history.append(x)
        self.shared[0] = x
        self.cache[len(x)] = x
        self.recent.append(x)
        self.holder.seen += 1
        self.last = x
        type(self).calls += 1
        TABLES[len(x)] = x
        positions(len(x))
        self.weight.data = self.weight.data * 0.5
        self.norm.running_mean.add_(1.0)
        return x * self.weight


def assert_fresh(net, shared):
    assert net.count == 0
    assert not net.memory.any()
    assert net.history == []
    assert net.cache == {}
    assert not net.recent
    assert net.shared is shared
    assert shared == [None]
    assert net.holder.seen == 0
    assert net.last is None
    assert Stateful.calls == 0
    assert net.weight.tolist() == [1, 1]
    assert not net.norm.running_mean.any()
    assert TABLES == {}


def test_unchanged_puts_everything_back():
    shared = [None]
    net = Stateful(shared)
    memory, weight, pointer = net.memory, net.weight, net.weight.data_ptr()
    with unchanged(net):
        net(torch.ones(3, 2))
        assert net.count == 1
    assert_fresh(net, shared)
    assert net.memory is memory
    assert net.weight is weight
    assert weight.data_ptr() == pointer
    assert positions.cache_info().currsize == 0


def test_unchanged_puts_back_after_an_error_too():
    shared = [None]
    net = Stateful(shared)
    with pytest.raises(RuntimeError), unchanged(net):
        net(torch.ones(3, 7))
    assert_fresh(net, shared)


def test_unchanged_puts_back_the_random_numbers():
    torch.manual_seed(0)
    want = torch.rand(2)
    torch.manual_seed(0)
    with unchanged(nn.Dropout()):
        torch.rand(5)
    assert torch.equal(torch.rand(2), want)


def test_a_registry_that_grows_while_a_network_runs_keeps_what_is_no_tensor():
    class Lazy(nn.Module):
        def forward(self, x):
            TABLES["plugin"] = "loaded"
            return x

    Lazy.__module__ = __name__
    try:
        with unchanged(Lazy()):
            Lazy()(torch.ones(1))
        assert TABLES == {"plugin": "loaded"}
    finally:
        TABLES.clear()


def test_trial_runs_in_eval_mode_without_gradients():
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
    with trial(net):
        assert not net.training
        assert not net(torch.ones(3, 2)).requires_grad
    assert net.training


def test_check_fit_names_what_the_network_was_given():
    with pytest.raises(ShapeError, match=r"does not run on the example inputs \(x=\(2, 3\) torch.float32\)"):
        check_fit(nn.Linear(4, 2), Call(x=torch.ones(2, 3)))


def test_copy_of_takes_computed_tensors_along():
    net = nn.Linear(2, 2)
    net.features = net(torch.ones(1, 2))
    net.kept = [net.features, {"twice": net.features * 2}]
    copy = copy_of(net)
    assert torch.equal(copy.features, net.features)
    assert copy.kept[0] is copy.features
    assert copy.features is not net.features
    assert not copy.features.requires_grad


def test_copies_are_ordinary_tensors_also_in_inference_mode():
    with torch.inference_mode():
        copy = copy_of(nn.Linear(2, 2))
    assert not copy.weight.is_inference()
    copy(torch.ones(1, 2)).sum().backward()
    assert copy.weight.grad is not None


def test_what_cannot_be_copied_is_named():
    net = nn.Sequential(nn.Linear(2, 2))
    net[0].stream = (number for number in range(3))
    with pytest.raises(CopyError, match=r"cannot be copied \(0\.stream, generator\)"):
        copy_of(net)
