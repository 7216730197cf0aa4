"""How far is the estimated latency of a pruned network from the measured one, per network, engine and batch size?

    python benchmarks/latency_estimate.py                                   # everything; finished rows are kept
    python benchmarks/latency_estimate.py --only resnet20 resnet56 --engines onnxruntime --batch-sizes 1
    python benchmarks/latency_estimate.py --table                           # the file as Markdown

Ten masks in steps of 8 channels, whole branches included, are chosen with random scores at shares of the
multiply-accumulates between 0.35 and 0.9; each network is compacted and exported with exact widths, once for all
engines and batch sizes. A latency table is calibrated for each of these (``rr.calibrate``, kept in ``--cache``), and
the exported graph is timed twice in one process: by itself, and in turn with that of the original.

``error`` is estimated over measured milliseconds less 1; measured by itself, as networks run that are not compared: the
median over the rounds of the time over that of the program that the table was measured against, times what that takes
undisturbed (``reference_ms`` of the table), so that both sides are of the same machine, as fast as it is when left
alone. ``relative`` is the error of the share of the original that is left, timed in turn with that. A mask at share 1
is the original itself. ``raw`` has the times in turn as they were taken. In rows without ``alone`` milliseconds were
measured in turn with the original as well, each in caches that the other one left; the table leaves them out.
``calibration`` has the seconds of the first calibration, and those of a second one that finds everything in the cache,
with the capture of the network and without.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from latency_networks import OWN, batch_sizes, build
from rows import Row, RowFile

import rotated_relu as rr
from rotated_relu.core.modules import as_inputs
from rotated_relu.deploy.conversion import to_onnx
from rotated_relu.deploy.engines import engine_named
from rotated_relu.deploy.latency.measuring import Bench
from rotated_relu.deploy.timing import Runnable, compare_latency
from rotated_relu.experiments.report.markdown import markdown_table
from rotated_relu.pruning.estimate import CostEstimate
from rotated_relu.pruning.importance import random_scores
from rotated_relu.pruning.latency.table import LatencyTable

TORCHVISION = (
    "resnet18", "resnet50", "vgg16_bn", "mobilenet_v2", "efficientnet_b0", "densenet121", "vit_b_16",
)  # fmt: skip
NETWORKS = (*OWN, *TORCHVISION, "yolov8n")
ENGINES = ("onnxruntime", "openvino")
SHARES = tuple(0.35 + 0.55 * number / 9 for number in range(10))
STEP = 8  # channels
THREADS = 1  # two wait for each other, and one of them is always disturbed on a shared machine
ROUNDS = 21


class Pruned:
    """A network and what random masks leave of it, exported.

    Attributes:
        net: The original.
        inputs: Example inputs.
        masks: By share of the multiply-accumulates; None is the original.
        programs: Exported, likewise.
    """

    def __init__(self, name: str) -> None:
        self.net, self.inputs = build(name)
        self.masks: dict[float, rr.Mask | None] = {1.0: None}
        for share in SHARES:
            mask = self._mask(share)
            if mask is not None:
                self.masks[round(share, 3)] = mask
        self.programs = {share: self._exported(mask) for share, mask in self.masks.items()}

    def _mask(self, share: float) -> rr.Mask | None:
        scores = random_scores(self.net, seed=round(1000 * share))
        try:
            return rr.select_channels(self.net, self.inputs, keep=share, scores=scores, round_to=STEP)
        except rr.errors.SlopeError as error:  # less than can be had
            print(f"  {share:.2f}: {error}", flush=True)
            return None

    def _exported(self, mask: rr.Mask | None) -> bytes:
        net = self.net if mask is None else rr.compact(self.net, self.inputs, mask=mask).model
        return to_onnx(net, self.inputs).content


def rows_of(name: str, pruned: Pruned, engine: str, batch_size: int, cache: Path) -> Iterator[Row]:
    table, seconds = calibrated(pruned, engine, batch_size, cache)
    estimate, found = CostEstimate(pruned.net, pruned.inputs, table), engine_named(engine)
    whole = estimate.whole("latency")
    inputs = as_inputs(pruned.inputs).of_size(batch_size)
    original = found.started(pruned.programs[1.0], inputs, THREADS)
    bench = Bench(found, THREADS, batch_size, table.reference_ms)
    for share, mask in pruned.masks.items():
        estimated = whole if mask is None else estimate.of(mask, "latency")
        small = found.started(pruned.programs[share], inputs, THREADS)
        runs: dict[str, Runnable] = {"original": original, "small": small}
        times = compare_latency(runs, ROUNDS, min_sample_ms=5.0)
        measured = bench.program_ms(pruned.programs[share], inputs)
        left = 1 / times.speedup("small", over="original")
        yield {
            "network": name,
            "engine": engine,
            "batch_size": batch_size,
            "share": share,
            "macs_left": 1.0 if mask is None else estimate.share(mask, "macs"),
            "estimated_ms": estimated,
            "measured_ms": measured,
            "alone": True,
            "error": estimated / measured - 1,
            "estimated_left": estimated / whole,
            "measured_left": left,
            "relative": estimated / whole / left - 1,
            "reference_ms": table.reference_ms,
            "raw": {key: [round(one, 5) for one in all_] for key, all_ in times.milliseconds.items()},
            "calibration": seconds,
        }


def calibrated(
    pruned: Pruned, engine: str, batch_size: int, cache: Path
) -> tuple[LatencyTable, dict[str, float]]:
    options: Any = {"engine": engine, "batch_size": batch_size, "threads": THREADS, "cache": cache}
    start = time.monotonic()
    rr.calibrate(pruned.net, pruned.inputs, **options)
    first, start = time.monotonic() - start, time.monotonic()
    table = rr.calibrate(pruned.net, pruned.inputs, **options)
    second, path = time.monotonic() - start, cache / "read.json"
    table.save(path)
    start = time.monotonic()
    rr.LatencyTable.load(path)
    read = time.monotonic() - start
    path.unlink()
    return table, {"first_s": first, "second_s": second, "read_s": read}


HEAD = (
    "network", "engine", "batch", "masks", "share, median", "share, 95th", "ms, median", "ms, 95th", "original",
    "calibration",
)  # fmt: skip


def table_of(rows: list[Row]) -> str:
    """Median and 95th percentile of the absolute errors of shares and of milliseconds, as Markdown.

    ``original`` is the error of the network as it is: how much the machine has changed since the calibration, which
    timed it too.
    """
    lines = []
    groups = sorted({(r["network"], r["engine"], r["batch_size"]) for r in rows})
    for group in [*groups, None]:
        chosen = [r for r in rows if group is None or (r["network"], r["engine"], r["batch_size"]) == group]
        pruned = [r for r in chosen if r["share"] < 1]
        alone = [r for r in pruned if "alone" in r]
        errors = [[abs(r["relative"]) for r in pruned], [abs(r["error"]) for r in alone]]
        percent = [
            f"{of(values):.1%}" if values else "" for values in errors for of in (statistics.median, high)
        ]
        whole = f"{chosen[0]['error']:+.1%}" if group and alone else ""
        seconds = f"{max(r['calibration']['first_s'] for r in chosen):.0f} s"
        lines.append((*map(str, group or ("all", "", "")), str(len(pruned)), *percent, whole, seconds))
    return markdown_table(HEAD, lines)


def high(values: list[float]) -> float:
    """95th percentile, of few values the nearest of them."""
    return sorted(values)[min(len(values) - 1, round(0.95 * (len(values) - 1)))]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--engines", nargs="+", default=ENGINES)
    parser.add_argument("--batch-sizes", nargs="+", type=int)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/latency_estimate.json"))
    parser.add_argument("--cache", type=Path, default=Path("latency_tables"))
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    file = RowFile(options.out, THREADS)
    if options.table:
        print(table_of(file.rows))
        return
    warnings.simplefilter("ignore")
    torch.set_num_threads(THREADS)
    options.cache.mkdir(exist_ok=True)
    for name in options.only:
        measure(name, options, file)
    print(table_of(file.rows))


def measure(name: str, options: argparse.Namespace, file: RowFile) -> None:
    """Add the rows of a network in all engines and batch sizes that have none yet."""
    settings = [
        (engine, size) for engine in options.engines for size in options.batch_sizes or batch_sizes(name)
    ]
    known = {(r["network"], r["engine"], r["batch_size"]) for r in file.rows}
    missing = [setting for setting in settings if (name, *setting) not in known]
    if not missing:
        return
    pruned = Pruned(name)
    for engine, size in missing:
        found = []
        for row in rows_of(name, pruned, engine, size, options.cache):
            found.append(row)
            line = f"{row['estimated_ms']:.3f} ms estimated, {row['measured_ms']:.3f} measured"
            line += f", {row['error']:+.1%}, {row['relative']:+.1%}"
            print(f"{name} {engine} {size} {row['share']}: {line}", flush=True)
        file.add(*found)


if __name__ == "__main__":
    main()
