"""Which channels of which tensors are the same channel: the algebra behind narrow tensors.

Every position along every dimension of every tensor in the graph is an *atom*. Operations that work for any width
(``relu``, ``add``, ``cat``, pooling, ``flatten``) merge atoms: position i of the input is position i of the output.
Operations with a width written into them (``view(n, 64)``, ``pad`` along channels, normalisation over channels) *pin*
atoms: those channels stay. Convolutions and linear layers end a wire: they read one and write another, and may read or
write any subset of it.

A class of merged atoms can go from all its tensors at once if no atom of it is pinned and none is alive. The user's
``forward`` then runs unchanged on narrower tensors.

Requires: a captured graph. Ensures: labels such that removing whole unpinned labels keeps every operation valid.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse
import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.fx import Node

from .capture import Graph, describe, module_paths, op_name
from .layers import Layer
from .splits import Split
from .zero_patterns import HANDLERS

Ids = np.ndarray[Any, np.dtype[np.int64]]


@dataclass
class Wires:
    """Atoms and their classes.

    Attributes:
        labels: Class of each atom.
        pinned: For each pinned class, the reason (operation and module) that pinned it first.
        pinned_by: For each pinned class, the node that pinned it first (None for inputs and outputs).
    """

    first: dict[Any, list[int]] = field(default_factory=dict)
    sizes: dict[Any, tuple[int, ...]] = field(default_factory=dict)
    labels: Ids = field(default_factory=lambda: np.zeros(0, np.int64))
    pinned: dict[int, str] = field(default_factory=dict)
    pinned_by: dict[int, Node | None] = field(default_factory=dict)
    atoms: int = 0
    _merges: list[tuple[Ids, Ids]] = field(default_factory=list)
    _pins: list[tuple[Ids, str, Node | None]] = field(default_factory=list)

    def add(self, key: Any, shape: Sequence[int]) -> None:
        """Give a tensor its atoms."""
        self.sizes[key] = tuple(shape)
        self.first[key] = []
        for size in shape:
            self.first[key].append(self.atoms)
            self.atoms += size

    def ids(self, key: Any, dim: int) -> Ids:
        """Atoms along one dimension of a tensor."""
        dim %= len(self.sizes[key])
        start = self.first[key][dim]
        return np.arange(start, start + self.sizes[key][dim], dtype=np.int64)

    def rank(self, key: Any) -> int:
        """Number of dimensions of a tensor."""
        return len(self.sizes[key])

    def merge(self, one: Ids, other: Ids) -> None:
        """Declare atoms pairwise the same channel."""
        self._merges.append((one, other))

    def pin(self, ids: Ids, reason: str, node: Node | None = None) -> None:
        """Declare that these channels have to stay."""
        self._pins.append((ids, reason, node))

    def solve(self) -> None:
        """Compute classes and pins."""
        rows = np.concatenate([a for a, _ in self._merges]) if self._merges else np.zeros(0, np.int64)
        columns = np.concatenate([b for _, b in self._merges]) if self._merges else np.zeros(0, np.int64)
        shape = (self.atoms, self.atoms)
        matrix = scipy.sparse.coo_matrix((np.ones(len(rows), np.int8), (rows, columns)), shape=shape)
        _, labels = connected_components(matrix, directed=False)
        self.labels = labels.astype(np.int64)
        for ids, reason, node in self._pins:
            for label in np.unique(self.labels[ids]).tolist():
                if label not in self.pinned:
                    self.pinned[label], self.pinned_by[label] = reason, node

    def along(self, key: Any, dim: int) -> Ids:
        """Class of each position along one dimension of a tensor."""
        return self.labels[self.ids(key, dim)]


def build(
    graph: Graph,
    layers: Iterable[Layer],
    regions: dict[str, str],
    frozen: Collection[str] = (),
    splits: Mapping[Node, Split] | None = None,
) -> Wires:
    """Build and solve the wires of a graph.

    Args:
        graph: The captured graph.
        layers: Convolutions and linear layers that may read and write subsets.
        regions: Call keys of parameter-free modules that stay at full width inside, to module names.
        frozen: Qualified names of modules whose ``forward`` needs every tensor at full width.
        splits: Splits whose parts may become smaller.
    """
    wires = Wires()
    for node in graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor):
            wires.add(node, value.shape)
    layer_of = {call: layer for layer in layers for call in layer.calls}
    builder = _Builder(graph, wires, layer_of, regions, frozen, splits or {})
    for node in graph.nodes:
        builder.visit(node)
    builder.finish()
    wires.solve()
    return wires


def region_of(node: Node, regions: dict[str, str]) -> str | None:
    """Key of the full-width region that a node belongs to, or None."""
    return next((key for key in (node.meta.get("nn_module_stack") or {}) if key in regions), None)


class _Builder:
    """Applies one rule per node."""

    def __init__(
        self,
        graph: Graph,
        wires: Wires,
        layer_of: dict[Node, Layer],
        regions: dict[str, str],
        frozen: Collection[str],
        splits: Mapping[Node, Split],
    ) -> None:
        self.graph, self.wires, self.layer_of, self.regions = graph, wires, layer_of, regions
        self.frozen = frozenset(frozen)
        self.splits = splits
        self.inner = {node for layer in layer_of.values() for node in layer.inner}

    def visit(self, node: Node) -> None:
        """Merge or pin the atoms of a node's result and arguments."""
        if node.op == "placeholder":
            if node not in self.graph.states and node in self.wires.sizes:
                self.pin_all(node, "the network's input", None)
            return
        if region_of(node, self.regions) is not None:
            self.pin_inside(node)
            return
        if node in self.inner:
            return  # the layer cuts its parameters itself
        for path in self.frozen.intersection(module_paths(node)):
            self.pin_seen(node, path)
        if node in self.layer_of:
            self.layer_of[node].wire(self.wires, node)
            return
        rule = RULES.get(op_name(node))
        if rule is None or not isinstance(node.meta.get("val"), Tensor):
            self.default(node)
            return
        try:
            rule(self, node)
        except (_Unknown, IndexError, TypeError, ValueError, KeyError):
            self.default(node)

    def pin_seen(self, node: Node, path: str) -> None:
        """Pin what the forward of one module itself computes, hands to its children, or gets from them."""
        reason = f"{path or 'the model'}, whose forward does not run on narrower tensors"
        own = _child(node, path)
        for key in [node, *node.all_input_nodes]:
            if key in self.wires.sizes and key not in self.graph.states:
                others = node.users if key is node else [key]
                if not own or any(_child(other, path) != own for other in others):
                    self.pin_all(key, reason, node)

    def pin_inside(self, node: Node) -> None:
        """Inside a region every tensor keeps its width; tensors that enter or leave it get adapters there.

        A node that leaves the region has two faces: its own atoms, which outside consumers use, are free.
        """
        key = region_of(node, self.regions)
        leaves = any(region_of(user, self.regions) != key for user in node.users)
        if not leaves and node in self.wires.sizes:
            self.pin_all(node, describe(node), node)

    def finish(self) -> None:
        """The network's outputs keep their shape."""
        for node in self.graph.outputs:
            if node in self.wires.sizes:
                self.pin_all(node, "the network's output", None)

    def default(self, node: Node) -> None:
        """An operation without a rule keeps the width of all that it touches."""
        value = node.meta.get("val")
        if value is not None and not isinstance(value, Tensor) and op_name(node) in _SPLITS:
            return  # its getitem nodes carry the rule
        self.pin_touched(node, describe(node))

    def pin_touched(self, node: Node, reason: str) -> None:
        """Pin a node's result and arguments."""
        for key in [node, *node.all_input_nodes]:
            if key in self.wires.sizes:
                self.pin_all(key, reason, node)

    def pin_all(self, key: Any, reason: str, node: Node | None) -> None:
        """Pin every dimension of a tensor."""
        for dim in range(self.wires.rank(key)):
            self.wires.pin(self.wires.ids(key, dim), reason, node)

    def pin_dim(self, node: Node, key: Any, dim: int) -> None:
        """Pin one dimension of a tensor on behalf of a node."""
        self.wires.pin(self.wires.ids(key, dim), describe(node), node)

    def same(self, one: Any, dim: int, other: Any, other_dim: int) -> None:
        """Merge two dimensions of equal size position by position."""
        a, b = self.wires.ids(one, dim), self.wires.ids(other, other_dim)
        if len(a) != len(b):
            raise _Unknown
        self.wires.merge(a, b)

    def size(self, key: Any, dim: int) -> int:
        """Size of one dimension of a tensor."""
        return self.wires.sizes[key][dim]


