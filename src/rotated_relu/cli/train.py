"""``rotated-relu train``: a recipe or settings of one's own, into a run directory; again to resume."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.run_directory import Run, is_first_process
from ..experiments.stages.train import profile_run, settings
from . import console
from .options import Device, Progress, check_choices

EXAMPLE = "rotated-relu train demo --slope-l1 0.003 --epochs 10 --out runs/first"


def train(
    recipe: Annotated[
        str | None, typer.Argument(help="Name of a recipe; see: rotated-relu recipes", show_default=False)
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Run directory to write; a stopped run there is resumed.", show_default=False)
    ] = ...,  # type: ignore[assignment]
    config: Annotated[
        Path | None, typer.Option(help="JSON file of settings, as config.json of a run.", show_default=False)
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Network: ours or any of torchvision's.", show_default=False)
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Images: short name, name on the Hub, or folder.", show_default=False)
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the training images.", show_default=False)
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step.", show_default=False)] = None,
    lr: Annotated[float | None, typer.Option(help="Largest learning rate.", show_default=False)] = None,
    weight_decay: Annotated[float | None, typer.Option(help="L2 on the weights.", show_default=False)] = None,
    decay_slopes: Annotated[
        bool | None,
        typer.Option("--decay-slopes/--no-decay-slopes", help="L2 on the slopes too.", show_default=False),
    ] = None,
    slope_l1: Annotated[float | None, typer.Option(help="L1 on the slopes.", show_default=False)] = None,
    slope_pull: Annotated[
        float | None,
        typer.Option(
            help="The same by its effect: how far an unused slope moves over the whole run.",
            show_default=False,
        ),
    ] = None,
    keep_macs: Annotated[
        float | None,
        typer.Option(
            help="Budget: send the least important slopes to zero until this share of the MACs is left.",
            show_default=False,
        ),
    ] = None,
    slope_init: Annotated[
        str | None, typer.Option(metavar="published|ones", help="Where slopes start.", show_default=False)
    ] = None,
    rotated: Annotated[
        bool | None, typer.Option("--rotated/--relu", help="With slopes, or plain ReLU.", show_default=False)
    ] = None,
    precision: Annotated[
        str | None, typer.Option(metavar="bf16|fp16|32", help="Arithmetic in training.", show_default=False)
    ] = None,
    accumulate: Annotated[
        int | None,
        typer.Option(
            help="Parts that a batch is divided into, where it does not fit at once.", show_default=False
        ),
    ] = None,
    ema: Annotated[
        float | None,
        typer.Option(
            help="Decay of a moving average of the weights, which is validated and saved.", show_default=False
        ),
    ] = None,
    compiled: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="Use torch.compile.", show_default=False)
    ] = None,
    fast: Annotated[
        bool | None,
        typer.Option(
            "--fast/--no-fast",
            help="Slopes on the consumers' weights: no cost per image.",
            show_default=False,
        ),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Resize images to this side length.", show_default=False)
    ] = None,
    random_resized_crop: Annotated[
        bool | None,
        typer.Option(
            "--random-resized-crop/--whole-images",
            help="Train on random sections, test on the middle; not from memory.",
            show_default=False,
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="auto|memory|disk|stream", help="Where images wait to be used.", show_default=False
        ),
    ] = None,
    memory_limit: Annotated[
        float | None,
        typer.Option(help="GiB of decoded images that auto still holds in memory.", show_default=False),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that decode images from disk.", show_default=False)
    ] = None,
    shuffle_buffer: Annotated[
        int | None, typer.Option(help="Images of a stream to draw the next from.", show_default=False)
    ] = None,
    length: Annotated[
        int | None, typer.Option(help="Training images per epoch of a stream.", show_default=False)
    ] = None,
    devices: Annotated[
        int | None, typer.Option(help="Processes per machine; start them with torchrun.", show_default=False)
    ] = None,
    nodes: Annotated[
        int | None, typer.Option(help="Machines; start them with torchrun.", show_default=False)
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            metavar="ddp|fsdp", help="Whole network per process, or divided too.", show_default=False
        ),
    ] = None,
    sync_batch_norm: Annotated[
        bool | None,
        typer.Option(
            "--sync-batch-norm/--local-batch-norm",
            help="Batch statistics over all processes.",
            show_default=False,
        ),
    ] = None,
    keep_minutes: Annotated[
        float | None,
        typer.Option(help="Longest time between two checkpoints within an epoch.", show_default=False),
    ] = None,
    tensorboard: Annotated[
        bool | None, typer.Option("--tensorboard/--no-tensorboard", help="Write tb/.", show_default=False)
    ] = None,
    wandb: Annotated[
        str | None,
        typer.Option(metavar="PROJECT", help="Log to Weights & Biases too.", show_default=False),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of weights, order, augmentation.", show_default=False)
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Do not train: show where the time of a step goes.")
    ] = False,
    device: Device = "auto",
    progress: Progress = "lines",
) -> None:
    """Train a network into a run directory; the same command again resumes it, also after kill -9.

    Options override the recipe. Only --out is needed to resume. Every choice is made on validation images
    that are taken out of the training set; the test set is not read.
    """
    from ..training import fit

    overrides = {
        "model.name": model,
        "model.rotated": rotated,
        "data.name": data,
        "data.image_size": image_size,
        "optimizer.lr": lr,
        "optimizer.weight_decay": weight_decay,
        "optimizer.decay_slopes": decay_slopes,
        "epochs": epochs,
        "batch_size": batch_size,
        "slope_l1": slope_l1,
        "slope_pull": slope_pull,
        "budget.keep": keep_macs,
        "model.slope_init": slope_init,
        "precision": precision,
        "accumulate": accumulate,
        "ema": ema,
        "compile": compiled,
        "fast": fast,
        "data.random_resized_crop": random_resized_crop,
        "data.storage": storage,
        "data.memory_limit": memory_limit,
        "data.workers": workers,
        "data.shuffle_buffer": shuffle_buffer,
        "data.length": length,
        "scale.devices": devices,
        "scale.nodes": nodes,
        "scale.strategy": strategy,
        "scale.sync_batch_norm": sync_batch_norm,
        "keep.minutes": keep_minutes,
        "log.tensorboard": tensorboard,
        "log.wandb": wandb,
        "seed": seed,
    }
    given = {key: value for key, value in overrides.items() if value is not None}
    check_choices(device, progress)
    chosen = settings(recipe, config, out, given)
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
        f"{out}: {chosen.model.name} on {chosen.data.name}, {chosen.epochs} epochs, "
        f"validation accuracy {console.percent(fitted.validation_accuracy)}"
    )
    console.show(f"next: rotated-relu {'prune' if chosen.model.rotated else 'evaluate'} {out}")


def show_profile(found: Mapping[str, Any], batch_size: int, out: Path) -> None:
    """Print where the time of a step goes."""
    title = f"One step of {batch_size} images: {console.milliseconds(found['milliseconds_per_step'])}"
    rows = [
        (phase, console.milliseconds(part["milliseconds"]), console.share(part["share"]))
        for phase, part in found["phases"].items()
    ]
    console.show(console.table(title, ("phase", "time", "share"), rows))
    console.show(f"{found['images_per_second']:,.0f} images per second; {Run(out).file('profile')}")
