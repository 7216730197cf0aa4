"""``rotated-relu compare``: the rotated ReLU and its rivals on the same task, in one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..experiments.stages.train import override
from . import console
from .options import Device, Progress, check_choices, directory

if TYPE_CHECKING:
    from rich.table import Table

EXAMPLE = "rotated-relu compare resnet20_cifar10_compare --out runs/compare"


def compare(
    recipe: Annotated[str, typer.Argument(help="How all networks train; see: rotated-relu recipes")],
    out: Annotated[
        Path,
        typer.Option(
            parser=directory,
            metavar="<path>",
            help="Directory to write; a stopped comparison there goes on.",
            show_default=False,
        ),
    ] = ...,  # type: ignore[assignment]
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method", help="Only this method; repeat for several. Default: all.", show_default=False
        ),
    ] = None,
    seeds: Annotated[
        list[int] | None, typer.Option("--seed", help="Repeat for several. Default: 0.", show_default=False)
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Of every full training.", show_default=False)
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Images: short name, name on the Hub, or folder.", show_default=False)
    ] = None,
    compiled: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="Use torch.compile.", show_default=False)
    ] = None,
    levels: Annotated[
        list[float] | None,
        typer.Option(
            "--level", help="Share of the MACs to save; repeat. Default: 0.05 to 0.8.", show_default=False
        ),
    ] = None,
    finetuned_levels: Annotated[
        list[float] | None,
        typer.Option(
            "--finetune-level", help="Fine-tune at this one; repeat. Default: 0.2 to 0.7.", show_default=False
        ),
    ] = None,
    finetune_epochs: Annotated[int, typer.Option(min=1, help="Of every fine-tuning.")] = 3,
    strengths: Annotated[
        list[float] | None,
        typer.Option(
            "--strength",
            help="Total pull of the L1 penalties to try; repeat. One is taken as it is. Default: 2, 6, 18.",
            show_default=False,
        ),
    ] = None,
    tune_epochs: Annotated[int, typer.Option(min=1, help="Of the short runs that choose among them.")] = 5,
    keep: Annotated[
        list[float] | None,
        typer.Option(
            "--keep",
            help="Share of the MACs that our budget aims at; repeat. Default: 0.55.",
            show_default=False,
        ),
    ] = None,
    device: Device = "auto",
    progress: Progress = "lines",
) -> None:
    """Train and prune ReLU, rotated ReLU and their rivals alike, and show what each saves at which accuracy.

    Same network, images, split, epochs, augmentation and fine-tuning for all; each L1's strength is tuned on the same
    grid of short runs. Writes compare.csv, compare.json and compare.html. Stopped, the same command goes on.
    """
    from ..experiments.comparison.compare import compare_run, results
    from ..experiments.comparison.settings import Settings
    from ..training.recipes import get

    check_choices(device, progress)
    changes = {"epochs": epochs, "data.name": data, "compile": compiled}
    base = override(get(recipe), {key: value for key, value in changes.items() if value is not None})
    lists = {
        "methods": methods, "seeds": seeds, "levels": levels, "finetuned_levels": finetuned_levels,
        "strengths": strengths, "keep": keep,
    }  # fmt: skip
    given: Any = {key: tuple(values) for key, values in lists.items() if values}
    settings = Settings(base, finetune_epochs=finetune_epochs, tune_epochs=tune_epochs, **given)
    comparison = compare_run(settings, out, recipe, device=device, progress=progress)
    console.show(savings_table(results(comparison)["table"]))
    console.show(f"open {out / 'compare.html'}")


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
