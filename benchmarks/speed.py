"""How much of the multiply-accumulates that compaction removes arrives as speed, per engine, network, kill rate, batch.

    python benchmarks/speed.py                            # everything; finished rows are kept
    python benchmarks/speed.py --engines openvino --only resnet20

Slopes die at random (the same ones for all engines). Each row: the network compacted with ``round_to="auto"`` for that
engine and batch size, then timed anew against the rotated original, in turn, in one process. ``achieved`` is the
speed-up over the reduction of multiply-accumulates by ``round_to=1``, which removes everything dead.
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
from rotated_relu import rounding
from rotated_relu.latency import compare_latency
from rotated_relu.measure import GRAPH_ENGINES, count_macs, device_name, engine_version, graph_runner, runner

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
        net = rr.rotate(getattr(torchvision.models, name)(weights=None), inputs)
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


def timed(net, found, inputs, engine: str, rounds: int) -> dict[str, list[float]]:
    """Original and compacted network, in turn, with runners of their own."""
    if engine in GRAPH_ENGINES:
        contents = {
            "original": rounding.raw_onnx(net, inputs).content,
            "compact": rounding.finished(rounding.raw_onnx(found.result.model, inputs), found.form).content,
        }
        runs = {k: graph_runner(c, inputs, engine=engine, threads=THREADS) for k, c in contents.items()}
    else:
        models = {"original": net, "compact": found.result.model}
        runs = {k: runner(m, inputs, engine=engine, threads=THREADS) for k, m in models.items()}
    return compare_latency(runs, rounds, warmup=3).milliseconds


def row(name: str, rate: float, net, inputs, batch: int, engine: str, ideal: float) -> dict[str, object]:
    images = torch.randn(batch, *inputs.shape[1:], generator=torch.Generator().manual_seed(2))
    found = rounding.compact_fastest(
        net, inputs, ZETA, timing_inputs=[images], engine=engine, rounds=12, threads=THREADS
    )
    kept = found.round_to is None
    times = {} if kept else timed(net, found, images, engine, rounds=15)
    speedup = (
        1.0
        if kept
        else statistics.median(a / b for a, b in zip(times["original"], times["compact"], strict=True))
    )
    return {
        "network": name,
        "rate": rate,
        "batch_size": batch,
        "engine": engine,
        "ideal": ideal,
        "speedup": speedup,
        "achieved": speedup / ideal,
        "choice": found.result.plan.widths,
        "load": os.getloadavg()[0],
        "milliseconds": {k: [round(v, 4) for v in values] for k, values in times.items()},
        "candidates_ms": {k: round(values[0], 4) for k, values in found.milliseconds.items()},
    }


def summary(rows: list[dict[str, object]]) -> dict[str, object]:
    engines = dict.fromkeys(r["engine"] for r in rows)
    return {
        engine: {
            "rows": len(own := [r for r in rows if r["engine"] == engine]),
            "median_achieved": statistics.median(r["achieved"] for r in own),
            "lowest_speedup": min(r["speedup"] for r in own),
            "highest_speedup": max(r["speedup"] for r in own),
        }
        for engine in engines
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(NETWORKS))
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--rates", default=",".join(map(str, RATES)))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/speed.json"))
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    warnings.simplefilter("ignore")
    rounding.compact_to, rounding.raw_onnx = remember(rounding.compact_to), remember(rounding.raw_onnx)
    found = json.loads(options.out.read_text()) if options.out.exists() else {"rows": []}
    engines = options.engines.split(",")
    for name in options.only.split(","):
        for rate in map(float, options.rates.split(",")):
            known = {(r["network"], r["rate"], r["batch_size"], r["engine"]) for r in found["rows"]}
            todo = [(b, e) for e in engines for b in batch_sizes(name) if (name, rate, b, e) not in known]
            if not todo:
                continue
            net, inputs = build(name, rate)
            small = rounding.compact_to(net, inputs, ZETA, 1).model
            rounding.raw_onnx(net, inputs), rounding.raw_onnx(small, inputs)
            ideal = sum(count_macs(net, inputs).values()) / sum(count_macs(small, inputs).values())
            for batch, engine in todo:
                found["rows"].append(row(name, rate, net, inputs, batch, engine, ideal))
                shown = ("network", "rate", "batch_size", "engine", "ideal", "speedup", "achieved", "choice")
                print({key: found["rows"][-1][key] for key in shown}, flush=True)
                found |= {
                    "command": "python benchmarks/speed.py",
                    "processor": device_name(torch.device("cpu")),
                    "machine": f"{platform.machine()}, {os.cpu_count()} cores, {THREADS} threads for each engine",
                    "versions": {e: engine_version(e) for e in ENGINES}
                    | {"torchvision": torchvision.__version__},
                    "summary": summary(found["rows"]),
                }
                options.out.write_text(json.dumps(found, indent=1) + "\n")
            rounding.compact_to.known.clear()
            rounding.raw_onnx.known.clear()
    print(json.dumps(found["summary"], indent=1))


if __name__ == "__main__":
    main()
