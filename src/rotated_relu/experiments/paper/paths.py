"""Lengths of the paths that skip connections make, counted in filters.

In a network of n residual blocks one behind the other, a signal has two ways at each: through the layers of the
block, or past them along the skip connection. That makes 2^n paths. The **filter-path length** of a path is the
number of filters in the layers that it passes through:

- a block that is passed adds the filters of the convolutions and linear layers on its branch; of those only the ones
  that are alive, counted as the paper counts them: a filter is alive if the slope of the activation that it feeds is
  (:func:`rotated_relu.experiments.paper.count.alive_out`);
- a block that is skipped adds 0, also where the skip connection is a 1x1 convolution;
- the layers outside of blocks (stem, classifier) lie on every path, would add the same to all, and are left out.

Where nothing gets through, there is no path. A way is closed if all filters of an activation on it are dead, or if a
layer on it reads only dead ones. An activation that reads the block's sum and is its only consumer, as in
post-activation networks, closes both ways. (In pre-activation networks the sum goes on as the stream. An activation
that reads nothing from it closes the block that it begins, not the one before.)

The lengths of the paths are the exponents of a product of polynomials, one per block: ``x^0 + x^f`` for a block of f
filters. Its coefficients are the numbers of paths. They are kept side by side in one large integer, wide enough that
none runs into the next, so that a block is one shift and one addition: exact, and fast for hundreds of blocks.

Source: the distribution is a figure of N. Nayak, S. Kalyani, TMLR 2024, and what a block adds is our reading of it;
the view of residual networks as 2^n paths is that of Veit et al., *Residual Networks Behave Like Ensembles of
Relatively Shallow Networks*, NeurIPS 2016.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn
from torch.fx import Node

from ...core.errors import CaptureError, ShapeError
from ...core.modules import Inputs
from ...graph.capture import Graph, capture, module_path
from .count import PaperLayer, alive_in, alive_out
from .graph import PaperNetwork, is_gate, is_sum, is_weighted, read_network


@dataclass(frozen=True)
class Block:
    """A residual block.

    Attributes:
        name: Module path of its sum.
        filters: Filters of the layers on its branch.
        alive: Those of them that are alive.
        passable: Whether anything gets through the branch.
        skippable: Whether anything gets past it.
    """

    name: str
    filters: int
    alive: int
    passable: bool = True
    skippable: bool = True

    @property
    def ways(self) -> list[int]:
        """Filters on each way that is open: skipped, passed."""
        return [0] * self.skippable + [self.alive] * self.passable


@dataclass(frozen=True)
class PathLengths:
    """How many paths have which length.

    Attributes:
        counts: Number of paths, exact, by length in filters: ``counts[3]`` paths run through three filters. The last
            entry is not 0; empty if there is no path.
    """

    counts: list[int]

    @property
    def paths(self) -> int:
        """Number of all paths."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Mean length in filters; 0 if there is no path."""
        total = sum(length * count for length, count in enumerate(self.counts))
        return total / self.paths if self.counts else 0.0

    def shares(self, width: int = 1) -> list[float]:
        """Fractions of the paths whose length lies in [0, width), [width, 2 * width), ...; they sum to 1."""
        paths = self.paths
        starts = range(0, len(self.counts), width)
        return [sum(self.counts[start : start + width]) / paths for start in starts]


def path_lengths(ways: Iterable[Sequence[int]]) -> PathLengths:
    """Distribution of the lengths of all paths, exact.

    Args:
        ways: Per block the lengths that its ways add: ``[0, filters]``, or fewer where a way is closed
            (:attr:`Block.ways`).

    Raises:
        ShapeError: If a length is negative.
    """
    steps = [list(way) for way in ways]
    if any(length < 0 for way in steps for length in way):
        raise ShapeError("a block has a negative number of filters")
    paths = math.prod(map(len, steps))
    if not paths:
        return PathLengths([])
    size = (paths.bit_length() + 7) // 8  # bytes per coefficient: none exceeds the number of paths
    packed = 1
    for way in steps:
        packed = sum(packed << (8 * size * length) for length in way)
    longest = sum(map(max, steps))
    stored = packed.to_bytes(size * (longest + 1), "little")
    return PathLengths(
        [int.from_bytes(stored[start : start + size], "little") for start in range(0, len(stored), size)]
    )


