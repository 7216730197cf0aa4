"""The time of a network as a whole, by which the times of its layers are scaled: together they take what it takes.

Layers are measured one by one, in programs whose caches see other things than a network's do. That shifts all of them
alike, by some percent; what is left of a network over the whole, which is what a budget asks for, is not touched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from ...core.errors import ExportError
from ...core.modules import Call
from ...pruning.latency.operations import TimedOperation
from ...pruning.latency.table import LatencyTable
from ..conversion import to_onnx
from ..engines import Engine
from .measuring import Bench

UNKNOWN = 0.0


def whole_ms(bench: Bench, net: nn.Module, inputs: Call) -> float:
    """Time of one call of a network in the engine of a bench, in ms; ``UNKNOWN`` if it cannot be exported.

    Args:
        bench: Times it.
        net: In plain form and float32, on the CPU.
        inputs: As many examples as the bench is for.
    """
    try:
        return bench.program_ms(program_of(bench.engine, net, inputs), inputs)
    except ExportError:
        return UNKNOWN


def program_of(engine: Engine, net: nn.Module, inputs: Call) -> Any:
    """What an engine runs of a network: a serialised model, or the module itself.

    Raises:
        ExportError: If it cannot be exported.
    """
    return to_onnx(net, inputs).content if engine.kind == "graph" else net


def digest_of(operations: Sequence[TimedOperation]) -> str:
    """A name for networks of these layers."""
    parts = [(one.geometry, one.inputs, one.outputs) for one in operations]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def as_a_whole(
    table: LatencyTable, operations: Sequence[TimedOperation], milliseconds: float
) -> LatencyTable:
    """A table whose estimate of a network is what it was measured to take.

    Args:
        table: With all layers of the network.
        operations: The network's.
        milliseconds: Of the network; ``UNKNOWN`` leaves the table as it is.
    """
    layers = sum(table.milliseconds(one.geometry, one.inputs, one.outputs) for one in operations)
    if not milliseconds or not layers:
        return table
    factor = milliseconds / (table.call_ms + layers)
    entries = {geometry: grid.mapped(lambda time: factor * time) for geometry, grid in table.entries.items()}
    return replace(table, call_ms=factor * table.call_ms, entries=entries)
