"""Let tensors of an ONNX graph be narrower than the network's own modules can make them.

A module must give every consumer the same tensor, so a residual stream stays as wide as the union of what its blocks
use, and blocks gather from it. A deployed graph is free: each addition computes the channels that somebody reads,
slopes and gathers become part of the weights around them.

Requires: an ``onnx_ir`` model whose weights are initializers.
Does: carries a *view* of every tensor forward. Channel c of the tensor is ``scale[c] * base[index[c]]``, or the
constant ``shift[c]`` where ``index[c]`` is -1. With P the matrix of a view:
    conv(P x, W) = conv(x, W P)              a convolution reads the base itself, with rearranged and scaled weights
    relu(P x) = P relu(x)                    for scales >= 0; pooling likewise
    P (conv(x, W)) = conv(x, P W)            a convolution read by one addition alone writes in the addition's layout
    P1 x + P2 y                              needs one layout: an operand that is no convolution is *selected* into it,
                                             by a 1x1 convolution with at most one weight per row, or by a gather
    conv(P x + c, W) = conv(x, W P) + W c    without padding, a constant channel goes into the bias
    norm(P x) = conv(x, diag(g) P) + b       a batch norm that reads few of the channels is such a convolution itself
Engines with blocked layouts pay for a gather with two conversions of the tensor; a 1x1 convolution stays in the layout.
Ensures: the same function up to rounding, for finite inputs; tensors that any other operation reads are as they were.

What depends on processor and engine, a :class:`~rotated_relu.deploy.layout.GraphLayout` says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..layout import GraphLayout
from .channel_demand import (
    HOMOGENEOUS,
    TOUCH,
    Array,
    Mask,
    attribute,
    constant,
    demand_of,
    depthwise_conv,
    flattened,
    is_norm,
    is_sum,
    keeps_channels,
    per_channel,
    picked,
    plain_conv,
    plain_gemm,
    width,
    zero_pads,
)

Ids = NDArray[np.int64]
_LINEAR = frozenset(["AveragePool", "GlobalAveragePool", "Identity", "ReduceMean", "Slice"])


@dataclass(frozen=True)
class View:
    """A tensor as channels of another one: ``scale[c] * base[index[c]]``, ``shift[c]`` where the index is -1."""

    base: Any
    index: Ids
    scale: Array
    shift: Array

    @property
    def plain(self) -> bool:
        """Whether the tensor is the base."""
        return self.in_place and bool((self.scale == 1).all() and (self.index >= 0).all())

    @property
    def constants(self) -> Mask:
        """Channels with a constant other than 0."""
        result: Mask = (self.index < 0) & (self.shift != 0)
        return result

    @property
    def in_place(self) -> bool:
        """Whether every channel is zero or lies at its own position of a base of equal width."""
        own = np.arange(len(self.index))
        if len(own) != width(self.base):
            return False
        return bool(((self.index == own) | ((self.index < 0) & (self.shift == 0))).all())

    @property
    def injective(self) -> bool:
        """Whether no two channels come from the same one."""
        used = self.index[self.index >= 0]
        return len(np.unique(used)) == len(used)

    def over_base(self, values: Array) -> Array:
        """Values per channel, put at the channels of the base (0 where nobody is)."""
        result = np.zeros(width(self.base) or 0)
        live = self.index >= 0
        result[self.index[live]] = values[live]
        return result


def narrow_graph(model: Any, layout: GraphLayout) -> None:
    """Narrow an ``onnx_ir.Model`` in place; graphs with control flow are left alone."""
    attributes = [value for node in model.graph for value in node.attributes.values()]
    if not layout.enabled or any(hasattr(value.value, "inputs") for value in attributes):
        return
    rewriter = _Rewriter(model.graph, layout)
    for node in list(model.graph):
        rewriter.visit(node)
    rewriter.finish()


class _Rewriter:
    def __init__(self, graph: Any, layout: GraphLayout) -> None:
        self.graph, self.options = graph, layout
        self.demand = demand_of(graph)
        self.views: dict[Any, View] = {}
        self.selected: dict[tuple[Any, ...], Any] = {}
        self.slopes: dict[Any, dict[str, str]] = {}  # what is known of the slopes that scale a base
        self.zero: dict[
            Any, int
        ] = {}  # a channel of a base that is always 0, so that a gather needs no padding
        self.outputs = set(graph.outputs)
        self.old = list(graph)
        self.count = 0

    # --- walking ---------------------------------------------------------------------------------------------------

    def visit(self, node: Any) -> None:
        """Rewrite one node, or let it read tensors as they were."""
        self.at = node
        leaves = bool(self.outputs & set(node.outputs))
        if not leaves or plain_conv(node) or plain_gemm(node):
            view = self.rewrite(node)
            if view is not None:
                self.views[node.outputs[0]] = view
                if leaves:
                    self.replace_output(node.outputs[0], view.base)
                return
        for position, value in enumerate(node.inputs):
            if value in self.views:
                node.replace_input_with(position, self.whole(self.views[value]))

    def replace_output(self, old: Any, new: Any) -> None:
        """Let another value be an output of the graph, under the same name."""
        new.name, old.name = old.name, f"{old.name}_before"
        self.graph.outputs[list(self.graph.outputs).index(old)] = new
        self.outputs.add(new)
        self.outputs.discard(old)

    def rewrite(self, node: Any) -> View | None:
        """View of the node's result, or None to keep the node."""
        if plain_conv(node) or plain_gemm(node):
            return self.conv(node)
        if depthwise_conv(node):
            return self.depthwise(node)
        if node.op_type == "Mul" and (scaled := per_channel(node)) is not None:
            return self.multiply(node, self.view(scaled[0]), scaled[1])
        if node.op_type == "Gather" and (index := picked(node)) is not None:
            view = self.view(node.inputs[0])
            return View(view.base, view.index[index], view.scale[index], view.shift[index])
        if node.op_type == "Pad" and (pads := zero_pads(node)) is not None:
            return self.pad(node, pads)
        if is_norm(node):
            return self.norm(node)
        if is_sum(node):
            return self.add(node)
        if (pixels := flattened(node)) is not None:
            return self.flatten(node, pixels)
        return self.elementwise(node) if keeps_channels(node) else None

    def view(self, value: Any) -> View:
        """The view of a value; itself if nothing happened to it."""
        channels = width(value)
        assert channels is not None
        return self.views.get(value) or _placed(value, channels, np.arange(channels))

    def finish(self) -> None:
        """Take away what nobody reads any more."""
        for node in list(self.graph):
            self.stride_instead(node)
        for node in reversed(list(self.graph)):
            if not any(value.uses() or value in self.outputs for value in node.outputs):
                self.graph.remove(node, safe=True)
        for name, value in list(self.graph.initializers.items()):
            if not value.uses() and value not in self.outputs and value not in self.graph.inputs:
                del self.graph.initializers[name]

    def stride_instead(self, node: Any) -> None:
        """A 1x1 convolution of every second pixel is a convolution with stride 2."""
        if node.op_type != "Conv" or any(size != 1 for size in node.inputs[1].shape[2:]):
            return
        steps = attribute(node, "strides", [1] * (len(node.inputs[1].shape) - 2))
        while (found := _steps(node.inputs[0].producer(), len(steps))) is not None and not any(
            attribute(node, "pads", [0])
        ):
            steps = [own * other for own, other in zip(steps, found, strict=True)]
            node.replace_input_with(0, node.inputs[0].producer().inputs[0])
        node.attributes.add(_ir().AttrInt64s("strides", steps))

    # --- making nodes ----------------------------------------------------------------------------------------------

    def emit(self, kind: str, inputs: list[Any], channels: int, like: Any, attributes: Any = ()) -> Any:
        """Insert a node before the current one; its result has ``channels`` along axis 1 and is else like a value."""
        ir = _ir()
        self.count += 1
        node = ir.node(kind, inputs, attributes=dict(attributes), name=f"narrow_{self.count}")
        result = node.outputs[0]
        result.name, result.dtype = f"narrow_{self.count}", like.dtype
        if like.shape is not None:
            sizes = list(like.shape)
            sizes[1] = channels
            result.shape = ir.Shape(sizes)
        self.graph.insert_before(self.at, [node])
        return result

    def number(self, values: Any, dtype: Any) -> Any:
        """A new constant."""
        ir = _ir()
        self.count += 1
        tensor = ir.tensor(np.ascontiguousarray(values, dtype=dtype), name=f"narrow_{self.count}_value")
        value = ir.Value(
            name=tensor.name,
            shape=ir.Shape(tensor.shape.numpy()),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self.graph.register_initializer(value)
        return value

    def multiply(self, node: Any, view: View, factors: Array) -> View:
        """Slopes become scales of the view; at once a multiplication if an addition cannot take them otherwise.

        Right behind a ReLU engines fuse the multiplication; later on, with other consumers in between, they do not.
        """
        index = np.where(factors == 0, -1, view.index)
        view = View(view.base, index, view.scale * factors, view.shift * factors)
        self.slopes[view.base] = dict(node.metadata_props)
        added = any(use.node.op_type == "Add" for use in node.outputs[0].uses())
        lazy = self.options.narrowing_bias > 0 and (width(view.base) or 0) <= self.options.convolution_limit
        return view if lazy or not added or self.is_free(node.outputs[0]) else self.scaled(view)

    def rounded(self, channels: int) -> int:
        """A width rounded up."""
        return max(1, -(-channels // self.options.round_to)) * self.options.round_to

    def scaled(self, view: View) -> View:
        """The same view with scales of 1: one multiplication of the base."""
        live = view.index >= 0
        if (view.scale[live] == 1).all():
            return view
        if not view.injective:
            return self.exact(view, np.arange(len(view.index)))
        factors = view.over_base(view.scale)
        rank = len(view.base.shape)
        factor = self.number(factors.reshape(1, -1, *[1] * (rank - 2)), view.base.dtype.numpy())
        base = self.once("Mul", view.base, factors, lambda: self.times(view.base, factor, view.base))
        self.pass_zero(view.base, base)
        return View(base, view.index, np.ones(len(view.index)), view.shift)

    def times(self, value: Any, factor: Any, origin: Any) -> Any:
        """A multiplication that remembers whose slopes it applies."""
        result = self.emit("Mul", [value, factor], width(value) or 0, value)
        result.producer().metadata_props.update(self.slopes.get(origin, {}))
        return result

    def pass_zero(self, source: Any, result: Any) -> None:
        """The zero channel of a tensor is that of the next one."""
        if source in self.zero:
            self.zero[result] = self.zero[source]

    def once(self, kind: str, base: Any, key: Array, make: Any) -> Any:
        """Make a selection or scaling of a base one time."""
        name = (kind, base, key.tobytes())
        if name not in self.selected:
            self.selected[name] = make()
        return self.selected[name]

    def whole(self, view: View) -> Any:
        """The tensor of a view as such, for an operation without a rule."""
        if view.plain:
            return view.base
        if view.in_place:
            factors = np.where(view.index < 0, 0, view.scale)
            return self.scaled(replace(view, index=np.arange(len(factors)), scale=factors)).base
        return self.exact(view, np.arange(len(view.index)), pad=False).base

    def exact(self, view: View, layout: Ids, pad: bool = True) -> View:
        """Select the channels of a layout, in its order; -1 asks for a channel of zeros."""
        size = self.rounded(len(layout)) if pad else len(layout)
        matrix = np.zeros((size, width(view.base) or 0))
        live = (layout >= 0) & (view.index[layout] >= 0)
        matrix[np.flatnonzero(live), view.index[layout][live]] = view.scale[layout][live]
        bias = np.pad(np.where((layout >= 0) & ~live, view.shift[layout], 0.0), (0, size - len(layout)))
        key = np.column_stack([matrix, bias])
        base = self.once("select", view.base, key, lambda: self.select(view.base, matrix, bias))
        if size > len(layout):
            self.zero[base] = len(layout)
        return _placed(base, len(view.index), layout)

    def select(self, base: Any, matrix: Array, bias: Array) -> Any:
        """``matrix @ channels + bias``, as a 1x1 convolution or as a gather."""
        size, channels = matrix.shape
        dtype = base.dtype.numpy()
        space = [1] * (len(base.shape) - 2)
        if space and channels <= self.options.convolution_limit:
            terms = [base, self.number(matrix.reshape(*matrix.shape, *space), dtype)]
            return self.emit("Conv", terms + ([self.number(bias, dtype)] if bias.any() else []), size, base)
        origin = base
        index = np.where(matrix.any(axis=1), np.abs(matrix).argmax(axis=1), self.zero.get(base, channels))
        if (index == channels).any():
            pads = np.zeros((2, len(base.shape)), dtype=np.int64)
            pads[1, 1] = 1
            base = self.emit("Pad", [base, self.number(pads.reshape(-1), np.int64)], channels + 1, base)
        result = self.emit("Gather", [base, self.number(index, np.int64)], size, base, {"axis": 1})
        factors = matrix.sum(axis=1)
        if not set(factors.tolist()) <= {0.0, 1.0}:
            result = self.times(result, self.number(factors.reshape(1, -1, *space), dtype), origin)
        if bias.any():
            result = self.emit("Add", [result, self.number(bias.reshape(1, -1, *space), dtype)], size, base)
        return result

    def selecting_costs(self, channels: int, size: int) -> float:
        """Multiply-accumulates per position, or what copies cost in that unit: a gather converts the layout twice."""
        return size * (channels + 2 * TOUCH if channels <= self.options.convolution_limit else 8 * TOUCH)

    def pays(self, saving: float, cost: float) -> bool:
        """Whether a selection is worth its cost."""
        return (
            saving * self.options.narrowing_bias > cost
            if math.isfinite(self.options.narrowing_bias)
            else True
        )

    # --- operations ------------------------------------------------------------------------------------------------

    def conv(self, node: Any) -> View | None:
        """A convolution or matrix product reads the base of its input and writes what is demanded."""
        view, weight = self.view(node.inputs[0]), constant(node.inputs[1])
        assert weight is not None
        total = len(weight)
        bias = _bias(node)
        fixed = node.outputs[0] in self.demand.fixed
        written = (weight.reshape(total, -1) != 0).any(axis=1) | fixed
        if node.outputs[0] in self.demand.solid:
            written |= bias != 0
        live = self.demand.wants(node.outputs[0]) & written
        rows = np.flatnonzero(live) if live.any() else np.zeros(1, np.int64)
        size = len(rows) if fixed or node.op_type == "Gemm" else self.rounded(len(rows))
        if len(rows) == size == total and view.plain:
            return None
        if view.constants.any() and any(attribute(node, "pads", [0])):
            view = self.exact(view, np.flatnonzero((view.index >= 0) | view.constants))
        view = self.worth_selecting(view, math.prod(weight.shape[2:]) * size)
        small = np.zeros((width(view.base) or 0, size, *weight.shape[2:]))
        used = np.flatnonzero(view.index >= 0)
        columns = weight[rows][:, used] * view.scale[used].reshape(1, -1, *[1] * (weight.ndim - 2))
        np.add.at(small[:, : len(rows)], view.index[used], columns.swapaxes(0, 1))
        offset = bias + weight.sum(axis=tuple(range(2, weight.ndim))) @ np.where(
            view.index < 0, view.shift, 0.0
        )
        base = self.emit_conv(
            node, view.base, small.swapaxes(0, 1), np.pad(offset[rows], (0, size - len(rows)))
        )
        if size > len(rows):
            self.zero[base] = len(rows)
        return _placed(base, total, rows, np.where(written, 0.0, offset))

    def emit_conv(self, node: Any, source: Any, weight: Array, bias: Array, groups: int | None = None) -> Any:
        """A convolution like a given one with other weights."""
        dtype = node.inputs[1].dtype.numpy()
        terms = [source, self.number(weight, dtype)] + ([self.number(bias, dtype)] if bias.any() else [])
        attributes = _attributes(node) | ({} if groups is None else {"group": groups})
        return self.emit(node.op_type, terms, len(weight), node.outputs[0], attributes)

    def worth_selecting(self, view: View, price: float) -> View:
        """Select what a consumer uses out of a wide base if that is cheaper than to read all of it."""
        channels = width(view.base) or 0
        used = np.flatnonzero(view.index >= 0)
        size = self.rounded(len(used))
        if (
            len(used)
            and size < channels
            and self.pays(price * (channels - size), self.selecting_costs(channels, size))
        ):
            return replace(self.exact(view, used), shift=view.shift)
        return view

    def depthwise(self, node: Any) -> View | None:
        """Each channel on its own; one that is 0 becomes the constant that is its bias."""
        view, weight, bias = self.view(node.inputs[0]), constant(node.inputs[1]), _bias(node)
        assert weight is not None
        wanted = self.demand.wants(node.outputs[0])
        reads = weight.reshape(len(weight), -1).any(axis=1)
        live = reads & (view.index >= 0)
        if (
            (view.plain and (live | ~wanted).all())
            or not view.injective
            or (view.constants & reads & wanted).any()
        ):
            return None
        layout, channels = np.flatnonzero(live), width(view.base) or 0
        small = np.zeros((channels, *weight.shape[1:]))
        small[view.index[layout]] = weight[layout] * view.scale[layout].reshape(-1, *[1] * (weight.ndim - 1))
        inside = View(
            view.base, np.where(live, view.index, -1), np.ones(len(bias)), np.where(wanted, bias, 0.0)
        )
        base = self.emit_conv(node, view.base, small, inside.over_base(bias), groups=channels)
        self.pass_zero(view.base, base)
        return replace(inside, base=base)

    def pad(self, node: Any, pads: list[int]) -> View | None:
        """Padding along channels is bookkeeping; along space it happens to the base."""
        view, rank = self.view(node.inputs[0]), len(node.inputs[0].shape)
        before, after = pads[1], pads[rank + 1]
        base, space = view.base, list(pads)
        space[1] = space[rank + 1] = 0
        if any(space):
            if view.constants.any():
                return None
            base = self.emit("Pad", [base, self.number(space, np.int64)], width(base) or 0, node.outputs[0])
        index = np.pad(view.index, (before, after), constant_values=-1)
        scale, shift = (np.pad(values, (before, after)) for values in (view.scale, view.shift))
        return View(base, index, scale, shift)

    def elementwise(self, node: Any) -> View | None:
        """Channel by channel: happens to the base, and to the constants."""
        view = self.view(node.inputs[0])
        shift = _applied(node, view.shift) if view.constants.any() else view.shift
        if view.plain or shift is None:
            return None
        positive = node.op_type in HOMOGENEOUS and (view.scale[view.index >= 0] > 0).all()
        if node.op_type not in _LINEAR and not positive:
            view = self.scaled(view)
        terms = [view.base, *node.inputs[1:]]
        base = self.emit(node.op_type, terms, width(view.base) or 0, node.outputs[0], _attributes(node))
        self.pass_zero(view.base, base)
        return View(base, view.index, view.scale, shift)

    def flatten(self, node: Any, pixels: int) -> View | None:
        """A channel becomes as many features as it has pixels."""
        view = self.view(node.inputs[0])
        if view.plain:
            return None
        features = (width(view.base) or 0) * pixels
        base = self.emit("Flatten", [view.base], features, node.outputs[0], {"axis": 1})
        index = np.where(view.index >= 0, view.index * pixels, -1).repeat(pixels)
        index[index >= 0] += np.tile(np.arange(pixels), len(view.index))[index >= 0]
        return View(base, index, view.scale.repeat(pixels), view.shift.repeat(pixels))

    def norm(self, node: Any) -> View | None:
        """A batch norm at the width of its base, or as a selection of the channels that are read."""
        view = self.view(node.inputs[0])
        gamma, beta, mean, variance = (np.asarray(constant(v), dtype=np.float64) for v in node.inputs[1:5])
        factor = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        offset = beta - mean * factor
        shift = np.where(view.index < 0, view.shift * factor + offset, 0.0)
        folded = View(view.base, view.index, view.scale * factor, shift)
        solid = (folded.shift != 0) & (node.outputs[0] in self.demand.solid)
        wanted = self.demand.wants(node.outputs[0]) & ((view.index >= 0) | solid)
        rows = np.flatnonzero(wanted) if wanted.any() else np.zeros(1, np.int64)
        channels, total = width(view.base) or 0, len(view.index)
        size = self.rounded(len(rows))
        if self.is_free(node.inputs[0]):
            base = self.retarget(folded, rows, offset)
            if size > len(rows):
                self.zero[base] = len(rows)
            return _placed(base, total, rows, folded.shift)
        saving = (self.demand.price.get(node.outputs[0], 0.0) + 2 * TOUCH) * (channels - size)
        if (
            size < channels and self.pays(saving, self.selecting_costs(channels, size))
        ) or not view.injective:
            matrix = np.zeros((size, channels))
            live = np.flatnonzero(view.index[rows] >= 0)
            matrix[live, view.index[rows][live]] = folded.scale[rows][live]
            shifts = np.where(view.index >= 0, offset, folded.shift)
            bias = np.pad(shifts[rows], (0, size - len(rows)))
            return _placed(self.select(view.base, matrix, bias), total, rows, folded.shift)
        if view.plain:
            return None
        dtype = node.inputs[1].dtype.numpy()
        inside = replace(folded, index=np.where(wanted, view.index, -1))
        parameters = [
            inside.over_base(folded.scale),
            inside.over_base(offset),
            np.zeros(channels),
            np.ones(channels),
        ]
        terms = [view.base, *(self.number(value, dtype) for value in parameters)]
        base = self.emit("BatchNormalization", terms, channels, node.outputs[0], {"epsilon": 0.0})
        self.pass_zero(view.base, base)
        return replace(inside, base=base, scale=np.ones(total))

    def add(self, node: Any) -> View | None:
        """An addition computes what is read, in the layout that costs least."""
        views = [self.view(value) for value in node.inputs]
        free = [self.is_free(value) for value in node.inputs]
        known = [(view.index >= 0) | view.constants for view in views]
        live = self.demand.wants(node.outputs[0]) & (known[0] | known[1])
        if all(view.plain for view in views) and live.all():
            return None
        if _same_layout(*views):
            base = self.emit("Add", [view.base for view in views], width(views[0].base) or 0, node.outputs[0])
            return replace(views[0], base=base, shift=views[0].shift + views[1].shift)
        layout = np.flatnonzero(live) if live.any() else np.zeros(1, np.int64)
        if sum(free) == 1:
            stays = views[free.index(False)]
            if self.stays_wide(node, views[free.index(True)], stays, layout):
                return self.add_wide(node, views[free.index(True)], stays, live)
        if len(layout) > self.options.convolution_limit and len(layout) < len(live):
            layout = np.append(layout, -1)  # a gather from the sum may need a channel of zeros
        bases = [
            self.retarget(view, layout) if own else self.exact(view, layout).base
            for view, own in zip(views, free, strict=True)
        ]
        size = width(bases[0]) or 0
        base = self.emit("Add", bases, size, node.outputs[0])
        if size > (layout >= 0).sum():
            self.zero[base] = int((layout >= 0).sum())
        return _placed(base, len(live), layout)

    def is_free(self, value: Any) -> bool:
        """Whether a value comes from one convolution that nobody else reads, through bookkeeping alone."""
        while True:
            node = value.producer()
            if node is None or len(value.uses()) != 1 or value in self.outputs:
                return False
            if plain_conv(node):
                return True
            if not (
                (node.op_type == "Gather" and picked(node) is not None)
                or (
                    node.op_type == "Pad"
                    and (pads := zero_pads(node)) is not None
                    and not any(_spatial(pads))
                )
                or (node.op_type == "Mul" and per_channel(node) is not None)
                or is_norm(node)
            ):
                return False
            value = next(source for source in node.inputs if source is not None and constant(source) is None)

    def stays_wide(self, node: Any, free: View, stays: View, layout: Ids) -> bool:
        """Whether an addition keeps the layout of the operand that cannot be rearranged for nothing."""
        if not stays.injective or stays.constants.any():
            return False
        if (stays.index[layout] < 0).any() and not stays.in_place:
            return False
        channels, size = width(stays.base) or 0, self.rounded(len(layout))
        if size >= channels:
            return True
        weight = free.base.producer().inputs[1].shape
        price = self.demand.price.get(node.outputs[0], 0.0) + math.prod(weight[1:]) + 3 * TOUCH
        return not self.pays(price * (channels - size), self.selecting_costs(channels, size))

    def add_wide(self, node: Any, free: View, stays: View, live: Array) -> View:
        """The convolution writes in the other operand's layout; positive scales move behind the addition."""
        if stays.in_place and (stays.index[live] < 0).any():
            stays = self.view(self.whole(stays))
        used = stays.index >= 0
        if not (stays.scale[used] > 0).all():
            stays = self.scaled(stays)
        place = np.full(width(stays.base) or 0, -1)
        place[stays.index[used]] = np.flatnonzero(used)
        factor = np.where(used, stays.scale, 1.0)
        inverse = replace(free, scale=free.scale / factor, shift=free.shift / factor)
        moved = self.retarget(inverse, place, pad=False)
        base = self.emit("Add", [moved, stays.base], len(place), node.outputs[0])
        self.pass_zero(stays.base, base)
        return View(base, np.where(live, stays.index, -1), stays.scale, np.zeros(len(live)))

    def retarget(self, view: View, layout: Ids, offset: Array | None = None, pad: bool = True) -> Any:
        """Let the convolution behind a view write channel ``layout[j]`` at j; zeros where the layout is -1.

        An offset per channel of the view is added to those that are not constant.
        """
        node = view.base.producer()
        weight = constant(node.inputs[1])
        assert weight is not None
        size = self.rounded(len(layout)) if pad else len(layout)
        layout = np.pad(layout, (0, size - len(layout)), constant_values=-1)
        place = np.where(layout >= 0, view.index[layout], -1)
        factor = np.where(place >= 0, view.scale[layout], 0.0)
        moved = weight[place] * factor.reshape(-1, *[1] * (weight.ndim - 1))
        bias = _bias(node)[place] * factor + (
            0.0 if offset is None else np.where(place >= 0, offset[layout], 0.0)
        )
        constants = np.where((layout >= 0) & (place < 0), view.shift[layout], 0.0)
        return self.emit_conv(node, node.inputs[0], moved, bias + constants)


def _ir() -> Any:
    import onnx_ir

    return onnx_ir


def _steps(node: Any, spatial: int) -> list[int] | None:
    """Step along each spatial axis of a ``Slice`` that takes every n-th pixel from the first to the last."""
    if node is None or node.op_type != "Slice" or len(node.inputs) < 5:
        return None
    starts, ends, axes, steps = (constant(value) for value in node.inputs[1:])
    if starts is None or ends is None or axes is None or steps is None:
        return None
    if starts.any() or (ends < 2**31 - 1).any() or (axes < 2).any() or (steps < 1).any():
        return None
    found = [1] * spatial
    for axis, step in zip(axes.tolist(), steps.tolist(), strict=True):
        found[axis - 2] = step
    return found


def _spatial(pads: list[int]) -> list[int]:
    half = len(pads) // 2
    return [pad for axis, pad in enumerate(pads) if axis % half != 1]


def _same_layout(one: View, other: View) -> bool:
    return (
        width(one.base) == width(other.base)
        and np.array_equal(one.index, other.index)
        and np.array_equal(one.scale, other.scale)
    )


def _placed(base: Any, total: int, layout: Ids, shift: Array | None = None) -> View:
    """View of a base that holds the channels of a layout in order; the others are constant."""
    index = np.full(total, -1)
    index[layout[layout >= 0]] = np.flatnonzero(layout >= 0)
    return View(base, index, np.ones(total), np.zeros(total) if shift is None else shift)


def _bias(node: Any) -> Array:
    """Bias of a convolution or matrix product, zeros if it has none."""
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if bias is not None:
        return np.asarray(bias, dtype=np.float64)
    return np.zeros(node.inputs[1].shape[0])


def _applied(node: Any, shift: Array) -> Array | None:
    """What an operation makes of constant channels, or None if that is not a constant."""
    if node.op_type == "Relu":
        return np.maximum(shift, 0)
    if node.op_type == "Clip":
        low, high = (float(value.const_value.numpy()) for value in node.inputs[1:3])
        return np.clip(shift, low, high)
    padded = node.op_type == "AveragePool" and any(attribute(node, "pads", [0]))
    return shift if (node.op_type in _LINEAR or node.op_type == "MaxPool") and not padded else None


def _attributes(node: Any) -> dict[str, Any]:
    return {name: value.value for name, value in node.attributes.items()}
