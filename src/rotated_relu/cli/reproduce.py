"""``rotated-relu reproduce``: an experiment of the paper with one command, from training to the table."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..experiments.pipelines.reproduce import plan_for, reproduce_run
from . import console
from .options import Device, Progress, check_choices, directory

if TYPE_CHECKING:
    from rich.table import Table

EXAMPLE = "rotated-relu reproduce fcnn_mnist --data mnist5k --epochs 20 --out runs/fcnn"


def reproduce(
    name: Annotated[str, typer.Argument(help="A recipe; see: rotated-relu recipes", show_default=False)],
    out: Annotated[
        Path,
        typer.Option(
            parser=directory,
            metavar="<path>",
            help="Run directory to write; one that was stopped goes on.",
            show_default=False,
        ),
    ] = ...,  # type: ignore[assignment]
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Length of the whole training; schedules and both steps keep their proportions.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Other images: short name, name on the Hub, or folder.", show_default=False),
    ] = None,
    validation: Annotated[
        float | None,
        typer.Option(help="Training images to choose on: a share below 1, or a count.", show_default=False),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that decode images from disk.", show_default=False)
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(metavar="auto|bf16|fp16|32", help="Arithmetic in training.", show_default=False),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of weights, order, augmentation.", show_default=False)
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Points of validation accuracy that the threshold may cost. Default: 0.2; two-step recipes take "
            "the paper's threshold instead of searching.",
            show_default=False,
        ),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Instead: exactly this threshold.", show_default=False)
    ] = None,
    retrain_epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of the compacted network. Default: a twentieth of the training; in two steps, the second.",
            show_default=False,
        ),
    ] = None,
    baseline: Annotated[
        bool, typer.Option("--baseline/--no-baseline", help="Train the same network with plain ReLU too.")
    ] = True,
    device: Device = "auto",
    progress: Progress = "auto",
) -> None:
    """Do a whole experiment: train, choose on validation, compact, retrain, test once, compare with the paper.

    The same command again goes on where it was stopped or killed; a finished one is only shown. OUT is the run of the
    rotated network and OUT/relu that of the ReLU network: every verb works on both. The full recipes take hours to
    months (see: rotated-relu recipes); --epochs makes them short.
    """
    changes = {
        "epochs": epochs,
        "data.name": data,
        "data.validation": validation,
        "data.workers": workers,
        "precision": precision,
        "seed": seed,
    }
    choices: dict[str, Any] = {
        "tolerance": tolerance,
        "threshold": threshold,
        "retrain_epochs": retrain_epochs,
    }
    given = {key: value for key, value in changes.items() if value is not None}
    check_choices(progress, device)
    plan = plan_for(name, given, **choices, baseline=baseline)
    again = _command(
        name, out, {**changes, **choices, "device": device if device != "auto" else None}, baseline
    )
    cost = plan.recipe.cost.times(plan.whole.epochs / plan.recipe.build().epochs)
    console.say(
        f"{plan.recipe.about} Expected cost: {cost.words()}{', twice with the ReLU network' if baseline else ''}."
    )
    with console.stoppable(f"reproduction in {out}", again):
        record = reproduce_run(plan, out, device=device, progress=progress, command=again)
    console.show(outcome_table(record), *notes(record), f"open {out / 'report.html'}")


def _command(name: str, out: Path, options: Mapping[str, Any], baseline: bool) -> str:
    """The command line that goes on with this one."""
    words = ["rotated-relu", "reproduce", name, "--out", str(out)]
    for key, value in options.items():
        if value is not None:
            words += [f"--{key.removeprefix('data.').replace('_', '-').replace('name', 'data')}", f"{value}"]
    return shlex.join(words if baseline else [*words, "--no-baseline"])


def outcome_table(record: Mapping[str, Any]) -> Table:
    """Every network of an experiment, and the paper's figures in the last row."""
    rows = [
        (
            row["network"],
            console.percent(row["validation_accuracy"]),
            console.percent(row["test_accuracy"]),
            _both(row.get("paper_memory_saved"), row.get("paper_flops_saved")),
            _both(row.get("achieved_weights_saved"), row.get("achieved_macs_saved")),
        )
        for row in record["networks"]
    ]
    published = record["published"]
    if published["memory_saved"] is not None:
        figures = _both(published["memory_saved"] / 100, published["flops_saved"] / 100)
        rows.append(("published", "", "", figures, ""))
    epochs = record["epochs"]
    title = (
        f"{record['recipe']}: {record['model']} on {record['data']}, {epochs['training']} + "
        f"{epochs['retraining']} epochs, "
        f"seed {record['seed']}; threshold {record['threshold']:g} ({record['threshold_by']}), "
        f"{record['filters_alive']} of {record['filters']} filters alive"
    )
    columns = ("network", "validation", "test", "saved, paper count", "saved, achieved")
    return console.table(title, columns, rows)


def _both(weights: float | None, work: float | None) -> str:
    """Memory and computation in one cell."""
    return "" if weights is None or work is None else f"{console.share(weights)} / {console.share(work)}"


def notes(record: Mapping[str, Any]) -> list[str]:
    """What is to be known when the figures are compared with the paper's."""
    published, epochs = record["published"], sum(record["epochs"].values())
    lines = [
        "Saved: memory / FLOPs in the paper's count, which takes neighbouring slopes for what can go; weights of "
        "convolutions and linear layers / MACs achieved, that is physically removed."
    ]
    if published["memory_saved"] is None:
        lines.append("The paper's savings for this row are not in our source; nor are its accuracies.")
    else:
        lines.append("The paper's accuracies are not in our source.")
    if record["data"] != published["data"] or epochs < published["epochs"]:
        lines.append(
            f"The published row is {published['epochs']} epochs on {published['data']}; these are "
            f"{record['epochs']['training']} + {record['epochs']['retraining']} on {record['data']}."
        )
    return [*lines, published["note"]] if published["note"] else lines
