"""``rotated-relu shrink``: a trained network in, a smaller and faster one out."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from . import console
from .options import Device, Progress, check_choices, directory

EXAMPLE = (
    "rotated-relu shrink --model my_net.py:build --weights my_net.pt --data my/images --keep-macs 0.5 "
    "--out runs/small"
)
NETWORK, SIZE, TRAINING = "What is shrunk", "By how much", "How it trains on"


def shrink(
    model: Annotated[
        str,
        typer.Option(
            help="A name of ours or torchvision's (resnet18), timm/NAME, file.py:function or package.module:function, "
            "a function that returns the network. That code is executed.",
            show_default=False,
            rich_help_panel=NETWORK,
        ),
    ],
    weights: Annotated[
        str,
        typer.Option(
            help="A file (.safetensors, .pt, .pth, .th), nothing in which is executed; or 'pretrained', or a name of "
            "torchvision's, which are downloaded.",
            show_default=False,
            rich_help_panel=NETWORK,
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="A folder with one folder of images per class, mnist5k, cifar10, or a name on the Hub.",
            show_default=False,
            rich_help_panel=NETWORK,
        ),
    ],
    out: Annotated[
        Path, typer.Option(parser=directory, metavar="<path>", help="The run directory.", show_default=False)
    ],
    keep_macs: Annotated[
        list[float],
        typer.Option(
            help="Share of the multiply-accumulates that may remain; several make one run each, in folders of --out.",
            rich_help_panel=SIZE,
        ),
    ] = [0.5],  # noqa: B006 - typer copies it
    epochs: Annotated[
        int, typer.Option(min=1, help="Passes over the training images in all.", rich_help_panel=TRAINING)
    ] = 20,
    model_options: Annotated[
        list[str] | None,
        typer.Option(
            "--model-option",
            metavar="NAME=VALUE",
            help="For the network's builder; repeat.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OLD=NEW",
            help="A module is called OLD in the file of weights and NEW in the network; repeat.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="R,G,B",
            help="Of pixels in [0, 1], as the weights were trained. Default: what is known of the weights, else that "
            "of the images.",
            show_default=False,
            rich_help_panel=NETWORK,
        ),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(metavar="R,G,B", help="Likewise.", show_default=False, rich_help_panel=NETWORK),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Height and width in pixels. Default: likewise.",
            show_default=False,
            rich_help_panel=NETWORK,
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Learning rate at the top of the schedule. Default: 0.02 per 128 images of a batch.",
            show_default=False,
            rich_help_panel=TRAINING,
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=2, help="Images per step.", rich_help_panel=TRAINING)] = 128,
    distill: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Part of the loss that is learned from the original; 0 is none.",
            rich_help_panel=TRAINING,
        ),
    ] = 0.9,
    temperature: Annotated[
        float, typer.Option(min=0.01, help="Of that part.", rich_help_panel=TRAINING)
    ] = 4.0,
    validation: Annotated[
        float,
        typer.Option(
            min=0,
            help="Images held out of the training images: a share below 1, or a count.",
            rich_help_panel=TRAINING,
        ),
    ] = 0.1,
    flip: Annotated[
        bool | None,
        typer.Option(
            "--flip/--no-flip",
            help="Mirror training images at random. Default: colour images yes, grey ones (digits, X-rays) no.",
            show_default=False,
            rich_help_panel=TRAINING,
        ),
    ] = None,
    crop_padding: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Shift training images by up to so many pixels. Default: an eighth of the size for colour images of "
            "up to 64 pixels, else 0.",
            show_default=False,
            rich_help_panel=TRAINING,
        ),
    ] = None,
    precision: Annotated[
        str, typer.Option(metavar="bf16|fp16|32", help="Of the training.", rich_help_panel=TRAINING)
    ] = "bf16",
    seed: Annotated[
        int, typer.Option(min=0, help="Of order and augmentation.", rich_help_panel=TRAINING)
    ] = 0,
    device: Device = "auto",
    progress: Progress = "lines",
) -> None:
    """Make a trained network smaller and faster, at nearly the same accuracy.

    Writes compact.safetensors, compact.onnx, summary.json and report.html. The same command again goes on after Ctrl-C
    or a kill.
    """
    from ..core.errors import UnknownNameError
    from ..experiments.pipelines.shrink import Shrinking, shrink_run, verdict

    check_choices(device, progress)
    if precision not in ("bf16", "fp16", "32"):
        raise UnknownNameError("precision", precision, ("bf16", "fp16", "32"))
    again = shlex.join(["rotated-relu", *sys.argv[1:]])
    for keep in keep_macs:
        wanted = Shrinking(
            model, weights, data, keep, epochs, pairs(model_options, "--model-option", json_value),
            pairs(rename, "--rename", str), numbers(mean, "--mean"), numbers(std, "--std"), image_size, lr, batch_size,
            distill, temperature, validation, flip, crop_padding, precision, seed,
        )  # fmt: skip
        place = out if len(keep_macs) == 1 else out / f"keep-{keep:g}"
        with console.stoppable(f"shrinking in {place}", again):
            summary = shrink_run(wanted, place, device=device, progress=progress, command=again)
        console.show(verdict(summary))
        console.show(
            *(f"  {place / name}" for name in ("compact.safetensors", "compact.onnx", "report.html"))
        )


def pairs(given: list[str] | None, option: str, value: Any) -> dict[str, Any]:
    """``["a=1"]`` as ``{"a": value("1")}``."""
    made = {}
    for text in given or []:
        name, equals, rest = text.partition("=")
        if not (name and equals):
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint=option)
        made[name] = value(rest)
    return made


def json_value(text: str) -> Any:
    """A number, true, false, null or a list where it reads as one; else the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def numbers(text: str | None, option: str) -> list[float] | None:
    """``"0.5,0.4,0.3"`` as a list."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} are no numbers with commas between them", param_hint=option
        ) from None
