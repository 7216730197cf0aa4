"""``rotated-relu demo``: the whole path on images that need no download, ReLU and rotated side by side."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.environment import environment
from ..core.run_directory import write_json
from ..experiments.pipelines.baseline import BaselinePair, clear, measure_pair, relu_baseline, train_baseline
from . import console
from .evaluate import evaluate_run
from .export import export_run
from .finetune import finetune_run
from .options import Progress
from .prune import Pruned, prune_run
from .report import report_run
from .train import interrupted, override

if TYPE_CHECKING:
    from ..training import Config

EXAMPLE = "rotated-relu demo --out runs/demo --seed 0"
TOLERANCE = 0.2  # points of validation accuracy that the threshold may cost
FINETUNE_EPOCHS = 2
ROUNDS = 30  # of the latency comparison
REMEDY = "add --fresh to delete it and start over, or choose another --out"
BATCH_SIZES = (1, 64)  # the last one is the one that the summary quotes


def demo(
    out: Annotated[Path, typer.Option(help="Directory to write.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Of weights, order and augmentation, for both networks.")] = 0,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Default: those of the recipe.", show_default=False)
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Delete an earlier demo there and start over.")
    ] = False,
    progress: Progress = "lines",
) -> None:
    """Train a small network with ReLU and rotated, shrink the rotated one, measure both: about four minutes.

    On 5,000 bundled MNIST digits. Same seed, same epochs; every choice on validation images, the test images
    are read once at the end. Run again with the same options, it reuses the finished trainings and does the
    rest anew.
    """
    started = time.monotonic()
    if fresh:
        clear(out)
    summary = run_demo(out, seed=seed, epochs=epochs, progress=progress, again=_again(out, seed, epochs))
    console.show(summary_table(summary))
    console.show(
        f"The compacted network equals the thresholded one: largest relative difference "
        f"{summary['certificate_max_relative_difference']:.2g} in float64. "
        f"Everything took {(time.monotonic() - started) / 60:.1f} minutes."
    )
    console.show(f"open {out / 'report.html'}")


def run_demo(
    out: Path, *, seed: int = 0, epochs: int | None = None, progress: str = "none", again: str = ""
) -> dict[str, Any]:
    """Do it all; return what ``summary.json`` holds.

    ``out`` itself is the run of the rotated network, so that every verb works on it; ``out/relu`` is the
    other one.
    """
    rotated = demo_config(seed, epochs)
    relu = relu_baseline(rotated)
    both = BaselinePair.at(out)
    assert both.relu is not None
    for config, loaded, label in ((relu, both.relu, "ReLU"), (rotated, both.rotated, "rotated ReLU")):
        train_baseline(loaded, config, label, again=again, remedy=REMEDY, device="cpu", progress=progress)
    try:
        pruned = prune_run(both.rotated, tolerance=TOLERANCE)
        console.say(
            f"threshold {pruned.found.value:g}: {pruned.found.alive} of {pruned.found.total} filters alive"
        )
        console.say(f"fine-tuning the compacted network, {FINETUNE_EPOCHS} epochs")
        finetune_run(both.rotated, epochs=FINETUNE_EPOCHS, device="cpu", progress=progress)
        export_run(both.rotated, "finetuned")
        console.say("measuring all networks in turn")
        summary = _summary(both, pruned, measure_pair(both, BATCH_SIZES, ROUNDS))
    except KeyboardInterrupt as error:
        interrupted(f"demo in {out}", again, error)
    write_json(both.rotated.run.file("summary"), summary)
    report_run(both.rotated, both.relu, command=again)
    return summary


def demo_config(seed: int, epochs: int | None) -> Config:
    """The recipe with the options of the command line."""
    from ..training.recipes import get

    changes: dict[str, Any] = {"seed": seed, "precision": "bf16" if has_bf16() else "32"}
    if epochs is not None:
        changes["epochs"] = epochs
    return override(get("demo"), changes)


def has_bf16() -> bool:
    """Whether the processor computes in bfloat16 itself; where it is emulated, float32 is faster."""
    import torch

    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return supported is not None and bool(supported())


def _again(out: Path, seed: int, epochs: int | None) -> str:
    given = "" if epochs is None else f" --epochs {epochs}"
    return f"rotated-relu demo --out {out} --seed {seed}{given}"


def _summary(both: BaselinePair, pruned: Pruned, measured: dict[str, Any]) -> dict[str, Any]:
    """What the demo found. The test images are read here, once, when nothing is left to choose."""
    assert both.relu is not None
    speedups = {str(timed["batch_size"]): timed["speedup"]["compact"] for timed in measured["latency"]}
    return {
        "relu_test_accuracy": evaluate_run(both.relu, "trained", "test"),
        "rotated_test_accuracy": evaluate_run(both.rotated, "trained", "test"),
        "compact_test_accuracy": evaluate_run(both.rotated, "compact", "test"),
        "finetuned_test_accuracy": evaluate_run(both.rotated, "finetuned", "test"),
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
        "images": both.rotated.images.provenance,
        "environment": environment(),
    }


def summary_table(summary: dict[str, Any]) -> Any:
    """The demo's closing table."""
    rows = [
        ("ReLU", console.percent(summary["relu_test_accuracy"]), "", "", ""),
        ("rotated", console.percent(summary["rotated_test_accuracy"]), "", "", ""),
        (
            "compacted",
            console.percent(summary["compact_test_accuracy"]),
            console.share(summary["macs_saved"]),
            console.share(summary["parameters_saved"]),
            f"{summary['latency_speedup']:.2f} x",
        ),
        ("compacted, fine-tuned", console.percent(summary["finetuned_test_accuracy"]), "", "", ""),
    ]
    columns = ("network", "test accuracy", "MACs saved", "parameters saved", "speed-up")
    threads = summary["environment"]["threads"]
    title = (
        f"Threshold {summary['threshold']:g}: {summary['filters_alive']} of {summary['filters']} filters "
        f"alive; onnxruntime, batch {summary['latency_batch_size']}, {threads} threads"
    )
    return console.table(title, columns, rows)
