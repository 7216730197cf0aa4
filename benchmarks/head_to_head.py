"""Compaction against Torch-Pruning and torch-simplify, on the same masks, in one run.

    pip install torch-pruning==1.6.1 torch-simplify==1.1.4
    python benchmarks/head_to_head.py [--only resnet50] [--rate 0.5] [--out benchmarks/head_to_head.json]

For each network the same random half of the slopes is dead, the others are 1. Reported for each tool: parameters and
multiply-accumulates left, largest relative output difference in float64 against the network it was given, seconds for
the removal (graph and cutting; ours with its certificate), onnxruntime latency (batch 1): the given network and
those of the other tools as torch exports them, ours as ``rotated-relu export`` does.

- Torch-Pruning gets the rotated network, with the slopes registered as a prunable layer. It couples all layers that
  share channels, so a channel goes when every activation of its group is dead.
- torch-simplify removes zeroed channels of plain networks; it gets the plain network in which the same groups are
  zeroed. It folds batch norms into convolutions, which saves it parameters that the other two keep.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import os
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torchvision
from coverage import as_if_trained
from torch import nn

import rotated_relu as rr
from rotated_relu.core.counting import count_macs, count_parameters
from rotated_relu.core.environment import device_name
from rotated_relu.core.run_directory import write_json
from rotated_relu.deploy.conversion import raw_onnx
from rotated_relu.deploy.engines import graph_runner
from rotated_relu.deploy.fastest import fastest_layout
from rotated_relu.deploy.timing import compare_latency

NETWORKS = ("resnet20", "resnet50", "vgg16_bn", "mobilenet_v2", "densenet121", "efficientnet_b0", "vit_b_16",
            "convnext_tiny")  # fmt: skip
RESIDUAL = ("resnet20", "resnet50", "mobilenet_v2", "efficientnet_b0", "densenet121")
ZETA = 0.1
SETUPS, ROUNDS = 3, 10


def plain(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "resnet20":
        net = rr.models.resnet20(rotated=False, projection=True)
    else:
        net = torchvision.models.get_model(name, weights=None)
    as_if_trained(net)
    return net.eval()


def image(name: str) -> torch.Tensor:
    size = 32 if name == "resnet20" else 224
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(3))


def rotated(name: str, rate: float) -> nn.Module:
    net = rr.rotate(plain(name), image(name), init="published")
    generator = torch.Generator().manual_seed(1)
    for slope in rr.slopes(net).values():
        slope.data = (torch.rand(slope.numel(), generator=generator) >= rate).float()
    return net.eval()


# --- Torch-Pruning -------------------------------------------------------------------------------------------------


def slope_pruner() -> Any:
    import torch_pruning as tp

    class Slopes(tp.pruner.function.BasePruningFunc):
        """How Torch-Pruning's extension interface takes channels out of a rotated activation."""

        TARGET_MODULES = rr.Rotated

        def prune_out_channels(self, layer: nn.Module, idxs: Any) -> nn.Module:
            gone = set(idxs)
            keep = [i for i in range(layer.slope.numel()) if i not in gone]
            layer.slope = nn.Parameter(layer.slope.data[keep])
            return layer

        prune_in_channels = prune_out_channels

        def get_out_channels(self, layer: nn.Module) -> int:
            return layer.slope.numel()

        get_in_channels = get_out_channels

    return Slopes()


def dead_groups(net: nn.Module, inputs: torch.Tensor) -> tuple[Any, list[tuple[nn.Module, Any, list[int]]]]:
    """Torch-Pruning's graph, and for each of its groups the channels whose activations are all dead."""
    import torch_pruning as tp

    pruner = slope_pruner()
    kinds = {type(module) for module in net.modules() if isinstance(module, rr.Rotated)}
    graph = tp.DependencyGraph().build_dependency(
        net, example_inputs=inputs, customized_pruners=dict.fromkeys(kinds, pruner)
    )
    last = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
    found = []
    for group in graph.get_all_groups(ignored_layers=[last]):
        root, prune = group[0].dep.target.module, group[0].dep.handler
        members = [item for item in group if isinstance(item.dep.target.module, rr.Rotated)]
        if not members:
            continue
        alive = set()
        for item in members:
            slope = item.dep.target.module.slope
            alive |= {r for r, i in zip(item.root_idxs, item.idxs, strict=True) if slope[i] != 0}
        seen = {r for item in members for r in item.root_idxs}
        dead = sorted(seen - alive)
        if dead:
            found.append((root, prune, dead[:-1] if len(dead) == graph.get_out_channels(root) else dead))
    return graph, found


def torch_pruning(name: str, rate: float) -> dict[str, Any]:
    net, inputs = rotated(name, rate), image(name)
    reference = copy.deepcopy(net)
    start = time.perf_counter()
    graph, found = dead_groups(net, inputs)
    for root, prune, dead in found:
        group = graph.get_pruning_group(root, prune, idxs=dead)
        if graph.check_pruning_group(group):
            group.prune()
    seconds = time.perf_counter() - start
    return {"net": net, "reference": reference, "seconds": seconds}


# --- torch-simplify ------------------------------------------------------------------------------------------------


