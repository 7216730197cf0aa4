"""A whole comparison, from the trainings to its page."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...core import messages
from ...core.environment import environment
from ...core.formatting import plural
from ...core.messages import Say
from ...core.progress import showing
from ...core.run_directory import Run, as_written, read_json, write_json
from ..report.comparison import build_comparison
from ..report.comparison_markdown import write_markdown
from .epochs import total_epochs
from .latency import check_engines
from .results import table, write_csv
from .run import Comparison
from .settings import Settings
from .spread import SPLITS, equal_training, faster_at_loss, interpolated

DISTRIBUTIONS = {"torch_pruning": "torch-pruning", "modelopt": "nvidia-modelopt", "onnxsim": "onnxsim"}


def compare_run(
    settings: Settings,
    out: Path,
    recipe: str,
    *,
    device: str = "auto",
    progress: str = "none",
    command: str | None = None,
    say: Say = messages.say,
) -> Comparison:
    """Do what is left of a comparison; write its results (:func:`write_results`) after every stage.

    Args:
        settings: What to do.
        out: The directory; one that was stopped goes on.
        recipe: What the settings began with, for the page.
        device: What to train on.
        progress: How to show the progress of trainings.
        command: What made it, for the page.
        say: Called with what is about to be done.

    Raises:
        RunError: If the directory cannot be written to, is in use, or holds a run or a comparison with other settings.
        MissingPackageError: If a method needs a package that is not installed.
    """
    comparison = Comparison(settings, out, say=say, device=device, progress=progress)
    stages = (comparison.train, comparison.prune, comparison.finetune, comparison.time, comparison.test)
    with showing(progress, say), Run(out).claimed():
        for number, stage in enumerate(stages, 1):
            with _clocked(comparison):
                stage()
            write_results(comparison, recipe, command, finished=number == len(stages))
    return comparison


@contextlib.contextmanager
def _clocked(comparison: Comparison) -> Iterator[None]:
    """Add the seconds of the ``with`` block to those of all calls so far, also where it is stopped."""
    path, started = comparison.task.path / "seconds.json", time.monotonic()
    try:
        yield
    finally:
        write_json(path, {"seconds": seconds_of(comparison) + time.monotonic() - started})


def seconds_of(comparison: Comparison) -> float:
    """Wall-clock time over all the calls that it took."""
    path = comparison.task.path / "seconds.json"
    return read_json(path, dict[str, float])["seconds"] if path.is_file() else 0.0


def write_results(
    comparison: Comparison, recipe: str, command: str | None = None, *, finished: bool = True
) -> None:
    """Write ``compare.csv``, ``compare.json``, ``compare.html`` and ``compare.md`` from what there is so far.

    Args:
        comparison: The comparison.
        recipe: What it began with.
        command: What made it.
        finished: Whether nothing is left to do; else the page says so.
    """
    rows = comparison.rows()
    if not rows or not comparison.trainings.has_reference:
        return
    path = comparison.task.path
    with as_written(path / "points", path / "trained.json", path / "tuning"):
        data = {"title": f"{recipe}: pruning methods compared", **results(comparison)}
        data["made"] = made(comparison, recipe, command)
    data["finished"] = finished
    write_json(path / "compare.json", {**data, "environment": environment()})
    write_csv(rows, path / "compare.csv")
    build_comparison(data, path / "compare.html")
    write_markdown(data, path / "compare.md")


def results(comparison: Comparison) -> dict[str, Any]:
    """Rows, accuracies as trained, and the tables, as plain data."""
    trained, rows = comparison.trainings.accuracies(), comparison.rows()
    reference = comparison.trainings.reference()
    return {
        "rows": rows,
        "trained": trained,
        "titles": {str(training): training.title for training in comparison.trainings.all()},
        "reference": reference,
        "brought": comparison.settings.weights is not None,
        "table": table(rows, reference),
        "equal_training": {split: equal_training(rows, reference, split) for split in SPLITS},
        "interpolated": {split: interpolated(rows, reference, split) for split in SPLITS},
        "faster": {split: faster_at_loss(rows, reference, split) for split in SPLITS},
        "tuning": comparison.trainings.tuning(),
        "failures": comparison.failures(),
        "seconds": seconds_of(comparison),
    }


def made(comparison: Comparison, recipe: str, command: str | None) -> list[tuple[str, str]]:
    """How the comparison was made, for the page."""
    settings, here = comparison.settings, environment()
    base, weights = settings.base, settings.weights
    facts = {
        "command": command or "",
        "recipe": f"{recipe}: {base.model.name} on {base.data.name}, batch {base.batch_size}",
        "start": "random weights, the same for all" if weights is None else Path(weights.place).name,
        "epochs": f"{total_epochs(settings)} for every method in all; {_parts(settings)}",
        "images": _images(comparison),
        "optimizer": _optimizer(settings),
        "distillation": _distillation(settings),
        "seeds": ", ".join(map(str, settings.seeds)),
        "strengths": "; ".join(
            _strength(name, found) for name, found in comparison.trainings.tuning().items()
        ),
        "budget": ", ".join(_budgets(settings)),
        "machine": f"{here['processor']}, {plural(here['threads'], 'thread')}",
        "seconds": f"{seconds_of(comparison):.0f}",
        "versions": ", ".join(f"{name} {number}" for name, number in _versions(here, settings).items()),
    }
    return [(name, text) for name, text in facts.items() if text]


def _parts(settings: Settings) -> str:
    if settings.weights is None:
        lr = settings.finetune_lr * settings.base.optimizer.lr
        return f"{settings.base.epochs} of them before pruning; after it a cosine from {lr:g}"
    return "what needs a training of its own before it prunes has half of them for it, on one schedule with the rest"


def _images(comparison: Comparison) -> str:
    images, data = comparison.task.images, comparison.settings.base.data
    seen = ", which the brought network may have been trained on" if comparison.settings.weights else ""
    return (
        f"{len(images.train):,} to train on; {len(images.validation):,} held out for choices (split seed "
        f"{data.split_seed}){seen}; {len(images.test):,} test images, read once, at the end"
    )


def _optimizer(settings: Settings) -> str:
    base = settings.base
    momentum = f", momentum {base.optimizer.momentum:g}" if base.optimizer.name == "sgd" else ""
    return (
        f"{base.optimizer.name}{momentum}{', Nesterov' if base.optimizer.nesterov else ''}, learning rate "
        f"{base.optimizer.lr:g}, {base.schedule.name}, weight decay {base.optimizer.weight_decay:g}, {base.precision}"
    )


def _distillation(settings: Settings) -> str:
    distill = settings.base.distill
    if distill.weight == 0:
        return "none"
    when = "after pruning" if settings.weights is None else "throughout"
    return (
        f"{distill.weight:g} of the loss from the plain network, temperature {distill.temperature:g}, {when}"
    )


def _strength(name: str, found: Mapping[str, Any]) -> str:
    where = "" if found.get("inside", True) else ", still at the edge of what was tried"
    return f"{name}: total shrinkage {found['chosen']:g} of {', '.join(found['validation_accuracy'])}{where}"


def _budgets(settings: Settings) -> list[str]:
    names = {method.name for method in settings.chosen}
    macs = [f"{100 * keep:g} % of the MACs" for keep in settings.keep if "budget" in names]
    where = f"in {settings.engines[0]} at batch {settings.batch_sizes[0]}"
    return macs + [f"{speedup:g} times as fast {where}" for speedup in settings.speedups]


def _versions(here: Mapping[str, Any], settings: Settings) -> dict[str, str]:
    """Of what trained, chose and measured."""
    versions = dict(here["versions"])
    for tool in {method.tool for method in settings.chosen} - {None}:
        versions[DISTRIBUTIONS[str(tool)]] = version(DISTRIBUTIONS[str(tool)])
    return versions | (check_engines(settings.engines) if settings.latency_repeats else {})