def _child(node: Node, path: str) -> str:
    """Which child call of a module a node belongs to; '' for the module's own operations, "outside" elsewhere."""
    calls = list((node.meta.get("nn_module_stack") or {}).items())
    depth = next((i for i, (_, (name, _)) in enumerate(calls) if name == path), None)
    if depth is None:
        return "outside"
    return calls[depth + 1][0] if depth + 1 < len(calls) else ""


class _Unknown(Exception):
    """The rule does not cover these arguments."""


Rule = Callable[[_Builder, Node], None]
RULES: dict[str, Rule] = {}
_SPLITS = frozenset(["chunk", "split", "split_with_sizes", "unbind", "tensor_split"])


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register one rule for several operations."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def _tensor(node: Node, position: int) -> Node:
    source = node.args[position]
    if not isinstance(source, Node):
        raise _Unknown
    return source


def _argument(node: Node, position: int, name: str, default: Any = None) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def _int_list(value: Any) -> list[int]:
    items = [value] if isinstance(value, int) else list(value)
    if any(not isinstance(item, int) for item in items):
        raise _Unknown
    return items


_ELEMENTWISE = (
    "relu relu6 gelu silu hardswish mish leaky_relu elu selu celu tanh tanhshrink softsign softshrink "
    "hardshrink sin tan asin atan sinh asinh atanh erf expm1 log1p sqrt square abs neg sign round floor "
    "ceil trunc frac dropout feature_dropout alpha_dropout clone contiguous alias detach lift_fresh to "
    "_to_copy type_as nan_to_num sigmoid hardsigmoid exp exp2 cos cosh acos log log2 log10 log_sigmoid "
    "softplus rsqrt reciprocal erfc logical_not hardtanh clamp clip clamp_min clamp_max threshold pow add "
    "sub rsub mul div true_divide maximum minimum eq ne gt lt ge le logical_and logical_or logical_xor "
    "atan2 remainder fmod where masked_fill addcmul zeros_like ones_like expand_as hypot bool float "
    "double half bfloat16"
).split()