def residual_blocks(
    net: nn.Module,
    example_inputs: Inputs,
    threshold: float = 0.0,
    *,
    alive: Mapping[str, int] | None = None,
) -> list[Block]:
    """The residual blocks of a network, rotated or not, in execution order.

    A residual block is a sum of two ways from one point, of which one (the skip connection) holds no activation and
    fewer layers than the other (the branch). Sums of other kinds are none.

    Args:
        net: The network before compaction.
        example_inputs: Inputs of ``forward``, a batch of any size.
        threshold: A filter is dead if the absolute value of its slope is below this, or exactly 0.
        alive: Instead of a threshold: name of a slope -> how many of its filters are alive, as a mask leaves them.

    Raises:
        ShapeError: If the network does not run on the inputs.
        CaptureError: If it cannot be exported, or its blocks do not follow one another, so that their ways do not
            simply multiply.
    """
    graph = capture(net, example_inputs)
    reader = _BlockReader(graph, read_network(graph, net, threshold, alive))
    found = [each for node in graph.nodes if (each := reader.residual(node)) is not None]
    for before, after in itertools.pairwise(found):
        if not reader.leads(before.sum, after.fork):
            raise CaptureError(
                f"the residual block {module_path(after.sum)} does not begin behind the end of "
                f"{module_path(before.sum)}: paths through blocks within or beside one another are not counted"
            )
    return [reader.block(each) for each in found]


@dataclass(frozen=True)
class _Residual:
    """Where a residual block is in the graph."""

    sum: Node
    fork: Node
    branch: list[Node]
    skip: list[Node]


class _BlockReader:
    """Finds residual blocks in a captured graph and counts their filters."""

    def __init__(self, graph: Graph, network: PaperNetwork) -> None:
        self.nodes = graph.nodes
        self.place = {node: place for place, node in enumerate(graph.nodes)}
        weighted = filter(is_weighted, graph.nodes)
        self.layers: dict[Node, PaperLayer] = dict(zip(weighted, network.layers, strict=True))
        gates = list(filter(is_gate, graph.nodes))
        self.alive: dict[Node, int] = dict(zip(gates, network.alive, strict=True))
        self.network = network
        # Per node the set of nodes that the data pass on their way to it, itself included, as bits; 0 for parameters.
        self.behind: dict[Node, int] = {}
        for node in graph.nodes:
            sources = [self.behind.get(source, 0) for source in node.all_input_nodes]
            if node in graph.inputs or any(sources):
                self.behind[node] = functools.reduce(operator.or_, sources, 1 << self.place[node])

    def leads(self, source: Node, target: Node) -> bool:
        """Whether data pass ``source`` on their way to ``target``; also if they are the same."""
        return bool(self.behind[target] >> self.place[source] & 1)

    def residual(self, node: Node) -> _Residual | None:
        """The residual block that ends in ``node``, if one does."""
        ends = [source for source in node.all_input_nodes if source in self.behind]
        if not is_sum(node) or len(ends) != 2:
            return None
        common = self.behind[ends[0]] & self.behind[ends[1]]
        if not common:
            return None
        fork = self.nodes[common.bit_length() - 1]  # the latest
        ways = [self._between(fork, end) for end in ends]
        skip, branch = sorted(ways, key=self._layers_on)
        if any(map(is_gate, skip)) or self._layers_on(skip) == self._layers_on(branch):
            return None
        return _Residual(node, fork, branch, skip)

    def block(self, found: _Residual) -> Block:
        """The filters of a residual block."""
        alive, widths = self.network.alive, self.network.widths
        layers = [self.layers[node] for node in found.branch if node in self.layers]
        after = list(found.sum.users)
        ends = bool(after) and all(map(is_gate, after)) and not any(self.alive[gate] for gate in after)
        return Block(
            module_path(found.sum),
            sum(layer.outputs for layer in layers),
            sum(alive_out(layer, alive, widths) for layer in layers),
            passable=not ends and self._open(found.branch),
            skippable=not ends and self._open(found.skip),
        )

    def _open(self, way: list[Node]) -> bool:
        """Whether every activation on a way has filters alive, and every layer reads something."""
        alive, widths = self.network.alive, self.network.widths
        gates = all(self.alive[node] for node in way if node in self.alive)
        return gates and all(
            alive_in(self.layers[node], alive, widths) for node in way if node in self.layers
        )

    def _between(self, fork: Node, end: Node) -> list[Node]:
        """Nodes on the way from ``fork``, without it, to ``end``, with it."""
        inside = self.behind[end] & ~self.behind[fork]
        return [node for node in self.nodes if inside >> self.place[node] & 1]

    def _layers_on(self, way: list[Node]) -> int:
        return sum(map(is_weighted, way))
