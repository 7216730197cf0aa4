"""An option of the command line for every setting of a training: names, bounds and words are those of its class."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

from ..training.config import Config
from ..training.settings import Flag, annotated_fields, choices, notes

# Part of the settings -> heading in the help; the order is that of the help.
HEADINGS = {
    "model": "Network",
    "data": "Data",
    "optimizer": "Optimizer",
    "schedule": "Schedule",
    "slopes": "Slopes",
    "budget": "Budget",
    "speed": "Speed",
    "scale": "Machines",
    "keep": "Keeping",
    "log": "Logs",
}


@dataclass(frozen=True)
class Setting:
    """One setting as an option.

    Attributes:
        name: Dotted, as in a file of settings: ``optimizer.lr``.
        parameter: The option, as a parameter of the verb.
        heading: What it stands under in the help.
    """

    name: str
    parameter: inspect.Parameter
    heading: str


def all_settings() -> list[Setting]:
    """Every setting that one word can give, in the order of the help."""
    order = list(HEADINGS.values())
    return sorted(
        _settings(Config, "", HEADINGS["optimizer"]), key=lambda setting: order.index(setting.heading)
    )


def _settings(cls: type, prefix: str, heading: str) -> Iterator[Setting]:
    plain = get_type_hints(cls)
    for name, annotation in annotated_fields(cls).items():
        part = plain[name]
        if dataclasses.is_dataclass(part):
            assert isinstance(part, type)
            yield from _settings(part, f"{name}.", HEADINGS.get(name, heading))
            continue
        flag = next(iter(notes(annotation, Flag)), Flag())
        under = flag.group or heading
        if flag.shown and get_origin(part) is not dict:
            yield Setting(f"{prefix}{name}", _parameter(cls, name, annotation, flag, under), under)


def _parameter(cls: type, name: str, annotation: Any, flag: Flag, heading: str) -> inspect.Parameter:
    """The option; None where it is not given, so that recipe, file or run decide."""
    names = flag.names or (f"--{name.replace('_', '-')}",)
    kind = _kind(get_type_hints(cls)[name])
    if kind is bool and "/" not in names[0]:
        names = (f"{names[0]}/--no-{names[0][2:]}",)
    option = typer.Option(
        *names,
        help=_help(cls, name),
        metavar="|".join(choices(annotation)) or None,
        show_default=False,
        rich_help_panel=heading,
    )
    keyword = re.sub(r"\W", "_", names[0].split("/")[0].lstrip("-"))
    return inspect.Parameter(
        keyword, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _kind(part: Any) -> Any:
    """The type of what is typed."""
    if get_origin(part) in (Union, types.UnionType):
        part = next(kind for kind in get_args(part) if kind is not type(None))
    # Which choices there are is said by the settings themselves, with the nearest name.
    return str if get_origin(part) is Literal else part


def _help(cls: Any, name: str) -> str:
    """The documentation of a field, without marks that are for the pages of the documentation."""
    info = cls.__pydantic_fields__[name]
    text = re.sub(r":\w+:`~?([^`]*)`", r"\1", " ".join((info.description or "").split())).replace("``", "")
    default = info.get_default(call_default_factory=True)
    shown = "" if default is None else f" Default: {_shown(default)}."
    return text + shown


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "yes" if default else "no"
    return " ".join(f"{part:g}" for part in default) if isinstance(default, tuple) else f"{default}"
