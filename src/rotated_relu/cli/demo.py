"""``rotated-relu demo``: the whole path on images that need no download, ReLU and rotated side by side."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..experiments.pipelines.demo import run_demo
from . import console
from .options import Progress, check_choices, directory

if TYPE_CHECKING:
    from rich.table import Table

EXAMPLE = "rotated-relu demo --out runs/demo --seed 0"


def demo(
    out: Annotated[Path, typer.Option(parser=directory, metavar="<path>", help="Directory to write.")] = Path(
        "runs/demo"
    ),
    seed: Annotated[int, typer.Option(help="Of weights, order and augmentation, for both networks.")] = 0,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Default: those of the recipe.", show_default=False)
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Delete an earlier demo there and start over.")
    ] = False,
    progress: Progress = "auto",
) -> None:
    """Train a small network with ReLU and rotated, shrink the rotated one, measure both: about four minutes.

    On 5,000 bundled MNIST digits. Same seed, same epochs; every choice on validation images, the test images
    are read once at the end. Run again with the same options, it reuses the finished trainings and does the
    rest anew.
    """
    check_choices(progress)
    started = time.monotonic()
    again = _again(out, seed, epochs)
    with console.stoppable(f"demo in {out}", again):
        summary = run_demo(out, seed=seed, epochs=epochs, fresh=fresh, progress=progress, command=again)
    console.show(summary_table(summary))
    console.show(
        f"The compacted network equals the thresholded one: largest relative difference "
        f"{summary['certificate_max_relative_difference']:.2g} in float64. "
        f"Everything took {(time.monotonic() - started) / 60:.1f} minutes."
    )
    console.show(f"open {out / 'report.html'}")


def _again(out: Path, seed: int, epochs: int | None) -> str:
    given = "" if epochs is None else f" --epochs {epochs}"
    return f"rotated-relu demo --out {out} --seed {seed}{given}"


def summary_table(summary: Mapping[str, Any]) -> Table:
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
        f"alive; onnxruntime, batch {summary['latency_batch_size']}, {console.plural(threads, 'thread')}"
    )
    return console.table(title, columns, rows)
