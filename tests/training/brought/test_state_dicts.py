"""Weights that somebody else wrote: whatever wraps them comes off, nothing in them runs, differences are named."""

import copy
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rotated_relu.core.errors import FileFormatError, PlanError
from rotated_relu.training.brought import fill, read_state_dict
from rotated_relu.training.brought.state_dicts import renamed


def made():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


STATE = made().state_dict()


def prefixed(prefix):
    return {prefix + name: value for name, value in STATE.items()}


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3, "best_prec1": 91.0},
        {"model": STATE, "optimizer": {"state": {}}},
        {"model_state_dict": prefixed("module.")},
        {"state_dict": {"model": prefixed("module._orig_mod.")}},
        {"params": prefixed("_orig_mod.")},
        {
            "state_dict": {name: value + 1 for name, value in STATE.items()},
            "ema": STATE,
        },  # the average is what counts
    ],
    ids=["bare", "state_dict", "model", "module", "nested", "compiled", "average"],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_what_training_scripts_write(tmp_path, content, legacy):
    path = tmp_path / "weights.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    found = read_state_dict(path)
    assert found.keys() == STATE.keys()
    assert all(torch.equal(value, STATE[name]) for name, value in found.items())


def test_safetensors(tmp_path):
    save_file(prefixed("module."), tmp_path / "weights.safetensors")
    assert read_state_dict(tmp_path / "weights.safetensors").keys() == STATE.keys()


class Trap:
    def __reduce__(self):
        return (open, ("/tmp/never-written-by-a-test", "w"))


@pytest.mark.parametrize(
    "content", [Trap(), made(), {"state_dict": {"a": Trap()}}], ids=["call", "module", "inner"]
)
def test_nothing_in_a_file_is_executed(tmp_path, content):
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    with pytest.raises(FileFormatError, match=r"save the weights by themselves"):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such file of weights"),
        (b"", "cannot be read"),
        (b"PK\x03\x04 torn", "cannot be read"),
        (pickle.dumps([1, 2]), "cannot be read|no tensors by name"),
    ],
    ids=["missing", "empty", "torn", "list"],
)
def test_no_weights(tmp_path, content, says):
    path = tmp_path / "weights.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FileFormatError, match=says):
        read_state_dict(path)


@pytest.mark.parametrize("content", [{"epoch": 3}, [torch.zeros(2)], {"state_dict": {"epoch": 3}}])
def test_a_file_without_tensors_by_name(tmp_path, content):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(FileFormatError, match=r"no tensors by name; found"):
        read_state_dict(tmp_path / "weights.pt")


def test_filling_needs_no_batch_counts():
    net = made()
    for value in net.parameters():
        nn.init.zeros_(value)
    fill(net, {name: value for name, value in STATE.items() if "num_batches" not in name})
    assert all(torch.equal(value, STATE[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("3.bias"), r"lack '3.bias' of the network \(1 in all\)"),
        (lambda s: s.update({"head.weight": torch.zeros(1)}), "hold 'head.weight' that it has not"),
        (
            lambda s: s.update({"3.weight": torch.zeros(5, 4)}),
            r"\(5, 4\) in the weights and \(2, 4\) in the network",
        ),
        (
            lambda s: s.update({"linear.weight": s.pop("3.weight"), "linear.bias": s.pop("3.bias")}),
            "if both are the same layer, rename it: linear=3",
        ),
    ],
)
def test_the_first_difference_is_named_and_the_network_stays(change, says):
    net, state = made(), copy.deepcopy(STATE)
    before = copy.deepcopy(net.state_dict())
    change(state)
    with pytest.raises(PlanError, match=says):
        fill(net, {name: value + 1 for name, value in state.items()})
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_renaming_whole_modules():
    found = renamed({"linear.weight": torch.zeros(1), "linear2.weight": torch.zeros(2)}, {"linear": "fc"})
    assert list(found) == ["fc.weight", "linear2.weight"]
    with pytest.raises(PlanError, match=r"begins with 'head'; they begin with a, b"):
        renamed({"a.x": torch.zeros(1), "b": torch.zeros(1)}, {"head": "fc"})
