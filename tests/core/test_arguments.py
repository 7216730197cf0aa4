"""Functions that are held to their annotations."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rotated_relu.core.arguments import (
    accepts,
    check_fields,
    checked,
    checked_fields,
    need_count,
    need_number,
)
from rotated_relu.core.errors import ArgumentError

if TYPE_CHECKING:
    from nowhere import Unknown


@checked("free")
def function(
    net: nn.Module,
    count: int = 1,
    share: float = 0.5,
    names: Collection[str] = (),
    path: str | os.PathLike[str] = "",
    free: int = 0,
    unknown: Unknown | None = None,
) -> str:
    return "called"


NET = nn.Identity()


def test_right_arguments_pass():
    scalar = torch.tensor(0.5)
    assert function(NET, np.int64(3), np.float32(0.5), ["a"], Path("x"), "whatever", object()) == "called"
    assert function(NET, share=scalar, names={"a"}) == "called"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"net": None}, "function: net must be a torch.nn.Module, got None"),
        ({"net": nn.ReLU}, "net must be a torch.nn.Module, got type"),
        ({"count": 0.5}, "count must be a whole number, got 0.5"),
        ({"count": True}, "count must be a whole number, got True"),
        ({"share": "0.5"}, "share must be a number, got '0.5'"),
        ({"share": torch.zeros(2)}, "share must be a number, got Tensor"),
        ({"names": "layer1"}, "names must be a collection of text, got 'layer1'"),
        ({"names": ["a", None]}, "names must be a collection of text, got a list with None"),
        ({"path": 3}, "path must be text or a path, got 3"),
    ],
)
def test_wrong_arguments_are_named(given, message):
    with pytest.raises(ArgumentError, match=f"{message}$"):
        function(**{"net": NET, **given})


def test_the_number_of_arguments_is_python_s():
    with pytest.raises(TypeError, match="missing 1 required positional argument") as caught:
        function()
    assert not isinstance(caught.value, ArgumentError)


@pytest.mark.parametrize(
    ("hint", "right", "wrong"),
    [
        (Callable[[int], int] | None, [None, len], [3]),
        (Mapping[str, Tensor], [{}, {"a": torch.zeros(1)}], [[], {"a": 1}, {1: torch.zeros(1)}]),
        (Sequence[float], [(), [1, 2.5]], ["ab", [None], 3.0]),
        (Literal["a", "b"], ["a"], ["c", 1]),
        (type(None), [None], [0]),
    ],
)
def test_kinds(hint, right, wrong):
    assert all(accepts(hint, value) for value in right)
    assert not any(accepts(hint, value) for value in wrong)


@checked_fields()
@dataclass
class Record:
    sizes: list[int]
    name: str = ""


def test_fields_of_a_record():
    with pytest.raises(
        ArgumentError, match="Record: sizes must be a list of a whole number, got a list with 'x'"
    ):
        Record([1, "x"])
    record = Record([1])
    record.name = None
    with pytest.raises(ArgumentError, match="name must be text, got None"):
        check_fields(record)


def test_counts_and_numbers():
    assert need_count(np.int32(2), "n") == 2
    assert need_number(torch.tensor(2.5), "x") == 2.5
    for wrong in (0, 1.5, True, None):
        with pytest.raises(ArgumentError, match="n must be a whole number of at least 1"):
            need_count(wrong, "n")
