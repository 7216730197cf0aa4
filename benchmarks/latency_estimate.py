"""How far is the estimated latency of a pruned network from the measured one, per network, engine and batch size?

    python benchmarks/latency_estimate.py                                   # everything; finished rows are kept
    python benchmarks/latency_estimate.py --only resnet20 resnet56 --engines onnxruntime --batch-sizes 1
    python benchmarks/latency_estimate.py --table                           # the file as Markdown

A latency table is calibrated for the network (``rr.calibrate``, kept in ``--cache``), ten masks in the table's steps
are chosen with random scores at shares of the latency between 0.35 and 0.9, and each is compacted, exported with exact
widths, and timed in turn with the original, in one process. ``error`` is estimated over measured milliseconds less 1;
``relative`` the same for the share of the original that is left, in which a slow machine cancels. A mask at share 1 is
the original itself. ``calibration`` has the seconds of the first calibration, and those of a second one that finds
everything in the cache, with the capture of the network and without.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from latency_networks import OWN, batch_sizes, build

import rotated_relu as rr
from rotated_relu.core.environment import environment
from rotated_relu.core.modules import as_inputs
from rotated_relu.deploy.engines import runner
from rotated_relu.deploy.timing import compare_latency
from rotated_relu.pruning.estimate import CostEstimate
from rotated_relu.pruning.latency.table import LatencyTable

TORCHVISION = (
    "resnet18", "resnet50", "vgg16_bn", "mobilenet_v2", "efficientnet_b0", "densenet121", "vit_b_16",
)  # fmt: skip
NETWORKS = (*OWN, *TORCHVISION, "yolov8n")
ENGINES = ("onnxruntime", "openvino")
SHARES = tuple(0.35 + 0.55 * number / 9 for number in range(10))
THREADS = 2
ROUNDS = 21


def random_mask(
    net: torch.nn.Module, inputs: torch.Tensor, share: float, table: LatencyTable
) -> rr.Mask | None:
    generator = torch.Generator().manual_seed(round(1000 * share))
    scores = {name: torch.rand(len(slope), generator=generator) for name, slope in rr.slopes(net).items()}
    try:
        return rr.select_channels(net, inputs, keep=share, unit="latency", scores=scores, table=table)
    except rr.errors.SlopeError as error:  # less than can be had
        print(f"  {share:.2f}: {error}", flush=True)
        return None


def rows_of(
    name: str, engine: str, batch_size: int, known: set[Any], cache: Path
) -> Iterable[dict[str, Any]]:
    shares = [share for share in (1.0, *SHARES) if (name, engine, batch_size, round(share, 3)) not in known]
    if not shares:
        return
    net, inputs = build(name)
    table, seconds = calibrated(net, inputs, engine, batch_size, cache)
    estimate = CostEstimate(net, inputs, table)
    whole = estimate.whole("latency")
    timed = as_inputs(inputs).of_size(batch_size)
    original = runner(net, timed, engine=engine, threads=THREADS)
    for share in shares:
        mask = None if share == 1 else random_mask(net, inputs, share, table)
        if share < 1 and mask is None:
            continue
        estimated = whole if mask is None else estimate.of(mask, "latency")
        small = net if mask is None else rr.compact(net, inputs, mask=mask).model
        runs = {"original": original, "small": runner(small, timed, engine=engine, threads=THREADS)}
        times = compare_latency(runs, ROUNDS, min_sample_ms=5.0)
        yield row(name, engine, batch_size, share, estimated, whole, times) | {"calibration": seconds}


def calibrated(
    net: torch.nn.Module, inputs: torch.Tensor, engine: str, batch_size: int, cache: Path
) -> tuple[LatencyTable, dict[str, float]]:
    options: Any = {"engine": engine, "batch_size": batch_size, "threads": THREADS, "cache": cache}
    start = time.monotonic()
    rr.calibrate(net, inputs, **options)
    first, start = time.monotonic() - start, time.monotonic()
    table = rr.calibrate(net, inputs, **options)
    second, path = time.monotonic() - start, cache / "read.json"
    table.save(path)
    start = time.monotonic()
    rr.LatencyTable.load(path)
    read = time.monotonic() - start
    path.unlink()
    return table, {"first_s": first, "second_s": second, "read_s": read}


def row(
    name: str, engine: str, batch_size: int, share: float, estimated: float, whole: float, times: Any
) -> dict[str, Any]:
    measured = times.medians_ms["small"]
    left = 1 / times.speedup("small", "original")
    return {
        "network": name,
        "engine": engine,
        "batch_size": batch_size,
        "share": round(share, 3),
        "estimated_ms": estimated,
        "measured_ms": measured,
        "error": estimated / measured - 1,
        "estimated_left": estimated / whole,
        "measured_left": left,
        "relative": estimated / whole / left - 1,
        "milliseconds": times.milliseconds,
    }


def table_of(rows: list[dict[str, Any]]) -> str:
    """Median and 95th percentile of the absolute errors, as Markdown."""
    lines = [
        "| network | engine | batch | masks | median error | 95th percentile | median, relative | calibration |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    groups = sorted({(r["network"], r["engine"], r["batch_size"]) for r in rows})
    for group in [*groups, None]:
        chosen = [r for r in rows if group is None or (r["network"], r["engine"], r["batch_size"]) == group]
        absolute, relative = ([abs(r[key]) for r in chosen] for key in ("error", "relative"))
        name, engine, size = group or ("all", "", "")
        seconds = f"{max(r['calibration']['first_s'] for r in chosen):.0f} s"
        lines.append(
            f"| {name} | {engine} | {size} | {len(chosen)} | {statistics.median(absolute):.1%} | "
            f"{quantile(absolute, 0.95):.1%} | {statistics.median(relative):.1%} | {seconds} |"
        )
    return "\n".join(lines)


def quantile(values: list[float], fraction: float) -> float:
    return sorted(values)[min(len(values) - 1, round(fraction * (len(values) - 1)))]


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
    data = json.loads(options.out.read_text()) if options.out.is_file() else {"rows": []}
    if options.table:
        print(table_of(data["rows"]))
        return
    warnings.simplefilter("ignore")
    torch.set_num_threads(THREADS)
    options.cache.mkdir(exist_ok=True)
    rows = data["rows"]
    for name in options.only:
        for engine in options.engines:
            for size in options.batch_sizes or batch_sizes(name):
                known = {(r["network"], r["engine"], r["batch_size"], r["share"]) for r in rows}
                for found in rows_of(name, engine, size, known, options.cache):
                    rows.append(found)
                    line = f"{found['estimated_ms']:.3f} ms estimated, {found['measured_ms']:.3f} measured"
                    print(
                        f"{name} {engine} {size} {found['share']}: {line}, {found['relative']:+.1%}",
                        flush=True,
                    )
                    command = "python benchmarks/latency_estimate.py"
                    written = {
                        "command": command,
                        "environment": environment(),
                        "threads": THREADS,
                        "rows": rows,
                    }
                    options.out.write_text(json.dumps(written, indent=1) + "\n")
    print(table_of(rows))


if __name__ == "__main__":
    main()
