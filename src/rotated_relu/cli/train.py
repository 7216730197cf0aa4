"""``rotated-relu train``: a recipe or settings of one's own, into a run directory; again to resume."""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.progress import showing
from ..core.run_directory import Run, is_first_process
from ..experiments.run_networks import open_run
from ..experiments.stages.train import profile_run, settings, with_speedup
from . import console
from .options import Device, Progress, check_choices, directory

EXAMPLE = "rotated-relu train demo --slope-l1 0.003 --epochs 10 --out runs/first"


def train(
    recipe: Annotated[
        str | None, typer.Argument(help="Name of a recipe; see: rotated-relu recipes", show_default=False)
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            parser=directory,
            metavar="<path>",
            help="Run directory to write; a stopped run there is resumed.",
            show_default=False,
        ),
    ] = ...,  # type: ignore[assignment]
    config: Annotated[
        Path | None, typer.Option(help="JSON file of settings, as config.json of a run.", show_default=False)
    ] = None,
    speedup: Annotated[
        float | None,
        typer.Option(
            min=1.0,
            help="Be so many times faster in --engine: a budget of measured latency in place of --keep-macs, by "
            "--latency-table or times that are measured first.",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        str, typer.Option(metavar="onnxruntime|openvino|torch|torch.compile", help="With --speedup: in what.")
    ] = "onnxruntime",
    engine_batch_size: Annotated[int, typer.Option(min=1, help="With --speedup: images per call.")] = 1,
    profile: Annotated[
        bool, typer.Option("--profile", help="Do not train: show where the time of a step goes.")
    ] = False,
    device: Device = "auto",
    progress: Progress = "auto",
    **given: Any,
) -> None:
    """Train a network into a run directory; the same command again resumes it, also after kill -9.

    Options override the recipe; what neither says has its default. Only --out is needed to resume. Every choice is
    made on validation images that are taken out of the training set; the test set is not read.
    """
    from ..training import fit

    check_choices(progress, device)
    chosen = settings(recipe, config, out, given)
    if speedup is not None:
        again = shlex.join(["rotated-relu", *sys.argv[1:]])
        with console.stoppable(f"measuring in {out}", again, "what was measured is kept"), showing(progress):
            chosen = with_speedup(chosen, out, speedup, engine, engine_batch_size)
    if profile:
        found = profile_run(chosen, out, device)
        if is_first_process():
            show_profile(found, chosen.batch_size, out)
        return
    with console.stoppable(f"training in {out}", f"rotated-relu train --out {out}"):
        fitted = fit(chosen, out, progress=progress, device=device)
    if not is_first_process():
        return
    console.show(
        f"{out}: {chosen.model.name} on {chosen.data.name}, {console.plural(chosen.epochs, 'epoch')}, "
        f"validation accuracy {console.percent(fitted.validation_accuracy)}"
    )
    console.show_next(open_run(str(out)))


# The help of all verbs shows this one's first line alone: the other options are put together when it is asked for.
_FIXED = inspect.signature(train, eval_str=True)
_FIXED = _FIXED.replace(
    parameters=[one for one in _FIXED.parameters.values() if one.kind is not one.VAR_KEYWORD]
)
train.__signature__ = _FIXED  # type: ignore[attr-defined]


def with_settings() -> Callable[..., None]:
    """The verb with an option for every setting."""
    from .settings import all_settings

    options = all_settings()

    def verb(**arguments: Any) -> None:
        values = {option.name: arguments.pop(option.parameter.name) for option in options}
        train(**arguments, **{name: value for name, value in values.items() if value not in (None, [])})

    verb.__doc__ = train.__doc__
    parameters = [*_FIXED.parameters.values(), *(option.parameter for option in options)]
    verb.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
    )
    return verb


def show_profile(found: Mapping[str, Any], batch_size: int, out: Path) -> None:
    """Print where the time of a step goes."""
    title = f"One step of {console.plural(batch_size, 'image')}: {console.milliseconds(found['milliseconds_per_step'])}"
    rows = [
        (phase, console.milliseconds(part["milliseconds"]), console.share(part["share"]))
        for phase, part in found["phases"].items()
    ]
    console.show(console.table(title, ("phase", "time", "share"), rows))
    console.show(f"{found['images_per_second']:,.0f} images per second; {Run(out).file('profile')}")
