"""Arguments of the wrong kind, named before any work: one error instead of Python's own further in.

:func:`checked` holds a public function to its own annotations. What an annotation cannot say (a range, a shape, what a
function returns) is checked where it is used.
"""

from __future__ import annotations

import collections.abc as abc
import dataclasses
import functools
import inspect
import operator
import os
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

import torch

from .errors import ArgumentError

Given = ParamSpec("Given")
Returned = TypeVar("Returned")
Kind = TypeVar("Kind")
OWN_WORDS = "example_inputs"  # core.modules.as_inputs lists what they may be
_CONTAINERS = (abc.Sequence, abc.Collection, list, tuple, set, frozenset)


def checked(*left: str) -> Callable[[Callable[Given, Returned]], Callable[Given, Returned]]:
    """Refuse arguments of another kind than the function's annotations say, with :class:`ArgumentError`.

    Args:
        left: Names of arguments that are left to the function, which has better words for them.

    Adds a frame to the stack: the ``stacklevel`` of warnings counts it.
    """

    def decorate(function: Callable[Given, Returned]) -> Callable[Given, Returned]:
        @functools.wraps(function)
        def holding(*args: Given.args, **kwargs: Given.kwargs) -> Returned:
            if not torch.compiler.is_compiling():  # a graph has no words for it
                _check(function, left, args, kwargs)
            return function(*args, **kwargs)

        return holding

    return decorate


def checked_fields(*left: str) -> Callable[[type[Kind]], type[Kind]]:
    """Hold the fields of a dataclass to their annotations whenever one is made; see :func:`checked`."""

    def decorate(kind: type[Kind]) -> type[Kind]:
        kind.__init__ = checked(*left)(kind.__init__)  # type: ignore[method-assign]
        return kind

    return decorate


def check_fields(value: Any) -> None:
    """Hold a dataclass that may have been changed since it was made to its annotations.

    Raises:
        ArgumentError: If a field is of another kind; names it.
    """
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
    _check(type(value).__init__, (), (value,), fields)


def need_number(value: Any, name: str) -> float:
    """A number, and no flag or text.

    Raises:
        ArgumentError: If it is something else; names the argument.
    """
    if not _is_number(value):
        raise ArgumentError(f"{name} must be a number, got {kind_of(value)}")
    return float(value)


def need_count(value: Any, name: str, least: int = 1) -> int:
    """A whole number that is not too small.

    Raises:
        ArgumentError: If it is something else; names the argument.
    """
    if not _is_whole(value) or operator.index(value) < least:
        shown = value if _is_number(value) else kind_of(value)
        raise ArgumentError(f"{name} must be a whole number of at least {least}, got {shown}")
    return operator.index(value)


def need_path(value: Any, name: str = "the file") -> Path:
    """A path, from text or a path.

    Raises:
        ArgumentError: If it is something else, or empty.
    """
    if not isinstance(value, (str, os.PathLike)) or not str(value):
        raise ArgumentError(f"{name} is named by text or a path, got {kind_of(value)}")
    return Path(value)


def need_callable(value: Any, name: str) -> None:
    """Something that can be called.

    Raises:
        ArgumentError: If it cannot.
    """
    if not callable(value):
        raise ArgumentError(f"{name} must be a function, got {kind_of(value)}")


def kind_of(value: Any) -> str:
    """What a value is, for messages; without its own ``repr``, which may be long, or fail."""
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    return repr(value[:40]) if isinstance(value, str) else type(value).__name__


def _check(function: Any, left: tuple[str, ...], args: Any, kwargs: Any) -> None:
    signature, hints = _signature(function)
    try:
        given = signature.bind(*args, **kwargs).arguments
    except TypeError:
        return  # too many or too few: Python says so when it is called
    for name, value in given.items():
        hint = hints.get(name, Any)
        variable = signature.parameters[name].kind in (
            inspect.Parameter.VAR_KEYWORD,
            inspect.Parameter.VAR_POSITIONAL,
        )
        if name in (*left, OWN_WORDS) or variable:
            continue
        if not accepts(hint, value):
            raise ArgumentError(
                f"{_name_of(function)}: {name} must be {_described(hint)}, got {_wrong_part(hint, value)}"
            )


