"""What a class of settings is: a frozen dataclass that pydantic checks, with one line for a value that cannot work.

Requires: each field is annotated with all that is known of it: its type, its bounds (``Field``), the words for what is
allowed where bounds do not say it (:class:`Allowed`), its option on the command line where the name does not
(:class:`Flag`); the text under it is its documentation and the option's help.
Ensures: an object that exists holds values of the right types, finite and within bounds.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import pydantic
from annotated_types import Ge, Gt, Le, Lt
from pydantic_core import ErrorDetails
from typing_extensions import dataclass_transform

from ..core.errors import RotatedReLUError, UnknownNameError

Made = TypeVar("Made")

LARGEST = 2**53  # of whole numbers: beyond it a float, which schedules compute with, skips some
STRICT = pydantic.ConfigDict(
    strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, protected_namespaces=()
)


class ConfigError(RotatedReLUError, ValueError):
    """A setting of a training run has a value that cannot work."""


@dataclass(frozen=True)
class Allowed:
    """What a setting may be, in words that follow "must be"."""

    words: str


@dataclass(frozen=True)
class Flag:
    """How a setting is given on the command line.

    Attributes:
        names: As typer takes them, for example ``--rotated/--relu``; empty for the field's name.
        group: Heading in the help; None is that of the class.
        shown: Whether there is an option at all.
    """

    names: tuple[str, ...] = ()
    group: str | None = None
    shown: bool = True


@dataclass_transform(frozen_default=True, field_specifiers=(pydantic.Field,))
def settings(prefix: str = "") -> Callable[[type[Made]], type[Made]]:
    """Make a class one of settings.

    Args:
        prefix: Where it stands within the whole, as errors name it: ``optimizer``.
    """

    def decorate(cls: type[Made]) -> type[Made]:
        made: Any = pydantic.dataclasses.dataclass(frozen=True, config=STRICT)(cls)
        checked = made.__init__

        @functools.wraps(checked)
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            try:
                checked(self, *args, **kwargs)
            except pydantic.ValidationError as error:
                raise _explained(error, made, prefix) from None

        made.__init__ = init
        result: type[Made] = made
        return result

    return decorate


def from_plain(cls: type[Made], data: Any) -> Made:
    """Settings from plain data, as JSON holds them; those that are left out get their default.

    Raises:
        ConfigError: If a value has the wrong type or cannot work.
        UnknownNameError: If there is no such setting or choice; suggests the nearest.
    """
    try:
        text = json.dumps(data)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"settings must be plain data, as JSON holds them: {error}") from None
    try:
        # As JSON, where a list may stand for a tuple and a table for a class, and nothing else is converted.
        return pydantic.TypeAdapter(cls).validate_json(text)
    except pydantic.ValidationError as error:
        raise _explained(error, cls, "") from None


def to_plain(value: Any) -> Any:
    """The reverse of :func:`from_plain`."""
    return json.loads(json.dumps(dataclasses.asdict(value)))


def annotated_fields(cls: type) -> dict[str, Any]:
    """Field name to annotation, with all that :data:`typing.Annotated` holds."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def choices(annotation: Any) -> tuple[str, ...]:
    """What a setting with fixed choices may be; empty for any other."""
    return tuple(get_args(next((part for part in _parts(annotation) if get_origin(part) is Literal), None)))


def notes(annotation: Any, kind: type[Made]) -> list[Made]:
    """What an annotation says of that kind, for example its :class:`Flag`."""
    found: list[Any] = list(getattr(annotation, "__metadata__", ()))
    for part in get_args(annotation):
        found += notes(part, kind)
    return [note for note in found if isinstance(note, kind)]


def _parts(annotation: Any) -> Iterator[Any]:
    """The types that a value may have, without what is said about them."""
    if get_origin(annotation) is Annotated:
        yield from _parts(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _parts(part)
    else:
        yield annotation


def _explained(error: pydantic.ValidationError, cls: type, prefix: str) -> RotatedReLUError:
    """The first of pydantic's findings as one line of ours."""
    found = error.errors(include_url=False)[0]
    own = found.get("ctx", {}).get("error")
    if isinstance(own, RotatedReLUError):  # from a check of several settings together
        return own
    names, annotation, owner = _place(found, cls)
    name = ".".join(part for part in (prefix, *names) if part)
    value = found["input"]
    if found["type"] == "unexpected_keyword_argument":
        known = [name.removesuffix(names[-1]) + field for field in annotated_fields(owner)]
        return UnknownNameError("setting", name, known)
    if found["type"] == "literal_error" and isinstance(value, str):
        return UnknownNameError(name, value, choices(annotation))
    if found["type"] in BOUNDS:
        return ConfigError(f"{name} is {value!r}, but must be {_bounds(annotation, found['type'])}")
    if found["type"] == "finite_number":
        return ConfigError(f"{name} is {value!r}, but must be a finite number")
    return ConfigError(f"{name or 'the configuration'} must be {_type(annotation)}, got {value!r}")


def _place(found: ErrorDetails, cls: type) -> tuple[list[str], Any, type]:
    """Names on the way to what an error is about, the annotation of the last, and the class that it stands in."""
    names: list[str] = []
    annotation, owner = cls, cls
    for part in found["loc"]:
        inside = next((kind for kind in _parts(annotation) if dataclasses.is_dataclass(kind)), None)
        if not isinstance(inside, type):
            break  # within a tuple: the error is about all of it
        owner = inside
        fields = annotated_fields(owner)
        names.append(list(fields)[part] if isinstance(part, int) else part)
        annotation = fields.get(names[-1])  # type: ignore[assignment]
    return names, annotation, owner


# pydantic's names of the bounds, and the words for them.
BOUNDS = {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "string_too_short"}
WORDS: dict[type, str] = {Gt: "above", Ge: "at least", Lt: "below", Le: "at most"}


def _bounds(annotation: Any, broken: str) -> str:
    """What a number may be, in words."""
    said = notes(annotation, Allowed)
    # An upper bound of whole numbers only keeps out what is absurd: it is not said unless it is met.
    whole = int in _parts(annotation) or notes(annotation, Le) == [Le(LARGEST)]
    if whole and broken == "less_than_equal":
        return f"at most {notes(annotation, Le)[0].le}"
    if said:
        return said[0].words
    bounds: list[Any] = []
    for kind in WORDS:
        bounds += notes(annotation, kind)
    ends = [end for end in bounds if not (whole and isinstance(end, Le))]
    low, high = (float(next(iter(dataclasses.asdict(end).values()))) for end in (ends[0], ends[-1]))
    if [type(end) for end in ends] == [Ge, Le]:
        return f"between {low:g} and {high:g}"
    if [type(end) for end in ends] == [Ge]:
        return f"{low:g} or more"
    return " and ".join(
        f"{WORDS[type(end)]} {value:g}" for end, value in zip(ends, (low, high), strict=False)
    )


def _type(annotation: Any) -> str:
    """Types in words."""
    return " or ".join(map(_type_name, _parts(annotation)))


def _type_name(part: Any) -> str:
    if dataclasses.is_dataclass(part):
        return "a table of settings"
    kind = get_origin(part) or part
    if kind is tuple:
        return f"{len(get_args(part))} numbers"
    names = {type(None): "nothing", Literal: "str"}
    return names.get(kind) or str(kind.__name__)
