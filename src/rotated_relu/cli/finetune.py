"""``rotated-relu finetune``: train a compacted network on."""

from __future__ import annotations

from typing import Annotated

import typer

from ..core.run_directory import is_first_process
from ..experiments.run_networks import open_run
from ..experiments.stages.finetune import finetune_run
from . import console
from .options import Device, Progress, RunPath, check_choices

EXAMPLE = "rotated-relu finetune runs/first --epochs 3"


def finetune(
    run: RunPath,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 3,
    lr: Annotated[
        float | None, typer.Option(help="Default: a tenth of the training's.", show_default=False)
    ] = None,
    device: Device = "auto",
    progress: Progress = "auto",
) -> None:
    """Train the compacted network on, with a cosine from a small learning rate and no penalty on the slopes.

    Of a run in which slopes alone were trained, the weights train now, with the run's own schedule. Writes
    finetuned.safetensors. The same command again resumes after Ctrl-C.
    """
    check_choices(progress, device)
    loaded = open_run(run)
    found = finetune_run(loaded, epochs=epochs, lr=lr, device=device, progress=progress)
    if is_first_process():
        before, after = console.percent(found.before), console.percent(found.after)
        console.show(f"{run}: validation accuracy {before} before, {after} after")
        console.show_next(loaded)
