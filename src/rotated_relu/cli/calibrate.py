"""``rotated-relu calibrate``: what the layers of a run's network cost in an engine on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..experiments.run_networks import open_run
from ..experiments.stages.calibrate import MINUTES, TableChoice, calibrate_run
from . import console
from .options import Progress, RunPath, check_choices

if TYPE_CHECKING:
    from ..pruning.latency.table import LatencyTable

EXAMPLE = "rotated-relu calibrate runs/first --engine openvino --batch-size 1 --out server.json"
SHOWN = 10


def calibrate(
    run: RunPath,
    engine: Annotated[
        str, typer.Option(metavar="onnxruntime|openvino|torch|torch.compile", help="What runs the layers.")
    ] = "onnxruntime",
    batch_size: Annotated[int, typer.Option(min=1, help="Images per call.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: torch's.", show_default=False)] = None,
    minutes: Annotated[
        float, typer.Option(min=0.01, help="Time that may be spent; what is left is measured the next time.")
    ] = MINUTES,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File of the table, for --latency-table. Default: latency.json of the run.",
            show_default=False,
        ),
    ] = None,
    progress: Progress = "auto",
) -> None:
    """Measure what each layer costs, over all widths it can have.

    What was measured before is taken from the user's cache directory: a second calibration takes a moment, and one that
    was stopped goes on. The table is what --keep-latency and --speedup count milliseconds with.
    """
    check_choices(progress)
    loaded = open_run(run)
    choice = TableChoice(None, engine, batch_size, threads, minutes)
    table = calibrate_run(loaded, choice, out, progress=progress)
    place = out or loaded.run.file("latency")
    show(table)
    console.show(
        f"written to {place}; next: rotated-relu prune {run} --keep-latency 0.5 --latency-table {place}"
    )


def show(table: LatencyTable) -> None:
    """The layers that cost most at their full widths."""
    dearest = sorted(table.entries.items(), key=lambda entry: -entry[1].milliseconds[-1][-1])
    rows = [
        (
            str(geometry),
            f"{grid.inputs[-1]} > {grid.outputs[-1]}",
            console.milliseconds(grid.milliseconds[-1][-1]),
            f"{grid.input_step} > {grid.output_step}",
        )
        for geometry, grid in dearest[:SHOWN]
    ]
    title = f"{table}: the {len(rows)} dearest of {console.plural(len(dearest), 'kind')} of layers"
    console.show(console.table(title, ("layer", "widest", "time", "paid in steps of"), rows))
    console.show(f"a call costs {console.milliseconds(table.call_ms)} whatever the network")
