"""The terms of each unit: what every operation or parameter costs as a function of its widths.

Requires: widths as liveness counts them. Ensures: the sum is what :class:`..estimate.CostEstimate` counts, as long as
no axis is gone as a whole; with whole axes gone it is that or more (see :mod:`.reach`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod

from torch import Tensor
from torch.fx import Node

from ...graph import ops
from ...graph.capture import Graph, op_name
from ...graph.liveness import Liveness
from ...graph.needed_macs import operation_work
from ..latency.model import LatencyModel
from .attribution import Place, Width
from .costs import Term
from .coupling import Axis

Widths = Callable[[Place], Width]


def latency_terms(model: LatencyModel, width: Widths) -> Iterator[Term]:
    """One per timed operation, and one for the call as such and what is paid whatever is gone."""
    always = model.table.call_ms + model.absent_ms
    yield Term((), (), lambda _: always)
    for index, operation in enumerate(model.operations):
        ends = tuple(width(_place(*end)) for end in (operation.source, operation.result))
        yield Term((operation.result[0],), ends, _timed(model, index), model.grids[index].steps())


def _timed(model: LatencyModel, index: int) -> Callable[[Sequence[int]], float]:
    return lambda widths: model.time(index, *widths) - model.grids[index].absent_ms


def mac_terms(graph: Graph, whole: Liveness, states: Mapping[str, Tensor], width: Widths) -> Iterator[Term]:
    """One per operation that multiplies: as many as with nothing gone, times the share of each width."""
    for node, work in operation_work(graph, whole, states).items():
        widths = tuple(width(place) for place in _multiplied(node))
        yield Term((node,), widths, _proportional(work.ideal, widths))


def parameter_terms(
    graph: Graph, whole: Liveness, parameters: Mapping[str, Tensor], width: Widths
) -> Iterator[Term]:
    """One per parameter: its entries that count with nothing gone, times the share of each width."""
    owners = {name: tuple(node.users) for node, name in graph.states.items()}
    for name, parameter in parameters.items():
        every = int(whole.needed(name, parameters).sum())
        if every:
            widths = tuple(width((name, dim)) for dim in range(min(2, parameter.dim())))
            yield Term(owners.get(name, ()), widths, _proportional(every, widths))


def channel_terms(axes: Sequence[Axis], total: int) -> Iterator[Term]:
    """One per axis, and one for the channels that are on none."""
    rest = total - sum(len(axis) * len(axis.bundles[0]) for axis in axes)
    yield Term((), (), lambda _: rest)
    for index, axis in enumerate(axes):
        each = len(axis.bundles[0])
        yield Term((), (Width(len(axis) * each, 0, {index: each}),), lambda widths: widths[0])


def _multiplied(node: Node) -> list[Place]:
    """Widths whose product an operation's multiplications grow with."""
    name, dims = op_name(node), range(node.meta["val"].dim())
    if name in ops.CONVOLUTIONS | ops.TRANSPOSED_CONVOLUTIONS:
        source, weight = _argument(node, 0), _argument(node, 1)
        axis = 1 if node.meta["val"].dim() == weight.meta["val"].dim() else 0  # without a batch the first
        inputs = weight.meta["val"].shape[0 if name in ops.TRANSPOSED_CONVOLUTIONS else 1]
        # Groups go as a whole, inputs and outputs alike: the work grows with one of the two.
        grouped = source.meta["val"].shape[axis] != inputs
        return [_place(node, axis)] if grouped else [_place(source, axis), _place(node, axis)]
    if name in ops.ATTENTION:
        return [_place(node, dim) for dim in dims]
    if name in ops.RECURRENT:
        return [_place(_argument(node, 0), -1)]
    inner = _argument(node, 1 if name in ops.ADDED_PRODUCTS else 0)
    return [_place(inner, -1), *(_place(node, dim) for dim in dims)]


def _proportional(every: float, widths: Sequence[Width]) -> Callable[[Sequence[int]], float]:
    full = prod(width.full for width in widths)
    return lambda now: every * prod(now) / full if full else 0.0


def _place(node: Node, dim: int) -> Place:
    return node, dim % node.meta["val"].dim()


def _argument(node: Node, position: int) -> Node:
    found = node.args[position]
    assert isinstance(found, Node)
    return found
