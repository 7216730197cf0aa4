"""``rotated-relu compare``: the rotated ReLU and its rivals on the same task, in one run."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import console, options
from .options import NETWORK, TRAINING, check_choices, directory
from .shrink import json_value, numbers, pairs

if TYPE_CHECKING:
    from rich.table import Table

SIZES, LATENCY = "By how much", "Latency"
EXAMPLE = "rotated-relu compare resnet20_cifar10_compare --out runs/compare"


def compare(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="How all networks train; see: rotated-relu recipes. With --weights it may be left out: then as shrink "
            "does.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            parser=directory,
            metavar="<path>",
            help="Directory to write; a stopped comparison there goes on.",
            show_default=False,
        ),
    ] = ...,  # type: ignore[assignment]
    weights: Annotated[
        str | None,
        typer.Option(
            help="A trained network that every method begins with: a file, or the name of published weights.",
            show_default=False,
            rich_help_panel=NETWORK,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Its name, timm/NAME, file.py:function or package.module:function. Default: the recipe's.",
            show_default=False,
            rich_help_panel=NETWORK,
        ),
    ] = None,
    model_options: options.ModelOptions = None,
    rename: options.Rename = None,
    mean: options.Mean = None,
    std: options.Std = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Images: short name, name on the Hub, or folder.",
            show_default=False,
            rich_help_panel=NETWORK,
        ),
    ] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="Only this method; repeat for several. Default: all.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        list[int] | None, typer.Option("--seed", help="Repeat for several. Default: 0.", show_default=False)
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of every full training; with --weights of every method in all (default there: 20).",
            show_default=False,
            rich_help_panel=TRAINING,
        ),
    ] = None,
    finetune_epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of every pruned network, and the plain one; with --weights they are part of --epochs. Default: 3.",
            show_default=False,
            rich_help_panel=TRAINING,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=2, help="Images per step.", show_default=False, rich_help_panel=TRAINING),
    ] = None,
    distill: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Part of the loss that every method learns from the plain network, after that was trained.",
            rich_help_panel=TRAINING,
        ),
    ] = 0.0,
    temperature: options.Temperature = 4.0,
    compiled: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile",
            help="Use torch.compile.",
            show_default=False,
            rich_help_panel=TRAINING,
        ),
    ] = None,
    levels: Annotated[
        list[float] | None,
        typer.Option(
            "--level",
            help="Share of the MACs to save; repeat. Default: 0.05 to 0.8.",
            show_default=False,
            rich_help_panel=SIZES,
        ),
    ] = None,
    finetuned_levels: Annotated[
        list[float] | None,
        typer.Option(
            "--finetune-level",
            help="Train on at this one; repeat. Default: 0.2 to 0.7.",
            show_default=False,
            rich_help_panel=SIZES,
        ),
    ] = None,
    keep: Annotated[
        list[float] | None,
        typer.Option(
            "--keep",
            help="Share of the MACs that our budget aims at; repeat. Default: 0.55.",
            show_default=False,
            rich_help_panel=SIZES,
        ),
    ] = None,
    speedups: Annotated[
        list[float] | None,
        typer.Option(
            "--speedup",
            help="Also train with a budget of milliseconds that makes the network this many times as fast, in the "
            "first --engine at the first --latency-batch; repeat.",
            show_default=False,
            rich_help_panel=SIZES,
        ),
    ] = None,
    strengths: Annotated[
        list[float] | None,
        typer.Option(
            "--strength",
            help="Total shrinkage of the penalties to try; repeat. The grid goes on where the best is at its edge; one "
            "alone is taken as it is. Default: 2, 6, 18.",
            show_default=False,
            rich_help_panel=TRAINING,
        ),
    ] = None,
    tune_epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of the short runs that choose among them. Default: an eighth of the training's.",
            show_default=False,
            rich_help_panel=TRAINING,
        ),
    ] = None,
    engines: Annotated[
        list[str] | None,
        typer.Option(
            "--engine",
            help="Measure latencies in it; repeat. Default: onnxruntime.",
            show_default=False,
            rich_help_panel=LATENCY,
        ),
    ] = None,
    batch_sizes: Annotated[
        list[int] | None,
        typer.Option(
            "--latency-batch",
            help="Images per run; repeat. Default: 1.",
            show_default=False,
            rich_help_panel=LATENCY,
        ),
    ] = None,
    repeats: Annotated[
        int, typer.Option(min=0, help="Rounds of the measurement; 0: none.", rich_help_panel=LATENCY)
    ] = 30,
    device: options.Device = "auto",
    progress: options.Progress = "auto",
) -> None:
    """Train and prune ReLU, rotated ReLU and their rivals alike, and show what each saves at which accuracy.

    Same network, images, split, augmentation and total of epochs for all; each penalty's strength is tuned on the same
    grid of short runs. Writes compare.csv, .json, .html and .md. Stopped, the same command goes on.
    """
    from ..experiments.comparison.compare import compare_run, results
    from ..experiments.comparison.settings import Settings, Weights
    from ..experiments.comparison.start import base_settings

    check_choices(progress, device)
    if weights is not None and finetune_epochs is not None:
        raise typer.BadParameter("with --weights they are part of --epochs", param_hint="--finetune-epochs")
    renames = pairs(rename, "--rename", str)
    changes = {
        "epochs": epochs, "data.name": data, "compile": compiled, "batch_size": batch_size, "model.name": model,
        "model.options": pairs(model_options, "--model-option", json_value) or None,
        "data.mean": numbers(mean, "--mean"), "data.std": numbers(std, "--std"),
        "distill.weight": distill, "distill.temperature": temperature,
    }  # fmt: skip
    given = {key: value for key, value in changes.items() if value is not None}
    base, place = base_settings(recipe, weights, given)
    lists = {
        "methods": methods, "seeds": seeds, "levels": levels, "finetuned_levels": finetuned_levels,
        "strengths": strengths, "keep": keep, "speedups": speedups, "engines": engines, "batch_sizes": batch_sizes,
    }  # fmt: skip
    chosen: Any = {key: tuple(values) for key, values in lists.items() if values}
    settings = Settings(
        base,
        None if place is None else Weights(place, renames),
        finetune_epochs=finetune_epochs or 3,
        tune_epochs=tune_epochs,
        latency_repeats=repeats,
        **chosen,
    )
    again = shlex.join(["rotated-relu", *sys.argv[1:]])
    with console.stoppable(f"comparing in {out}", again):
        comparison = compare_run(
            settings, out, recipe or base.model.name, device=device, progress=progress, command=again
        )
    found = results(comparison)
    # What a brought network loses on images that it may have been trained on says nothing.
    console.show(*equal_tables(found), *([] if found["brought"] else [savings_table(found["table"])]))
    console.show(f"open {out / 'compare.html'}")


def equal_tables(found: Mapping[str, Any]) -> list[Table]:
    """What each method keeps and saves after equal training; none before anything has trained on."""
    from ..experiments.report.spread_tables import tables

    return [console.table(table["title"], table["heads"], table["rows"]) for table in tables(found)]


def savings_table(found: Sequence[Mapping[str, Any]]) -> Table:
    """What each method saves, before and after fine-tuning."""
    losses = sorted({entry["loss"] for entry in found})
    rows = []
    for label, stage in dict.fromkeys((entry["label"], entry["stage"]) for entry in found):
        cells = [
            e for loss in losses for e in found if (e["label"], e["stage"], e["loss"]) == (label, stage, loss)
        ]
        rows.append((label, stage, *(console.share(cell["macs"]) for cell in cells)))
    heads = ("method", "fine-tuning", *(f"-{loss:g} points" for loss in losses))
    return console.table("MACs saved at a loss of validation accuracy", heads, rows)
