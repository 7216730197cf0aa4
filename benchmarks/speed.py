"""How much of the multiply-accumulates that compaction removes arrives as speed, per engine, network, kill rate, batch.

    python benchmarks/speed.py                            # everything; finished rows are kept
    python benchmarks/speed.py --engines openvino --only resnet20
    python benchmarks/speed.py --table                    # the file as Markdown

Slopes die at random (the same ones for all engines). Each row: the network compacted with ``round_to="auto"`` for that
engine and batch size, then timed anew against the rotated original, in turn, in one process. ``achieved`` is the
speed-up over the reduction of multiply-accumulates by ``round_to=1``, which removes everything dead (``ideal``).
``ideal_16`` is that reduction with widths rounded up to 16, what a processor of 16 lanes sees; ``naive`` the speed-up
of removing everything and changing nothing else, gathers and odd widths included, timed in the same rounds.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import statistics
import warnings
from pathlib import Path

import torch
import torchvision

import rotated_relu as rr
from rotated_relu.core.counting import count_macs
from rotated_relu.core.environment import device_name
from rotated_relu.deploy import autotune
from rotated_relu.deploy.conversion import apply_layout
from rotated_relu.deploy.engines import engine_named, graph_runner, runner
from rotated_relu.deploy.selection import SAMPLE_MS
from rotated_relu.deploy.timing import LatencyComparison, compare_latency
from rotated_relu.experiments.report.markdown import markdown_table
from rotated_relu.pruning.mask import threshold_mask

NETWORKS = ("resnet20", "wrn_16_4", "mobilenet_v2", "resnet50")
RATES = (0.3, 0.5, 0.7)
ENGINES = ("openvino", "onnxruntime", "torch", "torch.compile")
THREADS = 2
ZETA = 0.1


def batch_sizes(name: str) -> tuple[int, int]:
    return (1, 4) if name == "resnet50" else (1, 64)


def build(name: str, rate: float) -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    if name in ("resnet50", "mobilenet_v2"):
        inputs = torch.randn(1, 3, 224, 224)
        net = rr.rotate(getattr(torchvision.models, name)(weights=None), inputs, init="published")
    else:
        inputs = torch.randn(1, 3, 32, 32)
        net = getattr(rr.models, name)()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as after training, not as after construction
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.3)
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
    generator = torch.Generator().manual_seed(1)
    for slope in rr.slopes(net).values():
        dead = torch.rand(slope.numel(), generator=generator) < rate
        slope.data[dead] *= ZETA / 2 / slope.data[dead].abs()
    return net.eval(), inputs


def remember(function):
    """The same network is compacted and exported for every engine and batch size: once is enough."""

    known = {}

    @functools.wraps(function)
    def call(net, *arguments, **named):
        key = (id(net), *(value for value in arguments if isinstance(value, int | float)))
        if key not in known:
            known[key] = (
                net,
                function(net, *arguments, **named),
            )  # the network too, so that its id stays its own
        return known[key][1]

    call.known = known
    return call


def timed(net, found, inputs, engine: str, rounds: int) -> LatencyComparison:
    """Original, compacted and naively compacted network, in turn, with runners of their own."""
    small = autotune.compact_to(net, inputs[:1], ZETA, 1).model
    if engine_named(engine).kind == "graph":
        contents = {"original": autotune.raw_onnx(net, inputs[:1]).content}
        raw = autotune.raw_onnx(found.result.model, inputs[:1])
        contents["compact"] = apply_layout(raw, found.result.layout).content
        contents["naive"] = autotune.raw_onnx(small, inputs[:1]).content
        runs = {k: graph_runner(c, inputs, engine=engine, threads=THREADS) for k, c in contents.items()}
    else:
        models = {"original": net, "compact": found.result.model, "naive": small}
        runs = {k: runner(m, inputs, engine=engine, threads=THREADS) for k, m in models.items()}
    return compare_latency(runs, rounds, warmup=3, min_sample_ms=SAMPLE_MS)


def row(
    name: str, rate: float, net, inputs, batch: int, engine: str, ideals: tuple[float, float]
) -> dict[str, object]:
    images = torch.randn(batch, *inputs.shape[1:], generator=torch.Generator().manual_seed(2))
    found = autotune.compact_fastest(
        net,
        inputs,
        threshold_mask(net, ZETA),
        timing_inputs=[images],
        engine=engine,
        rounds=12,
        threads=THREADS,
    )
    kept = found.round_to is None
    times = timed(net, found, images, engine, rounds=15)
    speedup = 1.0 if kept else times.speedup("compact", over="original")
    return {
        "network": name,
        "rate": rate,
        "batch_size": batch,
        "engine": engine,
        "ideal": ideals[0],
        "ideal_16": ideals[1],
        "speedup": speedup,
        "achieved": speedup / ideals[0],
        "naive": times.speedup("naive", over="original"),
        "choice": found.result.plan.widths,
        "load": os.getloadavg()[0],
        "milliseconds": {k: [round(v, 4) for v in values] for k, values in times.milliseconds.items()},
        "candidates_ms": {k: round(values[0], 4) for k, values in found.milliseconds.items()},
    }


def summary(rows: list[dict[str, object]]) -> dict[str, object]:
    engines = dict.fromkeys(r["engine"] for r in rows)
    return {
        engine: {
            "rows": len(own := [r for r in rows if r["engine"] == engine]),
            "median_achieved": statistics.median(r["achieved"] for r in own),
            "median_achieved_naive": statistics.median(r["naive"] / r["ideal"] for r in own),
            "median_of_ideal_16": statistics.median(r["speedup"] / r["ideal_16"] for r in own),
            "lowest_speedup": min(r["speedup"] for r in own),
            "highest_speedup": max(r["speedup"] for r in own),
        }
        for engine in engines
    }


ENGINE_HEAD = ("engine", "rows", "median of MACs", "naive", "median of MACs in widths of 16", "slowest", "fastest",
               "naive slower than the original")  # fmt: skip
HEAD = ("network", "rate", "batch", "engine", "MACs / left", "same, widths of 16", "speed-up", "naive", "of MACs",
        "layout")  # fmt: skip


def tables(found: dict[str, object]) -> str:
    """Summary and rows as Markdown."""
    rows = sorted(found["rows"], key=lambda r: (ENGINES.index(r["engine"]), NETWORKS.index(r["network"])))
    engines = [
        (engine, s["rows"], f"**{s['median_achieved']:.2f}**", f"{s['median_achieved_naive']:.2f}",
         f"{s['median_of_ideal_16']:.2f}", f"{s['lowest_speedup']:.2f}", f"{s['highest_speedup']:.2f}",
         sum(r["naive"] < 1 for r in rows if r["engine"] == engine))
        for engine, s in summary(rows).items()
    ]  # fmt: skip
    lines = [
        (r["network"], r["rate"], r["batch_size"], r["engine"], f"{r['ideal']:.2f}", f"{r['ideal_16']:.2f}",
         f"**{r['speedup']:.2f}**", f"{r['naive']:.2f}", f"{r['achieved']:.2f}",
         r["choice"].partition(" was")[0].partition(":")[0])
        for r in rows
    ]  # fmt: skip
    return markdown_table(ENGINE_HEAD, engines) + "\n\n" + markdown_table(HEAD, lines)


def reductions(net: torch.nn.Module, inputs: torch.Tensor) -> tuple[float, float]:
    """Multiply-accumulates of the original over those with everything dead removed, and with widths of 16."""
    before = sum(count_macs(net, inputs).values())
    after = (
        sum(count_macs(autotune.compact_to(net, inputs, ZETA, r).model, inputs).values()) for r in (1, 16)
    )
    one, sixteen = (before / macs for macs in after)
    return one, sixteen


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(NETWORKS))
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--rates", default=",".join(map(str, RATES)))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/speed.json"))
    parser.add_argument("--table", action="store_true", help="print the file as Markdown and stop")
    options = parser.parse_args()
    if options.table:
        print(tables(json.loads(options.out.read_text())))
        return
    torch.set_num_threads(THREADS)
    warnings.simplefilter("ignore")
    autotune.compact_to, autotune.raw_onnx = remember(autotune.compact_to), remember(autotune.raw_onnx)
    found = json.loads(options.out.read_text()) if options.out.exists() else {"rows": []}
    engines = options.engines.split(",")
    for name in options.only.split(","):
        for rate in map(float, options.rates.split(",")):
            known = {(r["network"], r["rate"], r["batch_size"], r["engine"]) for r in found["rows"]}
            todo = [(b, e) for e in engines for b in batch_sizes(name) if (name, rate, b, e) not in known]
            if not todo:
                continue
            net, inputs = build(name, rate)
            ideals = reductions(net, inputs)
            for batch, engine in todo:
                found["rows"].append(row(name, rate, net, inputs, batch, engine, ideals))
                shown = ("network", "rate", "batch_size", "engine", "ideal", "speedup", "achieved", "choice")
                print({key: found["rows"][-1][key] for key in shown}, flush=True)
                found |= {
                    "command": "python benchmarks/speed.py",
                    "processor": device_name(torch.device("cpu")),
                    "machine": f"{platform.machine()}, {os.cpu_count()} cores, {THREADS} threads for each engine",
                    "versions": {e: engine_named(e).version() for e in ENGINES}
                    | {"torchvision": torchvision.__version__},
                    "summary": summary(found["rows"]),
                }
                options.out.write_text(json.dumps(found, indent=1) + "\n")
            autotune.compact_to.known.clear()
            autotune.raw_onnx.known.clear()
    print(json.dumps(found["summary"], indent=1))


if __name__ == "__main__":
    main()
