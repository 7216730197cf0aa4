"""``rotated-relu measure``: what the networks of a run cost, timed side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..experiments.run_networks import open_run
from ..experiments.stages.measure import BATCH_SIZES, measure_run
from . import console
from .options import RunPath

if TYPE_CHECKING:
    from rich.table import Table

EXAMPLE = "rotated-relu measure runs/first --against runs/first-relu --batch-size 64"


def measure(
    run: RunPath,
    against: Annotated[
        str | None, typer.Option(metavar="RUN", help="Another run to compare with.", show_default=False)
    ] = None,
    batch_size: Annotated[
        list[int], typer.Option(min=1, help="Images per timed call; may be given several times.")
    ] = list(BATCH_SIZES),  # noqa: B006 - typer copies it
    repeats: Annotated[int, typer.Option(min=1, help="Timed rounds.")] = 30,
    engine: Annotated[
        list[str],
        typer.Option(
            metavar="onnxruntime|openvino|torch|torch.compile|all",
            help="What runs the networks; given several times, the engines are compared.",
        ),
    ] = ["onnxruntime"],  # noqa: B006 - typer copies it
    threads: Annotated[int | None, typer.Option(min=1, help="Default: torch's.", show_default=False)] = None,
) -> None:
    """Parameters, MACs, size, memory and latency, before and after; kept in measure.json.

    All networks are timed in turn, so that a busy machine slows all of them alike. The first one is the
    reference: the network of the other run if one is given, else the trained network. Engines that run graphs
    get each network in the layout that is fastest there.
    """
    from ..experiments.report.steadiness import busy, unsteadiness

    loaded = open_run(run)
    reference = None if against is None else open_run(against)
    data = measure_run(loaded, reference, batch_size, engines=engine, repeats=repeats, threads=threads)
    console.show(measurement_table(data))
    if len(data["engines"]) > 1:
        console.show(engine_table(data), *fastest_words(data))
    warning = busy(unsteadiness(part for engine in data["engines"] for part in engine["latency"]))
    if warning:
        console.show(warning)
    console.show_next(loaded)


def engine_table(data: Mapping[str, Any]) -> Table:
    """Table of several engines: latency of the last network, and its speed-up over the first."""
    network = list(data["networks"])[-1]
    rows = []
    for engine in data["engines"]:
        cells = []
        for timed in engine["latency"]:
            gain = timed["speedup"].get(network)
            faster = "" if gain is None else f" ({gain:.2f} x)"
            cells.append(console.milliseconds(timed["medians_ms"][network]) + faster)
        rows.append((engine["engine"], *cells))
    columns = [f"batch {timed['batch_size']}" for timed in data["latency"]]
    return console.table(
        f"{network}, and how much faster than {data['reference']}", ("engine", *columns), rows
    )


def fastest_words(data: Mapping[str, Any]) -> list[str]:
    """Which engine is fastest at which batch size."""
    return [f"fastest at batch {size}: {engine}" for size, engine in data["fastest"].items()]


def measurement_table(data: Mapping[str, Any]) -> Table:
    """Table of :func:`measure_networks`: one column per network."""
    names = list(data["networks"])
    nets = [data["networks"][name] for name in names]
    rows = [
        ("parameters", *(console.count(net["parameters"]) for net in nets)),
        ("MACs per image", *(console.count(net["macs"]) for net in nets)),
        ("file", *(console.kibibytes(net["file_bytes"]) for net in nets)),
        ("peak memory, one image", *(console.kibibytes(net["peak_memory_bytes"]) for net in nets)),
        ("parameters saved", "", *(console.share(data["saved"][name]["parameters"]) for name in names[1:])),
        ("MACs saved", "", *(console.share(data["saved"][name]["macs"]) for name in names[1:])),
    ]
    for timed in data["latency"]:
        size = timed["batch_size"]
        rows.append(
            (f"latency, batch {size}", *(console.milliseconds(timed["medians_ms"][n]) for n in names))
        )
        if "estimated_ms" in timed:
            known = timed["estimated_ms"]
            cells = (console.milliseconds(known[n]) if n in known else "" for n in names)
            rows.append((f"estimated, batch {size}", *cells))
        rows.append((f"speed-up, batch {size}", "", *(f"{timed['speedup'][n]:.2f} x" for n in names[1:])))
    where = data["environment"]
    title = f"{data['engine']}, {where['processor']}, {console.plural(where['threads'], 'thread')}"
    return console.table(title, ("", *names), rows)