@rule(*_ELEMENTWISE)
def _elementwise(build: _Builder, node: Node) -> None:
    rank = build.wires.rank(node)
    for source in node.all_input_nodes:
        if source not in build.wires.sizes:
            raise _Unknown
        own = build.wires.rank(source)
        for dim in range(own):
            if build.size(source, dim) == build.size(node, dim + rank - own):
                build.same(source, dim, node, dim + rank - own)


@rule("prelu")
def _prelu(build: _Builder, node: Node) -> None:
    x, weight = _tensor(node, 0), _tensor(node, 1)
    for dim in range(build.wires.rank(node)):
        build.same(x, dim, node, dim)
    if build.size(weight, 0) > 1:
        build.same(weight, 0, node, 1)


@rule("batch_norm")
def _batch_norm(build: _Builder, node: Node) -> None:
    x = _tensor(node, 0)
    for dim in range(build.wires.rank(node)):
        build.same(x, dim, node, dim)
    for state in node.args[1:5]:
        if isinstance(state, Node):
            build.same(state, 0, node, 1)


@rule("layer_norm", "rms_norm", "group_norm", "instance_norm")
def _normalisation(build: _Builder, node: Node) -> None:
    x = _tensor(node, 0)
    rank = build.wires.rank(node)
    name = op_name(node)
    if name in ("layer_norm", "rms_norm"):
        fixed = set(range(rank - len(_int_list(node.args[1])), rank))
    else:
        fixed = set(range(1, rank)) if name == "group_norm" else set(range(2, rank))
    for dim in range(rank):
        build.same(x, dim, node, dim)
        if dim in fixed:
            build.pin_dim(node, node, dim)
    for state in node.all_input_nodes:
        if state is not x:
            if name == "instance_norm":
                build.same(state, 0, node, 1)
            else:
                build.pin_all(state, describe(node), node)


@rule("softmax", "log_softmax", "cumsum")
def _softmax(build: _Builder, node: Node) -> None:
    _elementwise(build, node)
    build.pin_dim(node, node, int(_argument(node, 1, "dim")))


@rule("mean", "sum", "amax", "amin", "var", "std", "logsumexp", "linalg_vector_norm", "any", "all")
def _reduction(build: _Builder, node: Node) -> None:
    x = _tensor(node, 0)
    position = 2 if op_name(node) == "linalg_vector_norm" else 1
    dims = _argument(node, position, "dim")
    if dims is None:
        raise _Unknown
    rank = build.wires.rank(x)
    gone = {dim % rank for dim in _int_list(dims)}
    keep = build.wires.rank(node) == rank
    position = 0
    for dim in range(rank):
        if dim in gone:
            build.pin_dim(node, x, dim)
        else:
            build.same(x, dim, node, dim if keep else position)
        position += keep or dim not in gone


