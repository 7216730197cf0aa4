"""What a captured network takes in an engine with some of its channels gone: the sum over its operations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from torch import nn
from torch.fx import Node

from ...core.errors import LatencyError
from ...core.modules import Call, Inputs, as_inputs, unwrap
from ...core.state import copy_of
from ...graph.capture import Graph, capture, check_static
from ...graph.liveness import Liveness
from ...nn.folding import as_plain
from .operations import TimedOperation, Width, find_operations
from .table import LatencyTable

LAYERS = ("conv", "transposed", "linear", "batch_norm", "layer_norm", "group_norm")  # they have weights
NAMED = 3  # missing geometries that a message names


def captured(net: nn.Module, example_inputs: Inputs) -> tuple[Graph, int]:
    """A network as its latency is counted: in plain form and float32, and the examples that it was captured with.

    Raises:
        CaptureError: If ``torch.export`` cannot capture it.
    """
    plain, inputs = plain_copy(net, example_inputs)
    graph = capture(plain, inputs)
    check_static(graph)
    return graph, inputs.batch_size


def plain_copy(net: nn.Module, example_inputs: Inputs) -> tuple[nn.Module, Call]:
    """A network as its latency is counted, and its inputs."""
    inputs = as_inputs(example_inputs).map(
        lambda value: value.cpu().float() if value.is_floating_point() else value.cpu()
    )
    return copy_of(as_plain(unwrap(net))).cpu().float(), inputs


def check_table_for(net: nn.Module, example_inputs: Inputs, table: LatencyTable) -> None:
    """Raise unless a table has all layers of a network.

    Raises:
        LatencyError: Naming those that it lacks.
    """
    LatencyModel(find_operations(*captured(net, example_inputs)), table)


def layer_milliseconds(net: nn.Module, example_inputs: Inputs, table: LatencyTable) -> dict[str, float]:
    """Time of each layer of a network with the widths that it has, in ms, by module ('' is the root).

    What has no weights counts with the layer whose result it reads. Their sum and the table's ``call_ms`` are the
    estimate of the whole.

    Raises:
        LatencyError: If the table lacks a layer.
    """
    graph, batch_size = captured(net, example_inputs)
    operations = LatencyModel(find_operations(graph, batch_size), table).operations
    layers = _layers(graph, operations)
    totals: dict[str, float] = defaultdict(float)
    for one in operations:
        totals[layers[one.nodes[0]]] += table.milliseconds(one.geometry, one.inputs, one.outputs)
    return dict(totals)


def _layers(graph: Graph, operations: Sequence[TimedOperation]) -> dict[Node, str]:
    """The layer that each node counts with: its module if it has weights, else that of the first tensor it reads."""
    own = {one.nodes[0]: one.name for one in operations if one.geometry.kind in LAYERS}
    layers: dict[Node, str] = {}
    for node in graph.nodes:
        before = (layers[source] for source in node.all_input_nodes if layers.get(source))
        layers[node] = own.get(node) or next(before, "")
    return layers


class LatencyModel:
    """Sums the times of a table over the operations of one captured network.

    Attributes:
        operations: What costs time, in execution order.
        grids: Their times in the table.
        table: The times.

    Args:
        operations: The network's, by :func:`.operations.find_operations`.
        table: Measured for this network, or for one with the same layers.

    Raises:
        LatencyError: If the table lacks a layer of this network; names the first of them.
    """

    def __init__(self, operations: Sequence[TimedOperation], table: LatencyTable) -> None:
        self.operations, self.table = list(operations), table
        self._check()
        self.grids = [table.grid(operation.geometry) for operation in self.operations]
        # Tables may lack them: they are small.
        self._remainders = [
            None if op.remainder is None else table.find(op.remainder) for op in self.operations
        ]

    def milliseconds(self, liveness: Liveness) -> float:
        """Time of one call with what is alive, in ms; 0 if nothing is."""
        return self.total(self.widths(liveness))

    def total(self, widths: Sequence[tuple[int, int]]) -> float:
        """Time of one call with so many input and output channels of each operation, in ms; 0 if there are none."""
        layers = sum(self.time(index, *pair) for index, pair in enumerate(widths))
        return self.table.call_ms + layers if layers else 0.0

    def times(self, liveness: Liveness) -> list[float]:
        """Time of each operation, in ms, in the order of :attr:`operations`."""
        return [self.time(index, *widths) for index, widths in enumerate(self.widths(liveness))]

    def time(self, index: int, inputs: int, outputs: int) -> float:
        """Time of one operation with so many channels, in ms."""
        remainder = self._remainders[index]
        if inputs == 0 and outputs and remainder is not None:
            return self.grids[index].absent_ms + remainder.at(outputs, outputs)
        return self.grids[index].at(inputs, outputs)

    @property
    def absent_ms(self) -> float:
        """What all operations take when nothing is left of them, in ms; without that of the call."""
        return sum(grid.absent_ms for grid in self.grids)

    def by_layer(self, liveness: Liveness) -> dict[str, float]:
        """Time per module whose ``forward`` spends it, in ms ('' is the root)."""
        totals: dict[str, float] = defaultdict(float)
        for operation, time in zip(self.operations, self.times(liveness), strict=True):
            totals[operation.name] += time
        return dict(totals)

    def widths(self, liveness: Liveness) -> list[tuple[int, int]]:
        """Input and output channels that are alive, per operation."""
        known: dict[Width, int] = {}

        def alive(width: Width) -> int:
            if width not in known:
                known[width] = _alive(liveness, width)
            return known[width]

        return [(alive(operation.source), alive(operation.result)) for operation in self.operations]

    def _check(self) -> None:
        missing = [op for op in self.operations if self.table.find(op.geometry) is None]
        if missing:
            names = list(dict.fromkeys(f"{op.geometry} ({op.name or 'the root'})" for op in missing))
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            raise LatencyError(
                f"the latency table ({self.table}) lacks layers of this network: {', '.join(names[:NAMED])}{more}; "
                "calibrate it for this network, or on the machine that it is of"
            )
        for op in self.operations:
            self.table.milliseconds(op.geometry, op.inputs, op.outputs)  # raises where the network is wider


def _alive(liveness: Liveness, width: Width) -> int:
    node, dim = width
    vectors = liveness.alive.get(node)
    # Inputs of the network are not among them: all of their channels are there.
    return int(vectors[dim].sum()) if vectors else int(node.meta["val"].shape[dim])
