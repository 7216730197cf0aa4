"""Rules of :mod:`.narrow_channels`, one per kind of operation; additions have a file of their own.

Requires: the views of the node's inputs.
Ensures: the view of its result, computed by new nodes where necessary; or None, and the node stays as it is and reads
whole tensors. A view may lack what the demand does not ask for.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .channel_demand import TOUCH
from .channel_view import ChannelView
from .narrowing import Narrowing, nonempty, spatial
from .patterns import (
    HOMOGENEOUS,
    Array,
    Ids,
    Mask,
    Node,
    Value,
    attribute,
    attributes,
    bias_of,
    constant,
    pads_space,
)

LINEAR = frozenset(["AveragePool", "GlobalAveragePool", "Identity", "ReduceMean", "Slice"])


# --- layers ---------------------------------------------------------------------------------------------------------


def layer(state: Narrowing, node: Node, _: bool) -> ChannelView | None:
    """A convolution or matrix product reads the base of its input and writes what is demanded."""
    view, weight, bias = state.view(node.inputs[0]), _weight(node), bias_of(node)
    result, total = node.outputs[0], len(weight)
    written = _written(state, node, weight, bias)
    rows = nonempty(state.demand.wants(result) & written)
    # Others read a fixed result as it is; features of a matrix product are not computed in blocks.
    fill = result not in state.demand.fixed and node.op_type != "Gemm"
    size = state.selector.rounded(len(rows)) if fill else len(rows)
    if len(rows) == size == total and view.plain:
        return None
    if view.constants.any() and pads_space(node):
        # Beyond the border a constant is 0, so it cannot go into the bias.
        view = state.selector.selected(view, np.flatnonzero(view.live | view.constants))
    view = _narrow_source(state, view, int(np.prod(weight.shape[2:])) * size)
    offset = bias + weight.sum(axis=tuple(range(2, weight.ndim))) @ view.constant_values
    base = state.layer_like(
        node, view.base, _grown(view.weights_on_base(weight[rows]), size), _grown(offset[rows], size)
    )
    state.selector.note_filled(base, len(rows))
    # Channels without weights are their bias, whatever the input.
    return ChannelView.placed(base, total, rows, np.where(written, 0.0, offset))


def _written(state: Narrowing, node: Node, weight: Array, bias: Array) -> Mask:
    """Output channels that must be computed; the others are constants of which the consumers know."""
    result = node.outputs[0]
    written: Mask = (weight.reshape(len(weight), -1) != 0).any(axis=1)
    if result in state.demand.fixed:
        written = np.ones_like(written)
    if result in state.demand.solid:
        written = written | (bias != 0)
    return written


def _narrow_source(state: Narrowing, view: ChannelView, price: float) -> ChannelView:
    """Select what a layer uses out of a wide base if that is cheaper than to read all of it."""
    used, channels = np.flatnonzero(view.live), view.base_channels
    size = state.selector.rounded(len(used))
    if len(used) and size < channels and state.selector.pays(price, channels, size):
        return replace(state.selector.selected(view, used), shift=view.shift)
    return view


def depthwise(state: Narrowing, node: Node, _: bool) -> ChannelView | None:
    """Each channel on its own; one that is 0 becomes the constant that is its bias."""
    view, weight, bias = state.view(node.inputs[0]), _weight(node), bias_of(node)
    wanted = state.demand.wants(node.outputs[0])
    reads = weight.reshape(len(weight), -1).any(axis=1)
    live = reads & view.live
    if view.plain and (live | ~wanted).all():
        return None
    if not view.injective or (view.constants & reads & wanted).any():
        return None
    order, channels = np.flatnonzero(live), view.base_channels
    moved = np.zeros((channels, *weight.shape[1:]))
    moved[view.index[order]] = weight[order] * view.scale[order].reshape(-1, *[1] * (weight.ndim - 1))
    index, shift = np.where(live, view.index, -1), np.where(wanted, bias, 0.0)
    inside = ChannelView(view.base, index, np.ones(len(bias)), shift)
    base = state.layer_like(node, view.base, moved, inside.over_base(bias), groups=channels)
    state.selector.pass_zero(view.base, base)
    return inside.on(base)


def norm(state: Narrowing, node: Node, _: bool) -> ChannelView | None:
    """A batch norm: part of the convolution before it, or a selection of what is read, or at the width of its base."""
    result, view = node.outputs[0], state.view(node.inputs[0])
    factor, offset = affine_of_norm(node)
    folded = view.affine(factor, offset)
    solid = (folded.shift != 0) & (result in state.demand.solid)
    wanted = state.demand.wants(result) & (view.live | solid)
    rows = nonempty(wanted)
    if state.is_free(node.inputs[0]):
        base = state.rewritten(folded, rows, offset)
        state.selector.note_filled(base, len(rows))
        return ChannelView.placed(base, view.channels, rows, folded.shift)
    size = state.selector.rounded(len(rows))
    saved = state.demand.price_of(result) + 2 * TOUCH  # a norm reads and writes every channel
    pays = size < view.base_channels and state.selector.pays(saved, view.base_channels, size)
    if pays or not view.injective:
        matrix, bias = folded.selection(rows, size)
        bias[: len(rows)] += np.where(view.live, offset, 0.0)[rows]
        base = state.selector.multiplied(view.base, matrix, bias)
        return ChannelView.placed(base, view.channels, rows, folded.shift)
    if view.plain:
        return None
    return _norm_of_base(state, node, replace(folded, index=np.where(wanted, view.index, -1)), offset)


def _norm_of_base(state: Narrowing, node: Node, inside: ChannelView, offset: Array) -> ChannelView:
    """The norm of all channels of the base, with mean 0 and variance 1."""
    channels, dtype = inside.base_channels, node.inputs[1].dtype.numpy()
    scales, shifts = inside.over_base(inside.scale), inside.over_base(offset)
    terms = [
        state.editor.constant(value, dtype, of=old)
        for value, old in zip(
            (scales, shifts, np.zeros(channels), np.ones(channels)), node.inputs[1:5], strict=True
        )
    ]
    base = state.editor.node(
        "BatchNormalization", [inside.base, *terms], channels, node.outputs[0], {"epsilon": 0.0}
    )
    state.selector.pass_zero(inside.base, base)
    return inside.on(base).unscaled()


def affine_of_norm(node: Node) -> tuple[Array, Array]:
    """Factor and offset per channel of a batch norm, float64."""
    gamma, beta, mean, variance = (
        np.asarray(constant(value), dtype=np.float64) for value in node.inputs[1:5]
    )
    factor = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    return factor, beta - mean * factor


# --- bookkeeping ----------------------------------------------------------------------------------------------------


def scale(state: Narrowing, node: Node, scaled: tuple[Value, Array]) -> ChannelView:
    """Slopes become scales of the view; at once a multiplication if an addition cannot take them otherwise.

    Right behind a ReLU engines fuse the multiplication; later on, with other consumers in between, they do not.
    """
    source, factors = scaled
    view, result = state.view(source).scaled(factors), node.outputs[0]
    state.selector.remember_slopes(view.base, node)
    added = any(use.node.op_type == "Add" for use in result.uses())
    # Where the addition may become narrow, a 1x1 convolution selects its operand and takes the scales for nothing.
    selects = state.layout.narrowing_bias > 0 and state.selector.by_convolution(view.base_channels)
    return view if selects or not added or state.is_free(result) else state.selector.unscaled(view)


def gather(state: Narrowing, node: Node, index: Ids) -> ChannelView:
    """Which channels a gather reads is bookkeeping."""
    return state.view(node.inputs[0]).gathered(index)


def pad(state: Narrowing, node: Node, pads: list[int]) -> ChannelView | None:
    """Padding along channels is bookkeeping; along space it happens to the base."""
    view, rank = state.view(node.inputs[0]), len(node.inputs[0].shape)
    base = view.base
    if any(spatial(pads)):
        if view.constants.any():
            return None
        space = [0 if axis % rank == 1 else amount for axis, amount in enumerate(pads)]
        terms = [base, state.editor.constant(space, np.int64)]
        base = state.editor.node("Pad", terms, view.base_channels, node.outputs[0])
    return view.on(base).padded(pads[1], pads[rank + 1])


def flatten(state: Narrowing, node: Node, pixels: int) -> ChannelView | None:
    """A channel becomes as many features as it has pixels."""
    view = state.view(node.inputs[0])
    if view.plain:
        return None
    base = state.editor.node(
        "Flatten", [view.base], view.base_channels * pixels, node.outputs[0], {"axis": 1}
    )
    return view.flattened(base, pixels)


# --- channel by channel ---------------------------------------------------------------------------------------------


def channelwise(state: Narrowing, node: Node, _: bool) -> ChannelView | None:
    """Happens to the base, and to the constants."""
    view = state.view(node.inputs[0])
    shift = _of_constants(node, view.shift) if view.constants.any() else view.shift
    if view.plain or shift is None:
        return None
    if node.op_type not in LINEAR and not (node.op_type in HOMOGENEOUS and view.positive):
        view = state.selector.unscaled(view)
    terms = [view.base, *node.inputs[1:]]
    base = state.editor.node(node.op_type, terms, view.base_channels, node.outputs[0], attributes(node))
    state.selector.pass_zero(view.base, base)
    return replace(view.on(base), shift=shift)


def _of_constants(node: Node, shift: Array) -> Array | None:
    """What an operation makes of constant channels, or None if that is not a constant."""
    if node.op_type == "Relu":
        return np.maximum(shift, 0)
    if node.op_type == "Clip":
        low, high = (float(value.const_value.numpy()) for value in node.inputs[1:3])
        return np.clip(shift, low, high)
    # An average over the border takes in zeros; a maximum ignores it.
    padded = node.op_type == "AveragePool" and pads_space(node)
    return shift if (node.op_type in LINEAR or node.op_type == "MaxPool") and not padded else None


# --- helpers --------------------------------------------------------------------------------------------------------


def _weight(node: Node) -> Array:
    weight = constant(node.inputs[1])
    assert weight is not None  # the recogniser has seen to it
    return weight


def _grown(values: Array, size: int) -> Array:
    """Zeros appended along the first axis."""
    return np.pad(values, [(0, size - len(values)), *[(0, 0)] * (values.ndim - 1)])
