"""What a whole axis takes along: operations that nothing but its activations reads, and whether a way through is left.

An activation whose channels are all dead passes zeros on, and so does what keeps zeros behind it. What only leads into
zeros is not read by anybody: a residual branch goes as a whole, with all that lies before the activation. That the
output can no longer be reached from the inputs is how the last way through shows.

Requires: a captured rotated network. Ensures: operations called idle cannot influence the output. Behind a dead
activation others may be zero, too, which overestimates what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache

from torch.fx import Node

from ...graph import ops
from ...graph.capture import Graph, op_name
from .attribution import Place, Width
from .coupling import Axis

# Zero if any of their arguments is, and if all of them are.
_ANY = ops.MULTIPLICATIONS | ops.PRODUCTS
_ALL = (ops.ZERO_TO_ZERO | ops.MAX_POOLS | ops.AVERAGE_POOLS | ops.MEANS | ops.UPSAMPLING) | (
    ops.VIEWS | ops.PERMUTATIONS | ops.SPLITS | ops.CONCATENATIONS | frozenset({"add", "flatten", "getitem"})
)
_WEIGHTED = ops.CONVOLUTIONS | ops.TRANSPOSED_CONVOLUTIONS | ops.LINEAR


class Reach:
    """Answers for sets of axes that are gone as a whole.

    Args:
        graph: The captured network.
        axes: Its axes.
        sizes: Number of channels of each slope.
        widths: Of the graph's tensors.
    """

    def __init__(
        self, graph: Graph, axes: Sequence[Axis], sizes: dict[str, int], widths: Mapping[Place, Width]
    ) -> None:
        self._graph, self._axes, self._sizes = graph, axes, sizes
        self._gates = _gates(graph, sizes)
        # Tensors without a channel that follows no axis.
        self._follow = [
            (place[0], frozenset(width.per))
            for place, width in widths.items()
            if isinstance(place[0], Node) and width.per and not width.fixed
        ]
        self._sources = [(node, node.all_input_nodes) for node in graph.nodes]
        self._passing = [
            (node, sources, how) for node, sources in self._sources for how in [_passes_zero(node)] if how
        ]
        self.idle = lru_cache(maxsize=4096)(self._idle)
        self.connected = lru_cache(maxsize=4096)(self._connected)

    def _zero(self, gone: frozenset[int]) -> set[Node]:
        """Operations whose result is 0 or not read: those all of whose channels are gone, and what they make so."""
        dead = dict.fromkeys(self._sizes, 0)
        for index in gone:
            for bundle in self._axes[index].bundles:
                for name, _ in bundle:
                    dead[name] += 1
        zero = {node for node, name in self._gates.items() if dead[name] == self._sizes[name]}
        zero.update(node for node, axes in self._follow if axes <= gone)
        for node, sources, how in self._passing if zero else ():
            if how(source in zero for source in sources):
                zero.add(node)
        return zero

    def _idle(self, gone: frozenset[int]) -> frozenset[Node]:
        """Operations that are 0 or from which no way leads to the output."""
        zero = self._zero(gone)
        if not zero:
            return frozenset()
        read = set(self._graph.outputs) - zero
        for node, sources in reversed(self._sources):
            if node in read:
                read.update(source for source in sources if source not in zero)
        return frozenset(node for node in self._graph.nodes if node not in read)

    def _connected(self, gone: frozenset[int]) -> bool:
        """Whether a way leads from the inputs to the output."""
        zero = self._zero(gone)
        reached = set(self._graph.inputs)
        for node, sources in self._sources:
            if node not in zero and not reached.isdisjoint(sources):
                reached.add(node)
        return any(node in reached for node in self._graph.outputs)


def _passes_zero(node: Node) -> Callable[[Iterable[bool]], bool] | None:
    """Of which of its arguments an operation's result is 0 if they are: ``any`` or ``all`` of them; None if of none."""
    name = op_name(node)
    if name in _ANY:
        return any
    if name in _WEIGHTED:
        # Without a bias, a layer makes 0 of 0.
        return any if len(node.all_input_nodes) == 2 else None
    return all if name in _ALL else None


def _gates(graph: Graph, sizes: dict[str, int]) -> dict[Node, str]:
    """The multiplication by each slope, where it meets the network's own values."""
    own: dict[Node, str] = {node: name for node, name in graph.states.items() if name in sizes}
    gates: dict[Node, str] = {}
    for node in graph.nodes:
        sources = node.all_input_nodes
        names = {own[source] for source in sources if source in own}
        if len(names) != 1:
            continue
        if all(source in own for source in sources):  # a view or a cast of the slope alone
            own[node] = names.pop()
        else:
            gates[node] = names.pop()
    return gates
