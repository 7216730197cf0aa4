"""Latency tables made up by hand."""

from rotated_relu.core.modules import as_inputs
from rotated_relu.graph.capture import capture
from rotated_relu.pruning.latency.grid import LatencyGrid
from rotated_relu.pruning.latency.operations import find_operations
from rotated_relu.pruning.latency.table import LatencyTable


def table_of(entries, call_ms=0.0, **fields):
    """A table with these entries, of an engine that there is not."""
    identity = {"engine": "toy", "engine_version": "1", "processor": "abacus", "threads": 1, "batch_size": 1}
    return LatencyTable(**{**identity, **fields}, call_ms=call_ms, entries=entries)


def staircase(inputs, outputs, per_pair=0.001, start=0.01, step=1):
    """A grid on which a layer costs ``start`` and ``per_pair`` for each pair of channels, paid in steps."""
    ins, outs = (sorted({*range(step, full, step), full}) for full in (inputs, outputs))
    times = tuple(tuple(start + per_pair * i * o for o in outs) for i in ins)
    return LatencyGrid(tuple(ins), tuple(outs), times, step, step)


def table_for(net, example_inputs, call_ms=0.0, **staircases):
    """A table that has every operation of a network, each a staircase."""
    call = as_inputs(example_inputs)
    entries = {}
    for operation in find_operations(capture(net, call), call.batch_size):
        before = entries.get(operation.geometry)
        widths = operation.inputs, operation.outputs
        if before is not None:
            widths = max(widths[0], before.inputs[-1]), max(widths[1], before.outputs[-1])
        entries[operation.geometry] = staircase(*widths, **staircases)
    return table_of(entries, call_ms)
