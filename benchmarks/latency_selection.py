"""Does a network that was chosen for a speed-up have it? Target against measurement, and against the multiplications.

    python benchmarks/latency_selection.py                                # everything; finished rows are kept
    python benchmarks/latency_selection.py --only resnet20 --engines onnxruntime --batch-sizes 64 --speedups 2
    python benchmarks/latency_selection.py --only resnet56 --ways time layers macs macs16
    python benchmarks/latency_selection.py --table                        # the file as Markdown

No training: scores are random, the same ones for all engines, batch sizes and targets. A latency table is calibrated
for the network (``rr.calibrate``, kept in ``--cache``), channels are chosen for the target as
``rr.select_channels(unit="latency", engine=...)`` does, and the compacted network is timed in turn with the original,
in one process. ``reached`` is the measured speed-up over the target, ``achieved`` the measured speed-up over the
reduction of the multiply-accumulates. A target that cannot be met is a row with the message instead.

Other ``--ways``: ``layers`` is the table alone, by which nothing was timed as a whole but the original; ``macs``,
``macs8`` and ``macs16`` choose so many multiply-accumulates as the choice by time has left, channel by channel or in
multiples of 8 or 16: the same work, other widths.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from latency_networks import OWN, batch_sizes, build
from rows import Row, RowFile

import rotated_relu as rr
from rotated_relu.core.errors import SlopeError
from rotated_relu.core.modules import as_inputs
from rotated_relu.deploy.engines import runner
from rotated_relu.deploy.latency.anchoring import anchored
from rotated_relu.deploy.timing import compare_latency
from rotated_relu.experiments.report.markdown import markdown_table
from rotated_relu.pruning.estimate import CostEstimate
from rotated_relu.pruning.importance import random_scores
from rotated_relu.pruning.latency.table import LatencyTable

TORCHVISION = ("resnet18", "resnet50", "vgg16_bn", "mobilenet_v2", "efficientnet_b0", "densenet121")
NETWORKS = (*OWN, *TORCHVISION)
ENGINES = ("onnxruntime", "openvino", "torch", "torch.compile")
SPEEDUPS = (1.5, 2.0, 3.0)
WAYS = {"time": None, "layers": None, "macs": 1, "macs8": 8, "macs16": 16}
THREADS = 1  # see latency_estimate.py
ROUNDS = 21


class Setting:
    """One network in one engine at one batch size."""

    def __init__(self, name: str, engine: str, batch_size: int, cache: Path) -> None:
        self.key = {"network": name, "engine": engine, "batch_size": batch_size}
        self.net, self.inputs = build(name)
        self.scores, self.cache = random_scores(self.net, seed=1), cache
        start = time.monotonic()
        self.table: LatencyTable = rr.calibrate(
            self.net, self.inputs, engine=engine, batch_size=batch_size, threads=THREADS, cache=cache
        )
        self.calibration_s = time.monotonic() - start
        self.timed = as_inputs(self.inputs).of_size(batch_size)

    def rows(self, speedup: float, ways: list[str]) -> Iterator[Row]:
        for way in ways:
            start = time.monotonic()
            try:
                table, mask = self.chosen(way, 1 / speedup)
            except SlopeError as error:
                yield {**self.key, "target": speedup, "way": way, "unreachable": str(error)}
                continue
            seconds = time.monotonic() - start
            found = self.row(table, mask)
            yield {**self.key, "target": speedup, "way": way, "selection_s": seconds, **found}

    def chosen(self, way: str, keep: float) -> tuple[LatencyTable, rr.Mask]:
        """A mask, and the table by which its time is estimated."""
        settings = {"keep": keep, "scores": self.scores}
        if way == "time":
            return anchored(self.net, self.inputs, self.table, cache=self.cache, **settings)
        if way == "layers":
            settings |= {"unit": "latency", "table": self.table}
            return self.table, rr.select_channels(self.net, self.inputs, **settings)
        table, mask = self.chosen("time", keep)
        share = CostEstimate(self.net, self.inputs).share(mask, "macs")
        settings |= {"keep": share, "round_to": WAYS[way]}
        return table, rr.select_channels(self.net, self.inputs, **settings)

    def row(self, table: LatencyTable, mask: rr.Mask) -> Row:
        engine, estimate = self.key["engine"], CostEstimate(self.net, self.inputs, table)
        small = rr.compact(self.net, self.inputs, mask=mask).model
        runs = {
            name: runner(net, self.timed, engine=engine, threads=THREADS)
            for name, net in (("original", self.net), ("small", small))
        }
        times = compare_latency(runs, ROUNDS, min_sample_ms=5.0)
        return {
            "speedup": times.speedup("small", over="original"),
            "estimated_speedup": 1 / estimate.share(mask, "latency"),
            "macs_over_left": 1 / estimate.share(mask, "macs"),
            "channels_left": estimate.share(mask, "channels"),
            "calibration_s": self.calibration_s,
            "load": os.getloadavg()[0],
            "milliseconds": {name: [round(t, 5) for t in all_] for name, all_ in times.milliseconds.items()},
        }


def reached(row: Row) -> float:
    """Measured speed-up over the target."""
    return float(row["speedup"] / row["target"])


def achieved(row: Row) -> float:
    """Measured speed-up over the reduction of multiply-accumulates."""
    return float(row["speedup"] / row["macs_over_left"])


HEAD = (
    "network",
    "engine",
    "batch",
    "target",
    "estimated",
    "measured",
    "of target",
    "MACs / left",
    "of MACs",
)


def tables(file: RowFile) -> str:
    """Medians per processor, engine and way, then every row."""
    rows = [{**row, "processor": file.runs[row["run"]]["environment"]["processor"]} for row in file.rows]
    groups = sorted({_group(row) for row in rows})
    summary = markdown_table(
        (
            "processor",
            "engine",
            "way",
            "rows",
            "unreachable",
            "median of target",
            "within 10 %",
            "median of MACs",
        ),
        [medians(group, [row for row in rows if _group(row) == group]) for group in groups],
    )
    parts = [
        part(f"{way}, {processor}", [r for r in rows if (r["way"], r["processor"]) == (way, processor)])
        for way, processor in sorted({(row["way"], row["processor"]) for row in rows}, reverse=True)
    ]
    return "\n\n".join([summary, *parts])


def part(name: str, rows: list[Row]) -> str:
    """The rows of a way on a processor, and what was refused there."""
    table = markdown_table(HEAD, [line(row) for row in rows if "unreachable" not in row])
    refused = [
        f"{row['network']} in {row['engine']} at batch {row['batch_size']}, {row['target']:g} times"
        for row in rows
        if "unreachable" in row
    ]
    return f"{name}:\n\n{table}" + (f"\n\nRefused: {'; '.join(refused)}." if refused else "")


def _group(row: Row) -> tuple[str, str, str]:
    return row["processor"], row["engine"], row["way"]


def medians(group: tuple[str, str, str], rows: list[Row]) -> tuple[object, ...]:
    met = [row for row in rows if "unreachable" not in row]
    within = sum(abs(reached(row) - 1) <= 0.1 for row in met)
    middle = [f"{statistics.median(map(of, met)):.2f}" if met else "" for of in (reached, achieved)]
    return (*group, len(met), len(rows) - len(met), middle[0], f"{within} of {len(met)}", middle[1])


def line(row: Row) -> tuple[object, ...]:
    numbers = row["estimated_speedup"], row["speedup"], reached(row), row["macs_over_left"], achieved(row)
    key = (row["network"], row["engine"], row["batch_size"], row["target"])
    return (*key, *(f"{number:.2f}" for number in numbers))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--engines", nargs="+", default=("onnxruntime", "openvino"), choices=ENGINES)
    parser.add_argument("--batch-sizes", nargs="+", type=int)
    parser.add_argument("--speedups", nargs="+", type=float, default=SPEEDUPS)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=("time",))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/latency_selection.json"))
    parser.add_argument("--cache", type=Path, default=Path("latency_tables"))
    parser.add_argument("--table", action="store_true", help="print the file as Markdown and stop")
    options = parser.parse_args()
    file = RowFile(options.out, THREADS)
    if options.table:
        print(tables(file))
        return
    warnings.simplefilter("ignore")
    torch.set_num_threads(THREADS)
    options.cache.mkdir(exist_ok=True)
    known = {(r["network"], r["engine"], r["batch_size"], r["target"], r["way"]) for r in file.rows}
    for name in options.only:
        for engine in options.engines:
            for size in options.batch_sizes or batch_sizes(name):
                todo = {
                    speedup: [way for way in options.ways if (name, engine, size, speedup, way) not in known]
                    for speedup in options.speedups
                }
                if not any(todo.values()):
                    continue
                setting = Setting(name, engine, size, options.cache)
                for speedup, ways in todo.items():
                    for row in setting.rows(speedup, ways):
                        print({key: value for key, value in row.items() if key != "milliseconds"}, flush=True)
                        file.add(row)
    print(tables(file))


if __name__ == "__main__":
    main()
