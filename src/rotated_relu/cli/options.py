"""Arguments and options that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

from ..core.errors import UnknownNameError

DEVICES = ("auto", "cpu", "cuda", "mps")
PROGRESS = ("bar", "lines", "none")

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
Progress = Annotated[str, typer.Option(metavar="bar|lines|none", help="How to show progress.")]


def check_choices(device: str, progress: str) -> None:
    """Raise :class:`UnknownNameError` unless both are among those that the help lists."""
    for kind, value, known in (("progress", progress, PROGRESS), ("device", device, DEVICES)):
        if value not in known:
            raise UnknownNameError(kind, value, known)
