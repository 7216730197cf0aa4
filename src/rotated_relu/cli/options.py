"""Arguments and options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.devices import AUTO, DEVICES
from ..core.errors import UnknownNameError
from ..core.progress import KINDS


def directory(value: str | Path) -> Path:
    """The directory of an option, typed or by default; an empty one, as of a variable that is not set, is refused."""
    if not str(value).strip():  # it would be the present directory
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

# Panels of help, and what belongs to a network that is brought, whatever is done to it.
NETWORK = "The network and its images"
TRAINING = "How it trains"
ModelOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--model-option",
        metavar="NAME=VALUE",
        help="For the network's builder; repeat.",
        rich_help_panel=NETWORK,
    ),
]
Rename = Annotated[
    list[str] | None,
    typer.Option(
        metavar="OLD=NEW",
        help="A module is called OLD in the file of weights and NEW in the network; repeat.",
        rich_help_panel=NETWORK,
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        metavar="R,G,B",
        help="Of pixels in [0, 1], as the weights were trained. Default: what is known of the weights, else that "
        "of the images.",
        show_default=False,
        rich_help_panel=NETWORK,
    ),
]
Std = Annotated[
    str | None,
    typer.Option(metavar="R,G,B", help="Likewise.", show_default=False, rich_help_panel=NETWORK),
]
Temperature = Annotated[float, typer.Option(min=0.01, help="Of that part.", rich_help_panel=TRAINING)]


def check_choices(progress: str, device: str = "cpu") -> None:
    """Refuse what the help does not list, and a device that this machine has not, before anything is read.

    Raises:
        UnknownNameError: If one of them has no such kind.
        ConfigError: If torch finds no such device.
    """
    for kind, value, known in (("progress", progress, KINDS), ("device", device, DEVICES)):
        if value not in known:
            raise UnknownNameError(kind, value, known)
    if device not in (AUTO, "cpu"):  # these two there always are; asking torch takes its import
        from ..training.engine.distributed import check_device

        check_device(device)
