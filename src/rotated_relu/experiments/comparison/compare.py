"""A whole comparison, from the trainings to its page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...core import messages
from ...core.environment import environment
from ...core.formatting import plural
from ...core.messages import Say
from ...core.run_directory import write_json
from ..report.comparison import build_comparison
from .results import table, write_csv
from .run import Comparison
from .settings import Settings


def compare_run(
    settings: Settings,
    out: Path,
    recipe: str,
    *,
    device: str = "auto",
    progress: str = "none",
    say: Say = messages.say,
) -> Comparison:
    """Do what is left of a comparison; write ``compare.csv``, ``compare.json`` and ``compare.html`` after every stage.

    Args:
        settings: What to do.
        out: The directory; one that was stopped goes on.
        recipe: What the settings began with, for the page.
        device: What to train on.
        progress: How to show the progress of trainings.
        say: Called with what is about to be done.

    Raises:
        RunError: If the directory cannot be written to, or holds a comparison with other settings.
        MissingPackageError: If a method needs a package that is not installed.
    """
    comparison = Comparison(settings, out, say=say, device=device, progress=progress)
    for stage in (
        comparison.train,
        comparison.prune,
        comparison.finetune,
        comparison.time,
        comparison.test,
    ):
        stage()
        write_results(comparison, recipe)
    return comparison


def write_results(comparison: Comparison, recipe: str) -> None:
    """Write ``compare.csv``, ``compare.json`` and ``compare.html`` from what there is so far."""
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
    trained, rows = comparison.trainings.accuracies(), comparison.rows()
    reference = comparison.trainings.reference()
    return {"rows": rows, "trained": trained, "reference": reference, "table": table(rows, reference)}


def made(comparison: Comparison, recipe: str) -> list[tuple[str, str]]:
    """How the comparison was made, for the page."""
    settings, here = comparison.settings, environment()
    base = settings.base
    strengths = {training: comparison.trainings.strength(training) for training in settings.tuned}
    facts = {
        "recipe": f"{recipe}: {base.model.name} on {base.data.name}, {plural(base.epochs, 'epoch')}, "
        f"batch {base.batch_size}",
        "seeds": ", ".join(map(str, settings.seeds)),
        "fine-tuning": f"{plural(settings.finetune_epochs, 'epoch')}, "
        f"cosine from {settings.finetune_lr * base.optimizer.lr:g}",
        "strengths": ", ".join(f"{name}: total shrinkage {value:g}" for name, value in strengths.items()),
        "budget": ", ".join(f"{100 * keep:g} % of the MACs" for keep in settings.keep),
        "machine": f"{here['processor']}, {plural(here['threads'], 'thread')}",
        "versions": ", ".join(f"{name} {number}" for name, number in here["versions"].items()),
    }
    return [(name, text) for name, text in facts.items() if text]