_CHANNELWISE = (
    "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d "
    "adaptive_avg_pool2d adaptive_avg_pool3d upsample_nearest1d upsample_nearest2d upsample_nearest3d "
    "upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d"
).split()


@rule(*_CHANNELWISE)
def _channelwise(build: _Builder, node: Node) -> None:
    """Batch and channels pass; what happens along space keeps its size."""
    x = _tensor(node, 0)
    spatial = int(next(digit for digit in reversed(op_name(node).removesuffix("d")) if digit.isdigit()))
    lead = build.wires.rank(node) - spatial
    for dim in range(build.wires.rank(node)):
        if dim < lead:
            build.same(x, dim, node, dim)
        else:
            build.pin_dim(node, x, dim)
            build.pin_dim(node, node, dim)


@rule("conv1d", "conv2d", "conv3d")
def _functional_conv(build: _Builder, node: Node) -> None:
    """A convolution that is no layer of its own (``F.conv2d``): its weight follows the wires."""
    x, weight = _tensor(node, 0), _tensor(node, 1)
    groups = int(_argument(node, 6, "groups", 1))
    rank = build.wires.rank(node)
    if build.wires.rank(weight) != rank or groups != 1:
        raise _Unknown
    build.same(x, 0, node, 0)
    build.same(x, 1, weight, 1)
    build.same(weight, 0, node, 1)
    for dim in range(2, rank):
        for key in (x, weight, node):
            build.pin_dim(node, key, dim)
    bias = _argument(node, 2, "bias")
    if isinstance(bias, Node):
        build.same(bias, 0, node, 1)


@rule("linear")
def _functional_linear(build: _Builder, node: Node) -> None:
    x, weight = _tensor(node, 0), _tensor(node, 1)
    for dim in range(build.wires.rank(node) - 1):
        build.same(x, dim, node, dim)
    build.same(x, -1, weight, 1)
    build.same(weight, 0, node, -1)
    bias = _argument(node, 2, "bias")
    if isinstance(bias, Node):
        build.same(bias, 0, node, -1)


@rule("matmul", "bmm", "mm")
def _matmul(build: _Builder, node: Node) -> None:
    a, b = _tensor(node, 0), _tensor(node, 1)
    rank = build.wires.rank(node)
    if build.wires.rank(a) < 2 or build.wires.rank(b) < 2:
        raise _Unknown
    build.same(a, -2, node, -2)
    build.same(b, -1, node, -1)
    build.same(a, -1, b, -2)
    for source in (a, b):
        for dim in range(-3, -1 - build.wires.rank(source), -1):
            if build.size(source, dim) == build.size(node, dim) and -dim <= rank:
                build.same(source, dim, node, dim)


@rule("scaled_dot_product_attention")
def _attention(build: _Builder, node: Node) -> None:
    """The value's width passes; the query's and key's sets the scale, so it stays."""
    q, k, v = (_tensor(node, position) for position in range(3))
    if _argument(node, 3, "attn_mask") is not None:
        build.pin_all(node.args[3], describe(node), node)
    for key in (q, k):
        build.pin_all(key, describe(node), node)
    build.same(v, -1, node, -1)
    for dim in range(build.wires.rank(node) - 1):
        build.pin_dim(node, v, dim)
        build.pin_dim(node, node, dim)


# --- rearrangements ------------------------------------------------------------------------------------------------


@rule("cat", "concat")
def _cat(build: _Builder, node: Node) -> None:
    sources = [source for source in _nodes(node.args[0]) if build.wires.sizes[source] != (0,)]
    axis = int(_argument(node, 1, "dim", 0)) % build.wires.rank(node)
    offset = 0
    whole = build.wires.ids(node, axis)
    for source in sources:
        for dim in range(build.wires.rank(node)):
            if dim != axis:
                build.same(source, dim, node, dim)
        size = build.size(source, axis)
        build.wires.merge(build.wires.ids(source, axis), whole[offset : offset + size])
        offset += size


@rule("stack")
def _stack(build: _Builder, node: Node) -> None:
    axis = int(_argument(node, 1, "dim", 0)) % build.wires.rank(node)
    build.pin_dim(node, node, axis)
    for source in _nodes(node.args[0]):
        for dim in range(build.wires.rank(source)):
            build.same(source, dim, node, dim + (dim >= axis))


