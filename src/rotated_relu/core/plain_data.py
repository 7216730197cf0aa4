"""Dataclasses from plain data (JSON) of unknown origin: every field must have the type that its annotation says."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

Made = TypeVar("Made")


def build(kind: type[Made], data: Any, where: str = "") -> Made:
    """An instance of a dataclass from a mapping of its fields, nested ones included.

    Raises:
        TypeError: If a field is missing, unknown or of another type; names it.
    """
    where = where or kind.__name__
    if not isinstance(data, Mapping):
        raise TypeError(f"{where} must be a table of fields, got {_short(data)}")
    hints = get_type_hints(kind)
    for name in data:
        if name not in hints:
            raise TypeError(f"{where} has no field {name!r}")
    needed = {
        field.name
        for field in dataclasses.fields(kind)  # type: ignore[arg-type]
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    missing = sorted(needed - set(data))
    if missing:
        raise TypeError(f"{where} lacks {', '.join(missing)}")
    return kind(**{name: typed(hints[name], value, f"{where}.{name}") for name, value in data.items()})


def typed(hint: Any, value: Any, where: str) -> Any:
    """A value of the type that an annotation names, dataclasses made from tables.

    Raises:
        TypeError: If it is of another type; says where.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _any_of(parts, value, where)
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where)  # type: ignore[arg-type]
    if origin is list and isinstance(value, list):
        return [typed(parts[0], item, where) for item in value]
    if origin is tuple and parts[1:] == (...,) and isinstance(value, (list, tuple)):  # JSON has no tuples
        return tuple(typed(parts[0], item, where) for item in value)
    if origin is dict and isinstance(value, dict):
        return {typed(parts[0], key, where): typed(parts[1], item, where) for key, item in value.items()}
    if hint is float and type(value) is int:
        return float(value)
    if origin is None and type(value) is hint:
        return value
    raise TypeError(f"{where} must be {getattr(hint, '__name__', hint)}, got {_short(value)}")


def _any_of(hints: tuple[Any, ...], value: Any, where: str) -> Any:
    for hint in hints:
        try:
            return typed(hint, value, where)
        except TypeError:
            continue
    raise TypeError(f"{where} must be {' or '.join(map(str, hints))}, got {_short(value)}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
