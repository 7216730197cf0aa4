"""The whole path on images that need no download, ReLU and rotated side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core import messages
from ...core.environment import environment
from ...core.formatting import plural
from ...core.messages import Say
from ...core.run_directory import read_json, write_json
from ..report.collect import report_run
from ..stages.evaluate import evaluate_run
from ..stages.export import export_run
from ..stages.finetune import finetune_run
from ..stages.prune import Pruned, prune_run
from ..stages.train import override
from .baseline import BaselinePair, clear, measure_pair, relu_baseline, train_baseline

if TYPE_CHECKING:
    from ...training import Config

TOLERANCE = 0.2  # points of validation accuracy that the threshold may cost
FINETUNE_EPOCHS = 2
ROUNDS = 30  # of the latency comparison
REMEDY = "add --fresh to delete it and start over, or choose another --out"
BATCH_SIZES = (1, 64)  # the last one is the one that the summary quotes


def run_demo(
    out: Path,
    *,
    seed: int = 0,
    epochs: int | None = None,
    fresh: bool = False,
    progress: str = "none",
    command: str | None = None,
    say: Say = messages.say,
) -> dict[str, Any]:
    """Do it all; return what ``summary.json`` holds.

    Args:
        out: The run of the rotated network, so that every verb works on it; ``out/relu`` is the other one.
        seed: Of weights, order and augmentation, for both networks.
        epochs: In place of the recipe's.
        fresh: Delete an earlier demo there.
        progress: How trainings show their progress: ``bar``, ``lines`` or ``none``.
        command: What made it, for the page.
        say: Called with what is about to be done.

    Raises:
        RunError: If ``out`` holds a run with other settings.
    """
    if fresh:
        clear(out)
    rotated = demo_config(seed, epochs)
    relu = relu_baseline(rotated)
    both = BaselinePair.at(out)
    assert both.relu is not None
    for config, loaded, label in ((relu, both.relu, "ReLU"), (rotated, both.rotated, "rotated ReLU")):
        train_baseline(loaded, config, label, remedy=REMEDY, device="cpu", progress=progress, say=say)
    pruned = prune_run(both.rotated, tolerance=TOLERANCE, say=say)
    say(f"threshold {pruned.found.value:g}: {pruned.found.alive} of {pruned.found.total} filters alive")
    say(f"fine-tuning the compacted network, {plural(FINETUNE_EPOCHS, 'epoch')}")
    finetune_run(both.rotated, epochs=FINETUNE_EPOCHS, device="cpu", progress=progress)
    export_run(both.rotated, "finetuned", say=say)
    say("measuring all networks in turn")
    summary = _summary(both, pruned, measure_pair(both, BATCH_SIZES, ROUNDS))
    write_json(both.rotated.run.file("summary"), summary)
    report_run(both.rotated, both.relu, command=command)
    return summary


def demo_config(seed: int, epochs: int | None) -> Config:
    """The recipe with the options of the command line."""
    from ...training.recipes import get

    changes: dict[str, Any] = {"seed": seed}
    if epochs is not None:
        changes["epochs"] = epochs
    return override(get("demo"), changes)


def _summary(both: BaselinePair, pruned: Pruned, measured: dict[str, Any]) -> dict[str, Any]:
    """What the demo found. The test images are read here, once, when nothing is left to choose."""
    assert both.relu is not None
    speedups = {str(timed["batch_size"]): timed["speedup"]["compact"] for timed in measured["latency"]}
    return {
        "relu_test_accuracy": evaluate_run(both.relu, "trained", "test").percent,
        "rotated_test_accuracy": evaluate_run(both.rotated, "trained", "test").percent,
        "compact_test_accuracy": evaluate_run(both.rotated, "compact", "test").percent,
        "finetuned_test_accuracy": evaluate_run(both.rotated, "finetuned", "test").percent,
        "threshold": pruned.found.value,
        "filters": pruned.found.total,
        "filters_alive": pruned.found.alive,
        "macs_saved": measured["saved"]["compact"]["macs"],
        "parameters_saved": measured["saved"]["compact"]["parameters"],
        "latency_speedup": speedups[str(BATCH_SIZES[-1])],
        "latency_batch_size": BATCH_SIZES[-1],
        "latency_speedup_by_batch_size": speedups,
        "certificate_max_relative_difference": pruned.result.certificate.max_relative_difference,
        "seed": both.rotated.config.seed,
        "epochs": both.rotated.config.epochs,
        "finetune_epochs": FINETUNE_EPOCHS,
        "images": read_json(both.rotated.run.file("provenance")),
        "environment": environment(),
    }
