"""Arguments and options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import UnknownNameError
from ..core.progress import KINDS

DEVICES = ("auto", "cpu", "cuda", "mps")


def directory(value: str) -> Path:
    """The directory of an option; an empty one, as of a variable that is not set, would be the present directory."""
    if not value.strip():
        raise typer.BadParameter("give the name of a directory ('.' is the present one)")
    return Path(value)


RunPath = Annotated[str, typer.Argument(metavar="RUN", help="A run directory.", show_default=False)]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="trained|compact|finetuned",
        help="Which weights. Default: the furthest there are.",
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps", help="What to train on.")]
Progress = Annotated[
    str,
    typer.Option(
        metavar="auto|bar|lines|none", help="How to show progress; auto: a bar in a terminal, else lines."
    ),
]


def check_choices(device: str, progress: str) -> None:
    """Raise :class:`UnknownNameError` unless both are among those that the help lists."""
    for kind, value, known in (("progress", progress, KINDS), ("device", device, DEVICES)):
        if value not in known:
            raise UnknownNameError(kind, value, known)
