"""Calls as example inputs, wrappers, eval mode."""

import collections
import dataclasses

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import rotated_relu as rr
from rotated_relu.core.errors import ArgumentError, ShapeError
from rotated_relu.core.modules import Call, Flat, as_inputs, eval_mode, unwrap

X, M = torch.ones(2, 3), torch.zeros(2, 1)


def called(*args, **kwargs):
    return args, kwargs


@pytest.mark.parametrize(
    ("given", "args", "kwargs"),
    [
        (X, [X], {}),
        ((X, None, True), [X, None, True], {}),
        ([X, M], [X, M], {}),
        ({"x": X, "mask": M}, [], {"x": X, "mask": M}),
        (((X,), {"mask": M}), [X], {"mask": M}),
        (Call(X, mask=M), [X], {"mask": M}),
        (({"x": X},), [{"x": X}], {}),
        ((X, {"mask": M}), [X, {"mask": M}], {}),
        (([X], {"mask": M}), [[X], {"mask": M}], {}),
        (collections.UserDict(x=X), [], {"x": X}),
    ],
)
def test_each_form_is_one_call(given, args, kwargs):
    found_args, found_kwargs = as_inputs(given).run(called)
    assert repr(found_args) == repr(tuple(args))
    assert repr(found_kwargs) == repr(kwargs)


def test_call_is_public():
    assert rr.Call is Call


@pytest.mark.parametrize("given", [None, "x", 3, {1: X}, {X}])
def test_what_is_no_call_is_refused(given):
    with pytest.raises(ShapeError, match="example_inputs must be a tensor, a tuple"):
        as_inputs(given)


@pytest.mark.parametrize("given", [(), {}, (None, True), Call()])
def test_a_call_without_a_tensor_is_refused(given):
    with pytest.raises(ShapeError, match="hold no tensor"):
        as_inputs(given)


def test_an_empty_batch_is_refused_but_not_an_empty_tensor_beside_it():
    with pytest.raises(ShapeError, match=r"batch of the example inputs is empty \(\(0, 3\) torch.float32\)"):
        as_inputs(torch.zeros(0, 3))
    assert as_inputs((X, torch.zeros(0, 4))).batch_size == 2


def test_run_passes_copies():
    x = torch.ones(3)
    Call([x], y={"z": x}).run(lambda xs, y: (xs[0].mul_(2), y["z"].add_(1)))
    assert x.tolist() == [1, 1, 1]


def test_copies_are_plain_also_of_inference_tensors():
    with torch.inference_mode():
        x = torch.ones(3)
    with torch.inference_mode(False):
        (copy,) = Call(x).copied().tensors
    assert not copy.is_inference()


def test_of_size_repeats_what_has_the_batch():
    call = Call(torch.arange(2), torch.zeros(3), scale=torch.tensor(1.0)).of_size(5)
    assert call.args[0].tolist() == [0, 1, 0, 1, 0]
    assert call.args[1].shape == (3,)
    assert call.kwargs["scale"].dim() == 0


def test_described_names_shapes_and_flags():
    call = Call(X, None, [M, 1], mask=True)
    assert call.described() == "(2, 3) torch.float32, None, list[(2, 1) torch.float32], mask=True"


@dataclasses.dataclass(frozen=True)
class Output:
    logits: torch.Tensor
    cache: list | None = None


class Nested(nn.Module):
    def forward(self, batch, *, scale=None):
        return {"out": Output(batch["x"] * scale, [batch["x"], None]), "flag": True}


def test_flat_takes_and_returns_tensors_alone():
    flat = Flat(Nested(), Call({"x": X, "name": "a"}, scale=M))
    first, second = flat(torch.full((2, 3), 2.0), torch.full((2, 1), 3.0))
    assert first.unique().tolist() == [6.0]
    assert second.unique().tolist() == [2.0]


def test_unwrap_takes_off_every_wrapper():
    net = nn.Linear(1, 1)
    wrapped = nn.DataParallel(torch.compile(net, backend="eager"))
    assert unwrap(wrapped) is net
    assert unwrap(net) is net
    averaged = AveragedModel(net)
    assert unwrap(averaged) is averaged.module


def test_a_network_of_ones_own_with_a_child_named_module_is_no_wrapper():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.Linear(1, 1)

    own = Own()
    assert unwrap(own) is own


@pytest.mark.parametrize("net", [None, "resnet18", {}, lambda x: x])
def test_what_is_no_network_is_refused(net):
    with pytest.raises(ArgumentError, match=r"must be a torch\.nn\.Module"):
        unwrap(net)


class Merging(nn.Module):
    """Adds a low-rank update to its weight for eval mode, and takes it off for training (LoRA)."""

    def __init__(self):
        super().__init__()
        self.weight, self.update = nn.Parameter(torch.ones(2)), torch.full((2,), 0.5)
        self.merged = False

    def train(self, mode=True):
        if mode == self.merged:
            self.weight.data += -self.update if mode else self.update
            self.merged = not mode
        return super().train(mode)


def test_eval_mode_ends_by_the_networks_own_method():
    net = Merging()
    with eval_mode(net):
        assert net.weight.tolist() == [1.5, 1.5]
    assert net.training
    assert net.weight.tolist() == [1.0, 1.0]


def test_eval_mode_restores_each_flag():
    net = nn.Sequential(nn.BatchNorm1d(2).eval(), nn.Dropout())
    with eval_mode(net):
        assert not net[1].training
    assert [module.training for module in net.modules()] == [True, False, True]
