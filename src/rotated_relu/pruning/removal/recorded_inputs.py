"""Example inputs as plain data, so that a plan can say on what a network runs.

A tensor is ``{"shape": [2, 3], "dtype": "float32"}``, a container ``{"list": [...]}``, ``{"tuple": [...]}`` or
``{"dict": {...}}``, all else that JSON holds ``{"value": ...}``, anything other ``{"class": "..."}``. A keyword
argument also has a ``"name"``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...core.errors import PlanError
from ...core.modules import Call

MOST = 2**28  # entries of one tensor; a file may ask for any size
_SEQUENCES = {"list": list, "tuple": tuple}


def record(call: Call) -> list[dict[str, Any]]:
    """The arguments of a call, shapes in the places of tensors."""
    named = [{**_recorded(value), "name": name} for name, value in call.kwargs.items()]
    return [*map(_recorded, call.args), *named]


def replay(recorded: Sequence[Mapping[str, Any]], device: torch.device) -> Call:
    """A call of the same kind on zeros.

    Raises:
        PlanError: If an argument is of a class that plain data cannot hold, or the data are no record.
    """
    values = [_replayed(item, device) for item in recorded]
    args = [value for value, item in zip(values, recorded, strict=True) if "name" not in item]
    kwargs = {
        str(item["name"]): value for value, item in zip(values, recorded, strict=True) if "name" in item
    }
    return Call(*args, **kwargs)


def _recorded(value: Any) -> dict[str, Any]:
    if isinstance(value, Tensor):
        return {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_recorded(item) for item in value]}
    if type(value) is dict and all(isinstance(key, str) for key in value):
        return {"dict": {key: _recorded(item) for key, item in value.items()}}
    return {"class": type(value).__qualname__}


def _replayed(item: Any, device: torch.device) -> Any:
    if not isinstance(item, Mapping):
        raise PlanError(f"the plan's inputs cannot be read: {item!r}")
    if "shape" in item:
        return _zeros(item, device)
    for kind, make in _SEQUENCES.items():
        if isinstance(item.get(kind), list):
            return make(_replayed(part, device) for part in item[kind])
    if isinstance(item.get("dict"), dict):
        return {key: _replayed(part, device) for key, part in item["dict"].items()}
    if "value" in item:
        return item["value"]
    raise PlanError(
        f"the network takes a {item.get('class', 'value')} that the file does not hold: rotate it first, with "
        "rotated_relu.rotate(net, example_inputs), and load into the rotated network"
    )


def _zeros(item: Mapping[str, Any], device: torch.device) -> Tensor:
    shape, dtype = item["shape"], getattr(torch, str(item.get("dtype")), None)
    sizes = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    if not sizes or not isinstance(dtype, torch.dtype) or math.prod(shape) > MOST:
        raise PlanError(f"the plan's inputs cannot be read: {dict(item)!r} describes no tensor")
    return torch.zeros(shape, dtype=dtype, device=device)
