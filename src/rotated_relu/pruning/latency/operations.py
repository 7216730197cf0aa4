"""The operations of a captured network that an engine spends time on, as engines fuse them.

Requires: a graph from :func:`rotated_relu.graph.capture.capture`, in eval mode. Ensures: every operation that depends
on the network's inputs is a :class:`TimedOperation` of its own, fused into one, or free.

What engines fuse, and export gives them to fuse: a batch norm behind a convolution or linear layer goes into its
weights, a residual addition and an activation behind it are done where its result is written. Slopes and other factors
that depend on parameters alone go into the weights around them (see :mod:`rotated_relu.deploy.passes.fold_slopes`).
A shortcut that takes every n-th pixel and pads the channels with zeros is a 1x1 convolution there (see
:mod:`rotated_relu.deploy.passes.slices_to_strides`). Views, permutations, other slices and splits are free.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

from torch import Tensor
from torch.fx import Node

from ...graph import ops
from ...graph.capture import Graph, module_path, op_name
from .geometry import LayerGeometry

Width = tuple[Node, int]  # a tensor and the dimension that holds its channels

WEIGHTED = ("conv", "transposed", "linear")
ACTIVATIONS = ops.GATES | {"sigmoid", "hardsigmoid", "tanh", "softplus", "clamp"}
BOOKKEEPING = ops.PADS | {"slice", "index_select"}
_CONVOLUTIONS = ops.CONVOLUTIONS | ops.TRANSPOSED_CONVOLUTIONS
_READERS = _CONVOLUTIONS | ops.LINEAR
_POOLS = ops.MAX_POOLS | ops.AVERAGE_POOLS | ops.ADAPTIVE_MAX_POOLS
# Kinds of operations that read and write the same channels, one time per width.
_PLAIN = {
    "add": "add",
    "sub": "add",
    "mul": "mul",
    "div": "mul",
    "layer_norm": "layer_norm",
    "rms_norm": "layer_norm",
    "group_norm": "group_norm",
    "instance_norm": "group_norm",
    "softmax": "softmax",
    **dict.fromkeys(ops.CONCATENATIONS, "concat"),
    **dict.fromkeys(ops.UPSAMPLING, "upsample"),
}


@dataclass(frozen=True)
class TimedOperation:
    """One operation of a network, with all that is fused into it.

    Attributes:
        name: Qualified name of the module whose ``forward`` does it ('' is the root).
        geometry: Its key in a table.
        source: The tensor it reads, and which of its dimensions holds the channels.
        result: The tensor it writes, likewise.
        nodes: The operations of the captured graph that it stands for, its own first.
    """

    name: str
    geometry: LayerGeometry
    source: Width
    result: Width
    nodes: tuple[Node, ...]

    @property
    def inputs(self) -> int:
        """Channels that it reads in the network as it is."""
        return _size(self.source)

    @property
    def outputs(self) -> int:
        """Channels that it writes in the network as it is."""
        return _size(self.result)

    @property
    def remainder(self) -> LayerGeometry | None:
        """What is left to do when it reads nothing: the addition and the activation that were fused into it.

        What it adds is then a constant per channel, from its bias or norm, and what it adds that to is multiplied by
        slopes of its own, if it has any. Modules compute that constant in every call, hence the norm. None if nothing
        is added: the result is that constant.
        """
        if not self.geometry.addition:
            return None
        node, dim = self.result
        size = tuple(node.meta["val"].shape[2:]) if dim == 1 else self.geometry.size
        kept = self.geometry
        return LayerGeometry(
            "add_constant", size, norm=kept.norm, activation=kept.activation, slopes=kept.slopes
        )


def find_operations(graph: Graph, batch_size: int) -> list[TimedOperation]:
    """All operations of a captured network that cost time, in execution order.

    Args:
        graph: The captured network.
        batch_size: Examples that it was captured with; sizes are counted per example.
    """
    return _Search(graph, batch_size).found()


def _size(width: Width) -> int:
    node, dim = width
    return int(node.meta["val"].shape[dim])


@dataclass
class _Search:
    """Walks a graph once; what is fused into an earlier operation is passed over."""

    graph: Graph
    batch_size: int
    absorbed: set[Node] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.order = {node: position for position, node in enumerate(self.graph.nodes)}
        self.moving = self._moving()
        self.dims: dict[Node, int] = {}

    def found(self) -> list[TimedOperation]:
        operations = []
        for node in self.graph.nodes:
            if node not in self.moving or not isinstance(node.meta.get("val"), Tensor):
                continue
            self.dims[node] = self._channel_dim(node)
            if node.op == "call_function" and node not in self.absorbed:
                operation = self._read(node)
                operations += [] if operation is None else [operation]
        return operations

    def _moving(self) -> set[Node]:
        """Nodes whose values depend on the inputs: all others are computed before the network runs."""
        moving = set(self.graph.inputs)
        for node in self.graph.nodes:
            reads_shape = op_name(node) in ops.SHAPE_READS
            if not reads_shape and any(source in moving for source in node.all_input_nodes):
                moving.add(node)
        return moving

    def _read(self, node: Node) -> TimedOperation | None:
        """The operation that begins with a node; None if it is free."""
        name = op_name(node)
        for names, read in self._readers():
            if name in names:
                return read(node)
        return None

    def _readers(self) -> list[tuple[Any, Callable[[Node], TimedOperation | None]]]:
        return [
            (_CONVOLUTIONS, self._convolution),
            (ops.LINEAR, self._linear),
            (ops.PRODUCTS | ops.ADDED_PRODUCTS, self._product),
            (ops.ATTENTION, self._attention),
            (ops.BATCH_NORM, self._batch_norm),
            (_POOLS, self._pool),
            (ops.MEANS, self._mean),
            (ACTIVATIONS, self._activation),
            (ops.PADS, self._shortcut),
            (_PLAIN, self._elementwise),
        ]

    # --- one reader per kind ------------------------------------------------------------------------------------

    def _convolution(self, node: Node) -> TimedOperation:
        x, weight = _tensor(node, 0), _tensor(node, 1)
        transposed = op_name(node) in ops.TRANSPOSED_CONVOLUTIONS
        rank = node.meta["val"].dim() - 2
        shape = weight.meta["val"].shape
        groups = _groups(node)
        pair = (shape[0] // groups, shape[1]) if transposed else (shape[1], shape[0] // groups)
        geometry = LayerGeometry(
            "transposed" if transposed else "conv",
            tuple(x.meta["val"].shape[2:]),
            kernel=tuple(shape[2:]),
            stride=_numbers(node, 3, rank, 1),
            padding=_padding(node, rank),
            dilation=_numbers(node, 7 if transposed else 5, rank, 1),
            group=pair if groups > 1 else (),
        )
        return self._fused(node, geometry, (x, 1), (node, 1))

    def _linear(self, node: Node) -> TimedOperation:
        x = _tensor(node, 0)
        return self._fused(node, LayerGeometry("linear", self._rows(x, -1)), (x, -1), (node, -1))

    def _product(self, node: Node) -> TimedOperation:
        first = 1 if op_name(node) in ops.ADDED_PRODUCTS else 0
        one, other = _tensor(node, first), _tensor(node, first + 1)
        if other not in self.moving:  # a linear layer by another name
            return self._fused(node, LayerGeometry("linear", self._rows(one, -1)), (one, -1), (node, -1))
        *outer, rows, _ = one.meta["val"].shape
        size = (self._per_example(prod(outer)), int(rows))
        return _operation(node, LayerGeometry("matmul", size), (one, -1), (node, -1))

    def _attention(self, node: Node) -> TimedOperation:
        query, key = _tensor(node, 0), _tensor(node, 1)
        *outer, length, _ = query.meta["val"].shape
        size = (self._per_example(prod(outer)), int(length), int(key.meta["val"].shape[-2]))
        return _operation(node, LayerGeometry("attention", size), (query, -1), (node, -1))

    def _batch_norm(self, node: Node) -> TimedOperation:
        x = _tensor(node, 0)
        return self._fused(node, LayerGeometry("batch_norm", self._positions(x)), (x, 1), (node, 1))

    def _pool(self, node: Node) -> TimedOperation:
        x = _tensor(node, 0)
        rank = x.meta["val"].dim() - 2
        kind = "max_pool" if "max" in op_name(node) else "average_pool"
        if op_name(node).startswith("adaptive"):
            return self._adaptive_pool(node, x, kind)
        kernel = _numbers(node, 1, rank, 1)
        geometry = LayerGeometry(
            kind,
            tuple(x.meta["val"].shape[2:]),
            kernel=kernel,
            stride=_numbers(node, 2, rank, kernel),
            padding=_numbers(node, 3, rank, 0),
        )
        return _operation(node, geometry, (x, 1), (node, 1))

    def _adaptive_pool(self, node: Node, x: Node, kind: str) -> TimedOperation:
        before, after = x.meta["val"].shape[2:], node.meta["val"].shape[2:]
        if all(size == 1 for size in after):
            return _operation(node, LayerGeometry("mean", tuple(before)), (x, 1), (node, 1))
        window = tuple(one // other for one, other in zip(before, after, strict=True))
        geometry = LayerGeometry(
            kind, tuple(before), kernel=window, stride=window, padding=(0,) * len(window)
        )
        return _operation(node, geometry, (x, 1), (node, 1))

    def _mean(self, node: Node) -> TimedOperation:
        x = _tensor(node, 0)
        dim = self.dims.get(x, 1)
        return _operation(node, LayerGeometry("mean", self._positions(x)), (x, dim), (x, dim))

    def _activation(self, node: Node) -> TimedOperation:
        source = self._width(_tensor(node, 0))
        scales = self._scales(node)
        self.absorbed.update(scales)
        geometry = LayerGeometry(
            "activation", self._positions(node), activation=_activation_name(node), slopes=bool(scales)
        )
        return _operation(node, geometry, source, self._width(node), scales)

    def _elementwise(self, node: Node) -> TimedOperation | None:
        kind, width = _PLAIN[op_name(node)], self._width(node)
        sources = [source for source in node.all_input_nodes if source in self.moving]
        if (kind == "mul" and len(sources) < 2) or (kind == "concat" and len(node.all_input_nodes) < 2):
            return None  # a factor that goes into the weights around it; a copy
        if kind == "add" and len(sources) < 2:
            kind = "add_constant"
        return self._fused(node, LayerGeometry(kind, self._positions(node)), width, width)

    def _shortcut(self, node: Node) -> TimedOperation | None:
        """Zeros beside the channels of an image, of every n-th pixel perhaps, with all that picks channels around it.

        None for zeros around the image, and for what a layer reads: that goes into its weights.
        """
        chain = [node, *self._bookkeeping_behind(node)]
        self.absorbed.update(chain)
        end, source = chain[-1], _tensor(node, 0)
        while op_name(source) in BOOKKEEPING:
            source = _tensor(source, 0)
        spatial = end.meta["val"].dim() - 2
        widths: Any = node.args[1]
        if spatial < 1 or any(widths[: 2 * spatial]) or all(op_name(user) in _READERS for user in end.users):
            return None
        before, after, ones = tuple(source.meta["val"].shape[2:]), end.meta["val"].shape[2:], (1,) * spatial
        steps = tuple(-(-one // other) for one, other in zip(before, after, strict=True))
        geometry = LayerGeometry("shortcut", before, ones, steps, (0,) * spatial, ones)
        # It writes what the addition behind it does, zeros included.
        sums = [user for user in end.users if op_name(user) == "add"]
        return _operation(node, geometry, (source, 1), (sums[0] if sums else end, 1), chain[1:])

    def _bookkeeping_behind(self, node: Node) -> list[Node]:
        found: list[Node] = []
        while following := self._follow(
            found[-1] if found else node, lambda _, user: op_name(user) in BOOKKEEPING
        ):
            found += following
        return found

    # --- what is fused ------------------------------------------------------------------------------------------

    def _fused(self, node: Node, geometry: LayerGeometry, source: Width, result: Width) -> TimedOperation:
        """An operation with weights, and what follows it with nothing in between."""
        weighted = geometry.kind in WEIGHTED
        norm = self._follow(node, self._is_norm) if weighted else []
        before = self._scales(_last(node, norm))
        added = self._follow(_last(node, norm, before), self._is_addition) if weighted else []
        gate, after = self._gate(_last(node, norm, before, added))
        named = replace(
            geometry,
            norm=bool(norm),
            addition=bool(added),
            activation=_activation_name(gate[-1]) if gate else "",
            slopes=bool(before or after),
        )
        nodes = (node, *norm, *before, *added, *gate, *after)
        self.absorbed.update(nodes[1:])
        return TimedOperation(module_path(node), named, source, result, nodes)

    def _gate(self, node: Node) -> tuple[list[Node], list[Node]]:
        """The activation behind a node, and the factors behind that."""
        gate = self._follow(node, lambda _, user: op_name(user) in ACTIVATIONS)
        return gate, self._scales(gate[-1]) if gate else []

    def _follow(self, node: Node, fits: Callable[[Node, Node], bool]) -> list[Node]:
        """The only user of a node, if it fits; copies in between are passed over."""
        passed: list[Node] = []
        while len(node.users) == 1 and node not in self.graph.outputs:
            user = next(iter(node.users))
            if user in self.absorbed or user not in self.order:
                break
            if op_name(user) in ops.COPIES:
                passed.append(user)
                node = user
                continue
            return [*passed, user] if fits(node, user) else []
        return []

    def _scales(self, node: Node) -> list[Node]:
        """The factors behind a node that depend on parameters alone."""
        found: list[Node] = []
        while following := self._follow(found[-1] if found else node, self._is_factor):
            found += following
        return found

    def _is_norm(self, node: Node, user: Node) -> bool:
        return op_name(user) in ops.BATCH_NORM and user.args[0] is node

    def _is_factor(self, node: Node, user: Node) -> bool:
        others = [source for source in user.all_input_nodes if source is not node]
        return op_name(user) in ("mul", "div") and not any(source in self.moving for source in others)

    def _is_addition(self, node: Node, user: Node) -> bool:
        if op_name(user) != "add":
            return False
        others = [source for source in user.all_input_nodes if source is not node]
        if not others or others[0] not in self.moving:
            return False
        # Of two layers the one that comes last finds the other summand ready; both have the result's shape.
        same = others[0].meta["val"].shape == node.meta["val"].shape
        return same and (self.order[others[0]] < self.order[node] or not self._is_weighted(others[0]))

    def _is_weighted(self, node: Node) -> bool:
        """Whether an operation with weights writes a tensor, with no more than a norm and factors behind it."""
        while op_name(node) in ops.COPIES | ops.BATCH_NORM:
            node = _tensor(node, 0)
        return op_name(node) in _CONVOLUTIONS | ops.LINEAR | ops.PRODUCTS | ops.ADDED_PRODUCTS

    # --- shapes -------------------------------------------------------------------------------------------------

    def _width(self, node: Node) -> Width:
        return node, self.dims.get(node, 1)

    def _channel_dim(self, node: Node) -> int:
        """The dimension of a tensor that holds channels: as its producer has it, else by its rank."""
        name, rank = op_name(node), int(node.meta["val"].dim())
        if node.op != "call_function" or name in _CONVOLUTIONS:
            return 1 if rank > 3 or name in _CONVOLUTIONS else max(0, rank - 1)
        if name in ops.VIEWS | {"flatten", "unflatten"}:
            return _viewed(node, self.dims, rank)
        if name in ops.LINEAR | ops.PRODUCTS | ops.ADDED_PRODUCTS | ops.ATTENTION:
            return rank - 1
        source = next((other for other in node.all_input_nodes if other in self.dims), None)
        if source is None or source.meta["val"].dim() != rank:
            return 1 if rank > 3 else max(0, rank - 1)
        if name in ops.PERMUTATIONS:
            return _permuted(node, self.dims[source], rank)
        return self.dims[source]

    def _rows(self, node: Node, dim: int) -> tuple[int, ...]:
        """Number of positions of a tensor, per example; () if it is one."""
        shape = [int(size) for size in node.meta["val"].shape]
        shape.pop(dim)
        rows = self._per_example(prod(shape))
        return () if rows == 1 else (rows,)

    def _positions(self, node: Node) -> tuple[int, ...]:
        """Height and width of an image, else the number of positions."""
        dim = self.dims.get(node, 1)
        if node.meta["val"].dim() > 2 and dim == 1:
            return tuple(node.meta["val"].shape[2:])
        return self._rows(node, dim) if node.meta["val"].dim() else ()

    def _per_example(self, count: int) -> int:
        return max(1, -(-count // self.batch_size))


def _operation(
    node: Node, geometry: LayerGeometry, source: Width, result: Width, more: Sequence[Node] = ()
) -> TimedOperation:
    return TimedOperation(module_path(node), geometry, source, result, (node, *more))


def _tensor(node: Node, position: int) -> Node:
    found = node.args[position]
    assert isinstance(found, Node)
    return found


def _numbers(node: Node, position: int, rank: int, default: int | Sequence[int]) -> tuple[int, ...]:
    """An argument that is one number per spatial dimension, one for all of them, or left out."""
    value: Any = node.args[position] if len(node.args) > position else default
    value = default if value in (None, []) else value
    values = [value] * rank if isinstance(value, int) else list(value)
    return tuple(int(number) for number in (values * rank if len(values) == 1 else values))


def _padding(node: Node, rank: int) -> tuple[int, ...]:
    value: Any = node.args[4] if len(node.args) > 4 else 0
    if value == "valid":
        return (0,) * rank
    if value == "same":
        kernel = _tensor(node, 1).meta["val"].shape[2:]
        dilation = _numbers(node, 5, rank, 1)
        return tuple(gap * (size - 1) // 2 for gap, size in zip(dilation, kernel, strict=True))
    return _numbers(node, 4, rank, 0)


def _groups(node: Node) -> int:
    # conv(x, weight, bias, stride, padding, dilation, groups); transposed: ..., output_padding, groups, dilation
    value: Any = node.args[6] if len(node.args) > 6 else 1
    return int(value)


def _activation_name(node: Node) -> str:
    """Name of an activation; a bounded one with its bounds' usual name."""
    name = op_name(node)
    return "relu6" if name in ("hardtanh", "clamp") else name


def _last(node: Node, *found: list[Node]) -> Node:
    return next((nodes[-1] for nodes in reversed(found) if nodes), node)


def _viewed(node: Node, dims: dict[Node, int], rank: int) -> int:
    """The channels' dimension after a view: the same, where it and all before it keep their sizes."""
    source = _tensor(node, 0)
    dim = dims.get(source, 1)
    before, after = source.meta["val"].shape[: dim + 1], node.meta["val"].shape[: dim + 1]
    return dim if bool(before == after) else max(0, rank - 1)


def _permuted(node: Node, dim: int, rank: int) -> int:
    """Where a dimension is after a permutation."""
    if op_name(node) == "permute":
        order: Any = node.args[1]
        return [int(place) % rank for place in order].index(dim)
    if op_name(node) in ("transpose", "swapaxes", "swapdims"):
        places: Any = node.args[1:3]
        one, other = (int(place) % rank for place in places)
        return {one: other, other: one}.get(dim, dim)
    return dim
