"""How the time of a call is divided among the layers of a network, as an engine's own profiler has it.

Requires: a model whose weights are named after the parameters of the network, as export and its layouts name them.
Ensures: every operation that ran counts with one layer. One without weights counts with the layer whose result it
reads; one that the engine has added, such as a change of memory layout, with the one that ran before it.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Collection
from typing import Any

from torch import nn

from ..core.extras import needs
from ..core.modules import Inputs, as_inputs
from .engines import engine_named

CALLS = 20
FUSED = "fused "  # begins the name of a matrix product that onnxruntime has put together with its activation


def layer_shares(
    content: bytes,
    example_inputs: Inputs,
    net: nn.Module,
    *,
    engine: str = "onnxruntime",
    threads: int | None = None,
    calls: int = CALLS,
) -> dict[str, float] | None:
    """Share of the time of a call that each layer takes, by qualified name ('' is what belongs to none); they sum to 1.

    A profiler slows operations down, each by about the same: small ones look larger than they are.

    Args:
        content: A serialised ONNX model.
        example_inputs: What it is run on.
        net: The network that was exported; its parameters name the layers.
        engine: An engine that runs graphs.
        threads: Of the engine; torch's setting if None.
        calls: Calls that are counted.

    Returns:
        The shares in execution order, or None if the engine has no profiler.

    Raises:
        UnknownNameError: If there is no such engine that runs graphs.
        MissingPackageError: If its packages are not installed.
    """
    found = engine_named(engine, "graph")
    if found.profile is None:
        return None
    layers = layers_of(content, {name for name, _ in net.named_parameters()})
    times: dict[str, list[float]] = defaultdict(list)
    for name, milliseconds in found.profile(content, as_inputs(example_inputs), threads, calls):
        times[name].append(milliseconds)
    totals: dict[str, float] = defaultdict(float)
    latest = ""
    for name, of_calls in times.items():
        latest = _layer_named(name, layers, latest)
        totals[latest] += statistics.median(of_calls)  # the first call is unlike the others
    whole = sum(totals.values())
    return {name: time / whole for name, time in totals.items()} if whole else None


def layers_of(content: bytes, parameters: Collection[str]) -> dict[str, str]:
    """The layer of each operation of a model, under its own name and those of its results.

    Raises:
        MissingPackageError: If onnx is not installed.
    """
    needs("onnx")
    import onnx

    graph = onnx.load_from_string(content).graph
    weights = {one.name: _layer_of_weight(one.name, parameters) for one in graph.initializer}
    layers: dict[str, str] = {}
    for node in graph.node:
        own = next((layer for name in node.input if (layer := weights.get(name))), "")
        layer = own or _layer_before(node, layers)
        layers |= dict.fromkeys([node.name, *node.output], layer)
    return layers


def _layer_before(node: Any, layers: dict[str, str]) -> str:
    return next((layer for name in node.input if (layer := layers.get(name))), "")


def _layer_of_weight(name: str, parameters: Collection[str]) -> str:
    """The layer that a weight belongs to: passes append to the name of the parameter that they start from."""
    known = [one for one in parameters if name.removeprefix("inner.").startswith(one)]
    return max(known, key=len).rpartition(".")[0] if known else ""


def _layer_named(name: str, layers: dict[str, str], latest: str) -> str:
    """The layer of an operation that ran; engines append to names, so the longest that begins it counts."""
    name = name.removeprefix(FUSED)
    if name in layers:
        return layers[name] or latest
    known = [one for one in layers if one and name.startswith((f"{one}_", f"{one}/"))]
    return (layers[max(known, key=len)] if known else "") or latest
