"""Tensors inside other values: lists, tuples, dicts, dataclasses, plain objects.

torch's own pytrees know only the classes that were registered with them; what a network takes or returns may be of any
class. Ensures: :func:`mapped` meets the tensors in the order of :func:`tensors_in`, and changes no value in place.
"""

from __future__ import annotations

import copy
import dataclasses
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

# Objects of these kinds are passed on as they are, whatever they hold.
_OPAQUE = (type, types.ModuleType, types.FunctionType, types.MethodType, types.BuiltinFunctionType, nn.Module)


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors inside a value, in order."""
    return list(_walk(value, set()))


def mapped(change: Callable[[Tensor], Any], value: Any) -> Any:
    """The same value with every tensor in it replaced."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(change, item) for item in value))
    if isinstance(value, (list, tuple)):
        items = [mapped(change, item) for item in value]
        return items if type(value) is list else _rebuilt(value, items)
    if isinstance(value, Mapping):
        return _with_items(value, {key: mapped(change, item) for key, item in value.items()})
    fields = _fields(value)
    if any(map(tensors_in, fields.values())):
        fresh = copy.copy(value)
        for name, item in fields.items():
            object.__setattr__(fresh, name, mapped(change, item))
        return fresh
    return value


def _walk(value: Any, above: set[int]) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
        return
    if id(value) in above:
        return
    above = above | {id(value)}
    if isinstance(value, (list, tuple)):
        items: Any = value
    elif isinstance(value, Mapping):
        items = value.values()
    else:
        items = _fields(value).values()
    for item in items:
        yield from _walk(item, above)


def _fields(value: Any) -> dict[str, Any]:
    """Attributes of a plain object."""
    if isinstance(value, _OPAQUE):
        return {}
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return dict(getattr(value, "__dict__", {}))


def _rebuilt(value: Any, items: list[Any]) -> Any:
    """A sequence of the same class; ``torch.Size`` and the like become what they are made of."""
    try:
        return type(value)(items)
    except TypeError:
        return items if isinstance(value, list) else tuple(items)


def _with_items(value: Mapping[Any, Any], items: dict[Any, Any]) -> Any:
    if type(value) is dict:
        return items
    fresh: Any = copy.copy(value)
    try:
        for key, item in items.items():
            fresh[key] = item
    except TypeError:  # a mapping that cannot be written to
        return items
    return fresh
