"""``rotated-relu compare``: the rotated ReLU and its rivals on the same task, in one run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.environment import environment
from ..core.run_directory import write_json
from ..experiments.stages.train import override
from . import console
from .options import Device, Progress, check_choices

if TYPE_CHECKING:
    from rich.table import Table

    from ..experiments.comparison.run import Comparison

EXAMPLE = "rotated-relu compare resnet20_cifar10_compare --out runs/compare"


def compare(
    recipe: Annotated[str, typer.Argument(help="How all networks train; see: rotated-relu recipes")],
    out: Annotated[
        Path, typer.Option(help="Directory to write; a stopped comparison there goes on.", show_default=False)
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
    from ..experiments.comparison.run import Comparison
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
    comparison = Comparison(settings, out, say=console.show, device=device, progress=progress)
    with console.stoppable(f"the comparison in {out}", "the same command"):
        for stage in (
            comparison.train,
            comparison.prune,
            comparison.finetune,
            comparison.time,
            comparison.test,
        ):
            stage()
            write_results(comparison, recipe)
    console.show(savings_table(comparison))
    console.show(f"open {out / 'compare.html'}")


def write_results(comparison: Comparison, recipe: str) -> None:
    """Write ``compare.csv``, ``compare.json`` and ``compare.html`` from what there is so far."""
    from ..experiments.comparison.results import write_csv
    from ..experiments.report.comparison import build_comparison

    rows = comparison.rows()
    if not rows:
        return
    data = {"title": f"{recipe}: pruning methods compared", **results(comparison)}
    data["made"] = made(comparison, recipe)
    write_json(comparison.task.path / "compare.json", {**data, "environment": environment()})
    write_csv(rows, comparison.task.path / "compare.csv")
    build_comparison(data, comparison.task.path / "compare.html")


def results(comparison: Comparison) -> dict[str, Any]:
    """Rows, accuracies as trained, and the table of savings, as plain data."""
    from ..experiments.comparison.results import table

    trained, rows = comparison.trainings.accuracies(), comparison.rows()
    reference = comparison.trainings.reference()
    return {"rows": rows, "trained": trained, "reference": reference, "table": table(rows, reference)}


def made(comparison: Comparison, recipe: str) -> list[tuple[str, str]]:
    """How the comparison was made, for the page."""
    settings, here = comparison.settings, environment()
    base = settings.base
    strengths = {training: comparison.trainings.strength(training) for training in settings.tuned}
    facts = {
        "recipe": f"{recipe}: {base.model.name} on {base.data.name}, {base.epochs} epochs, batch {base.batch_size}",
        "seeds": ", ".join(map(str, settings.seeds)),
        "fine-tuning": f"{settings.finetune_epochs} epochs, cosine from {settings.finetune_lr * base.optimizer.lr:g}",
        "strengths": ", ".join(f"{name}: total pull {value:g}" for name, value in strengths.items()),
        "budget": ", ".join(f"{100 * keep:g} % of the MACs" for keep in settings.keep),
        "machine": f"{here['processor']}, {here['threads']} threads",
        "versions": ", ".join(f"{name} {number}" for name, number in here["versions"].items()),
    }
    return [(name, text) for name, text in facts.items() if text]


def savings_table(comparison: Comparison) -> Table:
    """What each method saves, before and after fine-tuning."""
    found = results(comparison)["table"]
    losses = sorted({entry["loss"] for entry in found})
    rows = []
    for label, stage in dict.fromkeys((entry["label"], entry["stage"]) for entry in found):
        cells = [
            e for loss in losses for e in found if (e["label"], e["stage"], e["loss"]) == (label, stage, loss)
        ]
        rows.append((label, stage, *(console.share(cell["macs"]) for cell in cells)))
    heads = ("method", "fine-tuning", *(f"-{loss:g} points" for loss in losses))
    return console.table("MACs saved at a loss of validation accuracy", heads, rows)