def _nodes(value: Any) -> list[Node]:
    items = list(value)
    if any(not isinstance(item, Node) for item in items):
        raise _Unknown
    return items


@rule("permute", "transpose", "swapaxes", "swapdims", "t", "movedim")
def _permute(build: _Builder, node: Node) -> None:
    x = _tensor(node, 0)
    probe = torch.empty(
        [dim + 2 for dim in range(build.wires.rank(x))], device="meta"
    )  # sizes name dimensions
    target: Any = node.target
    permuted = target(probe, *node.args[1:], **node.kwargs)
    for dim, size in enumerate(permuted.shape):
        build.same(x, int(size) - 2, node, dim)


@rule("unsqueeze", "squeeze")
def _squeeze(build: _Builder, node: Node) -> None:
    """Dimensions of size 1 come and go; the others keep their order."""
    x = _tensor(node, 0)
    kept = [dim for dim in range(build.wires.rank(x)) if build.size(x, dim) != 1]
    found = [dim for dim in range(build.wires.rank(node)) if build.size(node, dim) != 1]
    if len(node.args) < 2:
        build.pin_all(x, describe(node), node)  # squeeze() without dim: a width of 1 would vanish
    for dim, other in zip(kept, found, strict=True):
        build.same(x, dim, node, other)


@rule("flatten")
def _flatten(build: _Builder, node: Node) -> None:
    x = _tensor(node, 0)
    rank = build.wires.rank(x)
    start = int(_argument(node, 1, "start_dim", 0)) % rank
    end = int(_argument(node, 2, "end_dim", -1)) % rank
    for dim in range(start):
        build.same(x, dim, node, dim)
    for dim in range(end + 1, rank):
        build.same(x, dim, node, dim - (end - start))
    _gather_up(build, node, x, list(range(start, end + 1)), node, start)


def _gather_up(build: _Builder, node: Node, many: Any, dims: list[int], one: Any, dim: int) -> None:
    """Several dimensions become one: the first carries the channels, the others keep their size."""
    dims = [d for d in dims if build.size(many, d) != 1]
    if not dims:
        return
    inner = 1
    for other in dims[1:]:
        inner *= build.size(many, other)
        build.pin_dim(node, many, other)
    build.wires.merge(np.repeat(build.wires.ids(many, dims[0]), inner), build.wires.ids(one, dim))


@rule("view", "reshape", "_unsafe_view")
def _view(build: _Builder, node: Node) -> None:
    """Group dimensions of equal product; a size that is written out (not -1) is pinned."""
    x = _tensor(node, 0)
    literal = _int_list(node.args[1])
    for before, after in _factor(build.wires.sizes[x], build.wires.sizes[node]):
        free = [dim for dim in after if literal[dim] == -1]
        if len(before) == 1 and len(after) == 1:
            build.same(x, before[0], node, after[0])
        elif len(after) == 1:
            _gather_up(build, node, x, before, node, after[0])
        elif len(before) == 1 and free == after[:1]:
            _gather_up(build, node, node, after, x, before[0])
        else:
            for key, dims in ((x, before), (node, after)):
                for dim in dims:
                    build.pin_dim(node, key, dim)
        for dim in after:
            if literal[dim] != -1:
                build.pin_dim(node, node, dim)


