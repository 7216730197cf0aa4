"""Example inputs as plain data."""

import json

import pytest
import torch

from rotated_relu.core.errors import PlanError
from rotated_relu.core.modules import Call
from rotated_relu.pruning.removal.recorded_inputs import record, replay

CPU = torch.device("cpu")


def test_any_plain_call_comes_back():
    call = Call(
        torch.ones(2, 3), None, [torch.ones(1, dtype=torch.int64), (True, 0.5)], mask={"a": torch.ones(2)}
    )
    again = replay(json.loads(json.dumps(record(call))), CPU)
    x, none, nested = again.args
    assert x.shape == (2, 3)
    assert x.dtype == torch.float32
    assert not x.any()
    assert none is None
    assert nested[0].dtype == torch.int64
    assert nested[1] == (True, 0.5)
    assert again.kwargs["mask"]["a"].shape == (2,)


def test_tensors_are_recorded_as_ever():
    assert record(Call(torch.ones(1, 3))) == [{"shape": [1, 3], "dtype": "float32"}]


def test_an_object_is_named_and_asks_to_rotate_first():
    class Batch:
        def __init__(self):
            self.x = torch.ones(1)

    with pytest.raises(
        PlanError, match=r"takes a .*Batch that the file does not hold: rotate it first, .*rotate\(net"
    ):
        replay(json.loads(json.dumps(record(Call(Batch())))), CPU)


@pytest.mark.parametrize(
    "item",
    [
        {"shape": [10**12], "dtype": "float32"},
        {"shape": [-1], "dtype": "float32"},
        {"shape": "big", "dtype": "float32"},
        {"shape": [1], "dtype": "load"},
        {"shape": [1]},
        {},
        "x",
        3,
    ],
)
def test_damaged_records_are_refused(item):
    with pytest.raises(PlanError):
        replay([item], CPU)