def accepts(hint: Any, value: Any) -> bool:
    """Whether a value is of the kind that an annotation names; what it does not know, it accepts."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint in _SIMPLE:
        return _SIMPLE[hint](value)
    if origin in (Union, types.UnionType):
        return any(accepts(part, value) for part in parts)
    if origin is Literal:
        return isinstance(value, str) and value in parts
    if origin is abc.Callable:
        return callable(value)
    if not isinstance(origin or hint, type):
        return True
    # Text is a sequence of text, and a tensor a collection of tensors; nobody means its letters or rows.
    loose = origin in _CONTAINERS and isinstance(value, torch.Tensor)
    return (
        isinstance(value, origin or hint)
        and not (loose or isinstance(value, (str, bytes)))
        and _items_fit(origin, parts, value)
    )


def _items_fit(origin: Any, parts: tuple[Any, ...], value: Any) -> bool:
    """Whether all items do; those of an iterator are not looked at, which would use them up."""
    if isinstance(value, abc.Mapping) and len(parts) == 2:
        return all(accepts(parts[0], key) and accepts(parts[1], item) for key, item in value.items())
    return origin not in _CONTAINERS or not parts or all(accepts(parts[0], item) for item in value)


def _is_number(value: Any) -> bool:
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
        return False
    try:
        float(value)
    except (TypeError, ValueError, RuntimeError, NotImplementedError, OverflowError):
        return False  # a tensor of several numbers, of complex ones, or of none
    return True


def _is_whole(value: Any) -> bool:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return False
    try:
        operator.index(value)
    except (TypeError, ValueError, RuntimeError, NotImplementedError):
        return False
    return True


_SIMPLE: dict[Any, Callable[[Any], bool]] = {
    Any: lambda value: True,
    object: lambda value: True,
    None: lambda value: value is None,
    type(None): lambda value: value is None,
    bool: lambda value: isinstance(value, bool),
    int: _is_whole,
    float: _is_number,
    str: lambda value: isinstance(value, str),
    Path: lambda value: isinstance(value, Path),
}


@functools.cache
def _signature(function: Any) -> tuple[inspect.Signature, dict[str, Any]]:
    """Parameters and annotations; those whose names exist only while types are checked are looked up one by one."""
    signature = inspect.signature(function)
    hints = {}
    for name, parameter in signature.parameters.items():
        hints[name] = _resolved(parameter.annotation, function)
    return signature, hints


def _resolved(annotation: Any, function: Any) -> Any:
    if annotation is inspect.Parameter.empty:
        return Any
    try:
        found = typing.get_type_hints(
            types.SimpleNamespace(__annotations__={"it": annotation}), _names(function)
        )
    except (NameError, TypeError):
        return Any
    return found["it"]


def _names(function: Any) -> dict[str, Any]:
    names: dict[str, Any] = inspect.unwrap(function).__globals__
    return names


def _name_of(function: Any) -> str:
    name: str = function.__qualname__
    return name.removesuffix(".__init__")


_WORDS: dict[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    None: "None",
    type(None): "None",
    torch.nn.Module: "a torch.nn.Module",
    torch.Tensor: "a tensor",
}


def _described(hint: Any) -> str:
    """An annotation in words."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint in _WORDS:
        return _WORDS[hint]
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_described, parts)))
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin is abc.Callable:
        return "a function"
    if isinstance(origin, type) and issubclass(origin, os.PathLike):
        return "a path"
    if isinstance(origin, type) and parts:
        item = parts[-1] if issubclass(origin, abc.Mapping) else parts[0]
        return f"a {origin.__name__.lower()} of {_described(item)}"
    return _WORDS.get(hint, f"a {getattr(origin or hint, '__name__', hint)}")


def _wrong_part(hint: Any, value: Any) -> str:
    """What was given; of a container that was right itself, the first item that was not."""
    if isinstance(value, (list, tuple)):
        inner = [
            part for union in (get_args(hint), (hint,)) for part in union if get_origin(part) in _CONTAINERS
        ]
        for part in inner:
            for item in value:
                if get_args(part) and not accepts(get_args(part)[0], item):
                    return f"a {type(value).__name__} with {kind_of(item)}"
    return kind_of(value)