def _factor(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Split two shapes of equal size into the finest runs of dimensions with equal products (ones dropped)."""
    left = [(dim, size) for dim, size in enumerate(before) if size != 1]
    right = [(dim, size) for dim, size in enumerate(after) if size != 1]
    groups = []
    while left or right:
        run_left, run_right = [left.pop(0)], [right.pop(0)]
        product_left, product_right = run_left[0][1], run_right[0][1]
        while product_left != product_right:
            if product_left < product_right:
                run_left.append(left.pop(0))
                product_left *= run_left[-1][1]
            else:
                run_right.append(right.pop(0))
                product_right *= run_right[-1][1]
        groups.append(([dim for dim, _ in run_left], [dim for dim, _ in run_right]))
    return groups


@rule("unflatten")
def _unflatten(build: _Builder, node: Node) -> None:
    x = _tensor(node, 0)
    axis = _int_list(node.args[1])[0] % build.wires.rank(x)
    parts = _int_list(node.args[2])
    for dim in range(build.wires.rank(x)):
        if dim != axis:
            build.same(x, dim, node, dim if dim < axis else dim + len(parts) - 1)
    dims = list(range(axis, axis + len(parts)))
    if parts[0] == -1:
        _gather_up(build, node, node, dims, x, axis)
        dims = dims[1:]
    else:
        build.pin_dim(node, x, axis)
    for dim in dims:
        build.pin_dim(node, node, dim)


@rule("expand")
def _expand(build: _Builder, node: Node) -> None:
    x = _tensor(node, 0)
    sizes = _int_list(node.args[1])
    lead = len(sizes) - build.wires.rank(x)
    for dim in range(build.wires.rank(x)):
        if build.size(x, dim) == build.size(node, dim + lead):
            build.same(x, dim, node, dim + lead)
            if sizes[dim + lead] != -1:
                build.pin_dim(node, x, dim)


@rule("slice")
def _slice(build: _Builder, node: Node) -> None:
    x = _tensor(node, 0)
    axis = int(_argument(node, 1, "dim", 0)) % build.wires.rank(x)
    for dim in range(build.wires.rank(x)):
        if dim != axis:
            build.same(x, dim, node, dim)
    start, end = _argument(node, 2, "start"), _argument(node, 3, "end")
    whole = start in (None, 0) and (end is None or end > 2**31) and _argument(node, 4, "step", 1) == 1
    if whole:
        build.same(x, axis, node, axis)
    else:
        build.pin_dim(node, x, axis)
        build.pin_dim(node, node, axis)


@rule("select")
def _select(build: _Builder, node: Node) -> None:
    x = _tensor(node, 0)
    axis = _int_list(node.args[1])[0] % build.wires.rank(x)
    build.pin_dim(node, x, axis)
    for dim in range(build.wires.rank(node)):
        build.same(x, dim + (dim >= axis), node, dim)


@rule("getitem")
def _getitem(build: _Builder, node: Node) -> None:
    """A part of a split: all dimensions but the split one pass."""
    split = _tensor(node, 0)
    if op_name(split) not in _SPLITS:
        raise _Unknown
    x = _tensor(split, 0)
    axis = int(_argument(split, 1 if op_name(split) == "unbind" else 2, "dim", 0)) % build.wires.rank(x)
    if split in build.splits:
        part = build.splits[split].ranges[_int_list(node.args[1])[0]]
        build.wires.merge(build.wires.ids(x, axis)[part], build.wires.ids(node, axis))
        for dim in range(build.wires.rank(x)):
            if dim != axis:
                build.same(x, dim, node, dim)
        return
    build.wires.pin(build.wires.ids(x, axis), describe(split), split)
    if op_name(split) == "unbind":
        for dim in range(build.wires.rank(node)):
            build.same(x, dim + (dim >= axis), node, dim)
        return
    build.pin_dim(node, node, axis)
    for dim in range(build.wires.rank(x)):
        if dim != axis:
            build.same(x, dim, node, dim)


@rule(
    "pad", "constant_pad_nd", "reflection_pad2d", "replication_pad2d", "reflection_pad1d", "replication_pad1d"
)
def _pad(build: _Builder, node: Node) -> None:
    x = _tensor(node, 0)
    amounts = _int_list(node.args[1])
    rank = build.wires.rank(x)
    padded = {
        rank - 1 - pair for pair in range(len(amounts) // 2) if amounts[2 * pair] or amounts[2 * pair + 1]
    }
    for dim in range(rank):
        if dim in padded:
            build.pin_dim(node, x, dim)
            build.pin_dim(node, node, dim)
        else:
            build.same(x, dim, node, dim)


@rule("unfold")
def _unfold(build: _Builder, node: Node) -> None:
    """``Tensor.unfold(dim, size, step)``: windows along one dimension, their entries in a new last one."""
    x = _tensor(node, 0)
    axis = _int_list(node.args[1])[0] % build.wires.rank(x)
    for dim in range(build.wires.rank(x)):
        if dim != axis:
            build.same(x, dim, node, dim)
    build.pin_dim(node, x, axis)
    for dim in (axis, build.wires.rank(node) - 1):
        build.pin_dim(node, node, dim)


@rule("roll", "flip")
def _roll(build: _Builder, node: Node) -> None:
    x = _tensor(node, 0)
    moved = _int_list(_argument(node, 2, "dims") if op_name(node) == "roll" else node.args[1])
    rank = build.wires.rank(x)
    for dim in range(rank):
        if dim in {m % rank for m in moved}:
            build.pin_dim(node, x, dim)
            build.pin_dim(node, node, dim)
        else:
            build.same(x, dim, node, dim)


assert set(_ELEMENTWISE) - set(HANDLERS) <= {"zeros_like", "ones_like"}
