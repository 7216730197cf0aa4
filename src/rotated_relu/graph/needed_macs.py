"""The multiply-accumulates that would remain if everything irrelevant went, whatever the code around it fixes.

What a compaction achieved is judged against it: the difference is what widths written into code, groups and shared
dimensions hold. Counted per operation of the captured graph, from what liveness says:

- convolution, linear layer: one multiplication per output position and weight that is relevant and not zero;
- matrix product (m, k) (k, n), attention included: as many rows, columns and summands as are alive;
- recurrent layer: as the linear layer, for every step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor
from torch.fx import Node

from . import ops
from .capture import Graph, module_path, op_name
from .liveness import Liveness


@dataclass(frozen=True)
class Work:
    """Multiply-accumulates of one pass on the captured inputs, whole batch.

    Attributes:
        all: Of the network as it is.
        ideal: With everything irrelevant gone.
    """

    all: int
    ideal: int


def ideal_work(graph: Graph, liveness: Liveness, states: Mapping[str, Tensor]) -> dict[str, Work]:
    """Count a captured network's multiply-accumulates, and those that its output depends on, per module.

    Args:
        graph: The captured network with its dead slopes at 0.
        liveness: Of the same graph.
        states: Its parameters and buffers by qualified name.

    Returns:
        Qualified name of the module whose ``forward`` multiplies ('' is the root) to its work.
    """
    totals: dict[str, Work] = {}
    for node, work in operation_work(graph, liveness, states).items():
        before = totals.get(module_path(node), Work(0, 0))
        totals[module_path(node)] = Work(before.all + work.all, before.ideal + work.ideal)
    return totals


def operation_work(graph: Graph, liveness: Liveness, states: Mapping[str, Tensor]) -> dict[Node, Work]:
    """The same per operation that multiplies, in execution order."""
    count = _Count(graph, liveness, states)
    found = {}
    for node in graph.nodes:
        every, ideal = count.of(node) if node in graph.varying else (0, 0.0)
        if every:
            found[node] = Work(every, round(ideal))
    return found


class _Count:
    def __init__(self, graph: Graph, liveness: Liveness, states: Mapping[str, Tensor]) -> None:
        self.graph, self.liveness, self.states = graph, liveness, states

    def of(self, node: Node) -> tuple[int, float]:
        """(all, ideal) of one operation; (0, 0) if it does not multiply."""
        name = op_name(node)
        if name in ops.CONVOLUTIONS | ops.TRANSPOSED_CONVOLUTIONS | ops.LINEAR:
            return self.weighted(node, name)
        if name in ops.PRODUCTS:
            return self.product(node, _source(node, 0), _source(node, 1))
        if name in ops.ADDED_PRODUCTS:
            return self.product(node, _source(node, 1), _source(node, 2))
        if name in ops.ATTENTION:
            return self.attention(node)
        if name in ops.RECURRENT:
            return self.recurrent(node)
        return 0, 0.0

    def alive(self, node: Node, dim: int) -> float:
        """Entries along a dimension that are alive; all of a tensor that liveness did not see."""
        vectors = self.liveness.alive.get(node)
        return float(vectors[dim].sum()) if vectors else float(node.meta["val"].shape[dim])

    def weighted(self, node: Node, name: str) -> tuple[int, float]:
        x, weight = _source(node, 0), _source(node, 1)
        shape = node.meta["val"].shape
        if name == "linear":
            positions = prod(shape[:-1])
        else:
            # A transposed convolution multiplies once per position of its input, any other once per one of its output.
            spatial = (x if name in ops.TRANSPOSED_CONVOLUTIONS else node).meta["val"].shape[2:]
            positions = shape[0] * prod(spatial)
        every = positions * weight.meta["val"].numel()
        state = self.graph.states.get(weight)
        # A computed weight has no entries of its own in liveness: count its live outputs.
        if state is None:
            out = self.alive(node, -1 if name == "linear" else 1)
            return every, every * out / max(1, shape[-1 if name == "linear" else 1])
        needed = torch.count_nonzero(self.liveness.needed(state, self.states))
        return every, float(positions * int(needed))

    def product(self, node: Node, a: Node, b: Node) -> tuple[int, float]:
        shape, inner = node.meta["val"].shape, a.meta["val"].shape[-1]
        outer = prod(self.alive(node, dim) for dim in range(len(shape)))
        return prod(shape) * inner, outer * self._both(a, -1, b, -2)

    def recurrent(self, node: Node) -> tuple[int, float]:
        """Each weight matrix once for every step of every sequence."""
        steps = prod(_source(node, 0).meta["val"].shape[:-1])
        every, ideal = 0, 0.0
        for weight in node.all_input_nodes:
            state = self.graph.states.get(weight)
            if state is not None and weight.meta["val"].dim() == 2:
                every += steps * weight.meta["val"].numel()
                ideal += steps * int(torch.count_nonzero(self.liveness.needed(state, self.states)))
        return every, ideal

    def _both(self, a: Node, a_dim: int, b: Node, b_dim: int) -> float:
        one, other = self.liveness.alive.get(a), self.liveness.alive.get(b)
        # A summand counts if it is alive in both factors; where that is not known, the smaller count is an upper bound.
        if not one or not other or len(one[a_dim]) != len(other[b_dim]):
            return min(self.alive(a, a_dim), self.alive(b, b_dim))
        return float((one[a_dim] & other[b_dim]).sum())

    def attention(self, node: Node) -> tuple[int, float]:
        """Scores (L, S) over the query's width, then their product with the value."""
        q, k, v = (_source(node, position) for position in range(3))
        length, width = q.meta["val"].shape[-2:]
        keys, value_width = v.meta["val"].shape[-2:]
        heads = node.meta["val"].shape[:-2]
        live = prod(self.alive(node, dim) for dim in range(len(heads)))
        scores = length * keys
        every = prod(heads) * scores * (width + value_width)
        return every, live * scores * (self._both(q, -1, k, -1) + self.alive(node, -1))


def _source(node: Node, position: int) -> Node:
    source: Sequence[object] | object = node.args[position]
    assert isinstance(source, Node)
    return source
