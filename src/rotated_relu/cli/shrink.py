"""``rotated-relu shrink``: a trained network in, a smaller and faster one out."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from . import console, options
from .options import NETWORK, TRAINING, check_choices, directory

PRECISIONS = ("auto", "bf16", "fp16", "32")
if TYPE_CHECKING:
    from ..experiments.shrinking.settings import Shrinking

EXAMPLE = (
    "rotated-relu shrink --model my_net.py:build --weights my_net.pt --data my/images --keep-macs 0.5 "
    "--out runs/small"
)
SIZE = "By how much"
KEEP, SPEEDUP = "--keep-macs", "--speedup"
FILES = ("compact.safetensors", "compact.onnx", "report.html")
# Fields of a shrinking whose option is called otherwise, or takes another form.
NAMES = {"keep": KEEP, "model_options": "--model-option", "renames": "--rename"}


class SeveralBudgets(TyperCommand):
    """Takes ``--keep-macs 0.7 0.5 0.3`` as well as the option several times, and ``--speedup 1.5 2`` likewise."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See click."""
        return super().parse_args(ctx, list(repeated(list(repeated(args, KEEP)), SPEEDUP)))


def repeated(args: Sequence[str], option: str) -> Iterator[str]:
    """The same arguments with an option before each of the numbers that follow it."""
    within = False
    for position, word in enumerate(args):
        value = position > 0 and args[position - 1] == option
        if within and not value and _is_number(word):
            yield option
        elif not value:
            within = word == option or word.startswith(f"{option}=")
        yield word


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def shrink(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]",
            help="A run, whose smallest network is shrunk further; in place of --model, --weights and --data.",
            show_default=False,
        ),
    ] = None,
    *,
    model: Annotated[
        str | None,
        typer.Option(
            help="A name of ours or torchvision's (resnet18), timm/NAME, file.py:function or package.module:function, "
            "a function that returns the network. That code is executed.",
            show_default=False,
            rich_help_panel=NETWORK,
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="A file (.safetensors, .pt, .pth, .th), nothing in which is executed; or 'pretrained', or a name of "
            "torchvision's, which are downloaded.",
            show_default=False,
            rich_help_panel=NETWORK,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="A folder with one folder of images per class, mnist5k, cifar10, or a name on the Hub.",
            show_default=False,
            rich_help_panel=NETWORK,
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(parser=directory, metavar="<path>", help="The run directory.", show_default=False)
    ],
    keep_macs: Annotated[
        list[float],
        typer.Option(
            KEEP,
            metavar="SHARE...",
            help="Share of the multiply-accumulates that may remain; several (0.7 0.5 0.3) make one run each, in "
            "folders of --out, and one page with all.",
            rich_help_panel=SIZE,
        ),
    ] = [0.5],  # noqa: B006 - typer copies it
    round_to: Annotated[
        int,
        typer.Option(
            min=1,
            help="Leave widths that are multiples of it, and whole branches out: fewer MACs arrive as speed (try 8 or "
            "16).",
            rich_help_panel=SIZE,
        ),
    ] = 1,
    speedup: Annotated[
        list[float] | None,
        typer.Option(
            SPEEDUP,
            metavar="TIMES...",
            min=1.0,
            help="Be so many times faster in --engine, by measured latency; in place of --keep-macs, and several "
            "likewise.",
            show_default=False,
            rich_help_panel=SIZE,
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            metavar="onnxruntime|openvino|torch|torch.compile",
            help="With --speedup: in what.",
            rich_help_panel=SIZE,
        ),
    ] = "onnxruntime",
    engine_batch_size: Annotated[
        int, typer.Option(min=1, help="With --speedup: images per call.", rich_help_panel=SIZE)
    ] = 64,
    latency_table: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="With --speedup: times of another machine (see calibrate). Default: they are measured here.",
            show_default=False,
            rich_help_panel=SIZE,
        ),
    ] = None,
    epochs: Annotated[
        int, typer.Option(min=1, help="Passes over the training images in all.", rich_help_panel=TRAINING)
    ] = 20,
    model_options: options.ModelOptions = None,
    rename: options.Rename = None,
    mean: options.Mean = None,
    std: options.Std = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Height and width in pixels. Default: likewise.",
            show_default=False,
            rich_help_panel=NETWORK,
        ),
    ] = None,
    resize: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Length that the shorter side gets before the middle of the image size is cut out. Default: likewise, "
            "else whole pictures are squeezed.",
            show_default=False,
            rich_help_panel=NETWORK,
        ),
    ] = None,
    interpolation: Annotated[
        str | None,
        typer.Option(
            metavar="nearest|bilinear|bicubic|lanczos",
            help="Of that. Default: likewise, else bilinear.",
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
    temperature: options.Temperature = 4.0,
    validation: Annotated[
        float,
        typer.Option(
            min=0,
            help="Images held out of the training images, where the data has no validation images of its own: a share "
            "below 1, or a count.",
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
    random_resized_crop: Annotated[
        bool | None,
        typer.Option(
            "--random-resized-crop/--no-random-resized-crop",
            help="Train on random sections of the images, as networks for photographs commonly are; every image is "
            "decoded anew in every epoch. Default: no.",
            show_default=False,
            rich_help_panel=TRAINING,
        ),
    ] = None,
    ema: Annotated[
        float,
        typer.Option(
            min=0,
            max=0.99999,
            help="Decay of a moving average of the small network's weights, such as 0.999; 0 is none.",
            rich_help_panel=TRAINING,
        ),
    ] = 0.0,
    precision: Annotated[
        str,
        typer.Option(
            metavar="auto|bf16|fp16|32",
            help="Of the training. auto is bf16 where the device computes in it.",
            rich_help_panel=TRAINING,
        ),
    ] = "auto",
    compile: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Run the networks through torch.compile in training: faster after some minutes of compiling. It needs "
            "a C++ compiler.",
            rich_help_panel=TRAINING,
        ),
    ] = False,
    seed: Annotated[
        int, typer.Option(min=0, help="Of order and augmentation.", rich_help_panel=TRAINING)
    ] = 0,
    openvino: Annotated[bool, typer.Option("--openvino", help="Export for OpenVINO as well.")] = False,
    device: options.Device = "auto",
    progress: options.Progress = "auto",
) -> None:
    """Make a trained network smaller and faster, at nearly the same accuracy.

    Writes compact.safetensors, compact.onnx, summary.json and report.html. The same command again goes on after Ctrl-C
    or a kill.
    """
    from ..core.errors import UnknownNameError
    from ..experiments.shrinking.settings import Shrinking

    check_choices(progress, device)
    if precision not in PRECISIONS:
        raise UnknownNameError("precision", precision, PRECISIONS)
    if speedup and keep_macs != [0.5]:
        raise typer.BadParameter("give either --speedup or --keep-macs, not both", param_hint=SPEEDUP)
    budgets = (
        dict.fromkeys((0.5, one) for one in speedup)
        if speedup
        else dict.fromkeys((one, None) for one in keep_macs)
    )
    wanted = [
        Shrinking(
            model=model or "", weights=weights or "", data=data or "", source=run, keep=keep, epochs=epochs,
            model_options=pairs(model_options, "--model-option", json_value),
            renames=pairs(rename, "--rename", str),
            mean=numbers(mean, "--mean"), std=numbers(std, "--std"),
            image_size=image_size, resize=resize, interpolation=interpolation,
            lr=lr, batch_size=batch_size, distill=distill, temperature=temperature, validation=validation,
            flip=flip, crop_padding=crop_padding, random_resized_crop=random_resized_crop,
            ema=ema, precision=precision, compile=compile, seed=seed, round_to=round_to,
            speedup=times, engine=engine, engine_batch_size=engine_batch_size, latency_table=latency_table,
        )
        for keep, times in budgets
    ]  # fmt: skip
    circumstances = {"openvino": openvino, "device": device, "progress": progress}
    if len(wanted) == 1:
        _one(wanted[0], out, circumstances)
    else:
        _several(wanted, out, circumstances)


def _one(wanted: Shrinking, out: Path, circumstances: dict[str, Any]) -> None:
    from ..experiments.shrinking.delivery import verdict
    from ..experiments.shrinking.pipeline import shrink_run

    again = command_of([wanted], out, **circumstances)
    with console.stoppable(f"shrinking in {out}", again):
        summary = shrink_run(wanted, out, command=again, **circumstances)
    console.show(verdict(summary), *(f"  {out / name}" for name in FILES))
    console.show(f"use it: python {out / 'classify.py'} PICTURE")


def _several(wanted: Sequence[Shrinking], out: Path, circumstances: dict[str, Any]) -> None:
    from ..experiments.shrinking.delivery import verdict
    from ..experiments.shrinking.frontier import shrink_frontier

    def commands(some: Sequence[Shrinking], place: Path) -> str:
        return command_of(some, place, **circumstances)

    with console.stoppable(f"shrinking in {out}", commands(wanted, out)):
        summary = shrink_frontier(wanted, out, commands=commands, **circumstances)
    for row in summary["runs"]:
        console.show(f"{out / row['run']}: {verdict({**summary, **row})}")
    console.show(f"  {out / 'report.html'}")


# --- the command that goes on ----------------------------------------------------------------------------------------


def command_of(
    wanted: Sequence[Shrinking],
    out: Path,
    *,
    openvino: bool = False,
    device: str = "auto",
    progress: str = "auto",
) -> str:
    """The command line of some shrinkings that differ in their budget alone; what has its default is left out."""
    one = wanted[0]
    words = ["rotated-relu", "shrink", *([one.source] if one.source else [])]
    for field in dataclasses.fields(one):
        value = getattr(one, field.name)
        if field.name in ("source", "keep", "speedup") or value == _default(field):
            continue
        words += _option(NAMES.get(field.name, f"--{field.name.replace('_', '-')}"), value)
    if one.speedup is None:
        words += [KEEP, *(f"{each.keep:g}" for each in wanted)]
    else:
        words += [SPEEDUP, *(f"{each.speedup:g}" for each in wanted)]
    words += ["--out", str(out)]
    words += ["--openvino"] if openvino else []
    words += _option("--device", device) if device != "auto" else []
    words += _option("--progress", progress) if progress != "auto" else []
    return shlex.join(words)


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _option(name: str, value: Any) -> list[str]:
    """One setting as words."""
    if isinstance(value, bool):
        return [name if value else f"--no-{name[2:]}"]
    if isinstance(value, dict):
        return [word for key, one in value.items() for word in (name, f"{key}={_text(one)}")]
    return [name, ",".join(map(str, value)) if isinstance(value, list) else str(value)]


def _text(value: Any) -> str:
    """The reverse of :func:`json_value`."""
    plain = isinstance(value, str) and json_value(value) == value
    return value if plain else json.dumps(value)


# --- what is typed ---------------------------------------------------------------------------------------------------


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