def torch_simplify(name: str, rate: float) -> dict[str, Any]:
    import simplify

    inputs = image(name)
    masked, net = rotated(name, rate), plain(name)
    graph, found = dead_groups(masked, inputs)
    names = {module: path for path, module in masked.named_modules()}
    twins = dict(net.named_modules())
    for root, prune, dead in found:
        for item in graph.get_pruning_group(root, prune, idxs=dead):
            module = twins.get(names.get(item.dep.target.module, ""))
            if module is not None and graph.is_out_channel_pruning_fn(item.dep.handler):
                for parameter in module.parameters(recurse=False):
                    parameter.data[list(item.idxs)] = 0.0
    reference = copy.deepcopy(net)
    start = time.perf_counter()
    net = simplify.simplify(net, inputs)
    return {"net": net, "reference": reference, "seconds": time.perf_counter() - start}


# --- ours ----------------------------------------------------------------------------------------------------------


def ours(name: str, rate: float) -> dict[str, Any]:
    net, inputs = rotated(name, rate), image(name)
    start = time.perf_counter()
    result = rr.compact(net, inputs, ZETA)
    seconds = time.perf_counter() - start
    return {"net": result.model, "reference": net, "seconds": seconds}


# torch-simplify's result holds float32 buffers that do not convert.
DTYPE = {"rotated-relu": torch.float64, "torch-pruning": torch.float64, "torch-simplify": torch.float32}
TOOLS = {"rotated-relu": ours, "torch-pruning": torch_pruning, "torch-simplify": torch_simplify}


def difference(net: nn.Module, reference: nn.Module, inputs: torch.Tensor, dtype: torch.dtype) -> float:
    one, other = copy.deepcopy(net).to(dtype).eval(), copy.deepcopy(reference).to(dtype).eval()
    worst = 0.0
    with torch.no_grad():
        for seed in range(3):
            trial = torch.randn(inputs.shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))
            expected = other(trial)
            worst = max(worst, float((one(trial) - expected).abs().max() / expected.abs().max()))
    return worst


def exported(net: nn.Module, inputs: torch.Tensor) -> bytes:
    """What torch exports, with slopes folded; its old tracing exporter for torch-simplify's layers.

    Not our whole exporter: that takes dead channels out of the graph, also those that a tool has left.
    """
    try:
        return raw_onnx(net, inputs).content
    except rr.errors.ExportError:
        content = io.BytesIO()
        torch.onnx.export(net, (inputs,), content, dynamo=False)
        return content.getvalue()


def latencies(contents: dict[str, bytes], inputs: torch.Tensor) -> dict[str, list[float]]:
    """Milliseconds per round, original and tools in turn, over sessions that are set up anew three times.

    On two cores it is luck whether a session's two threads share one, and the luck stays with the session.
    """
    times: dict[str, list[float]] = {name: [] for name in contents}
    for _ in range(SETUPS):
        runs = {
            name: graph_runner(content, (inputs,), engine="onnxruntime") for name, content in contents.items()
        }
        for name, values in compare_latency(runs, ROUNDS, 3).milliseconds.items():
            times[name] += values
    return times


def row(name: str, rate: float, repeats: int) -> dict[str, Any]:
    inputs, found = image(name), {}
    base = rotated(name, rate)
    contents = {"original": raw_onnx(base, inputs).content}
    for tool, remove in TOOLS.items():
        try:
            results = [remove(name, rate) for _ in range(repeats if tool != "torch-simplify" else 1)]
            net = results[-1]["net"]
            found[tool] = {
                "parameters": count_parameters(net),
                "macs": sum(count_macs(net, inputs).values()),
                "max_relative_difference": difference(net, results[-1]["reference"], inputs, DTYPE[tool]),
                "difference_in": str(DTYPE[tool]).removeprefix("torch."),
                "seconds": [round(r["seconds"], 3) for r in results],
            }
            # As `rotated-relu export` does it: the layout of the graph that onnxruntime runs fastest here.
            contents[tool] = fastest_layout(net, inputs).content if remove is ours else exported(net, inputs)
        except Exception as error:
            found.setdefault(tool, {})["error"] = f"{type(error).__name__}: {error}"[:400]
    times = latencies(contents, inputs)
    for tool, values in times.items():
        if tool in found:
            found[tool]["onnxruntime_ms"] = [round(v, 3) for v in values]
            found[tool]["speedup"] = statistics.median(
                b / v for b, v in zip(times["original"], values, strict=True)
            )
    return {"network": name, "rate": rate, "image": inputs.shape[-1], "parameters": count_parameters(base),
            "macs": sum(count_macs(base, inputs).values()), "tools": found}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", default=",".join(NETWORKS), help="other networks in the file stay as they are"
    )
    parser.add_argument("--rate", type=float, default=0.5, help="share of the slopes that is dead")
    parser.add_argument("--repeats", type=int, default=3, help="removals timed per tool")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/head_to_head.json"))
    options = parser.parse_args()
    rows = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    for name in options.only.split(","):
        rows = [r for r in rows if r["network"] != name] + [row(name, options.rate, options.repeats)]
        for tool, r in rows[-1]["tools"].items():
            print(name, tool, {k: v for k, v in r.items() if k != "onnxruntime_ms"}, flush=True)
        found = {
            "command": "python benchmarks/head_to_head.py", "torch": torch.__version__,
            "versions": {p: version(p) for p in ("torch-pruning", "torch-simplify", "onnxruntime", "torchvision")},
            "machine": f"{device_name(torch.device('cpu'))}, {platform.machine()}, {os.cpu_count()} cores, "
                       f"{torch.get_num_threads()} threads",
            "rows": rows,
        }  # fmt: skip
        write_json(options.out, found)


if __name__ == "__main__":
    main()
