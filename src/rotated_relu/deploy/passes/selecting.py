"""Make tensors out of views: scaled bases, and selections of channels, each made one time.

Requires: views whose bases are values of the graph, computed before the place of the editor.
Ensures: the tensors hold what the views say; what the layout says about widths and means of selecting is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ...core.graph_layout import GraphLayout
from .channel_demand import TOUCH
from .channel_view import ChannelView
from .editing import Editor
from .patterns import Array, Ids, Node, Value, width


class Selector:
    """Turns views into tensors of a graph.

    Args:
        editor: Inserts what is needed.
        layout: Widths, and up to which width a 1x1 convolution selects.
    """

    def __init__(self, editor: Editor, layout: GraphLayout) -> None:
        self.editor, self.layout = editor, layout
        self._made: dict[tuple[str, Value, bytes], Value] = {}
        self._notes: dict[Value, dict[str, str]] = {}
        self._zero: dict[Value, int] = {}

    # --- what is known of a base ------------------------------------------------------------------------------------

    def remember_slopes(self, base: Value, node: Node) -> None:
        """Scales of views of this base are slopes: a multiplication that is made later inherits the notes."""
        self._notes[base] = dict(node.metadata_props)

    def note_filled(self, base: Value, used: int) -> None:
        """Only the first ``used`` channels of a base hold something: the next one, if any, is the zero of gathers."""
        if (width(base) or 0) > used:
            self._zero[base] = used

    def pass_zero(self, source: Value, result: Value) -> None:
        """An operation with f(0) = 0 leaves the zero channel where it is."""
        if source in self._zero:
            self._zero[result] = self._zero[source]

    # --- costs ------------------------------------------------------------------------------------------------------

    def rounded(self, channels: int) -> int:
        """A width rounded up as the layout asks for; at least one channel."""
        return max(1, -(-channels // self.layout.round_to)) * self.layout.round_to

    def by_convolution(self, channels: int) -> bool:
        """Whether a 1x1 convolution selects out of so many channels; engines pay for a gather with two conversions."""
        return channels <= self.layout.convolution_limit

    def pays(self, saved_per_channel: float, channels: int, size: int) -> bool:
        """Whether it is worth selecting ``size`` out of ``channels``, in multiply-accumulates per position.

        A copy counts as so many multiply-accumulates as take about as long.
        """
        saving = saved_per_channel * (channels - size)
        # A 1x1 convolution computes, reads and writes; a gather converts the layout of the whole tensor twice.
        cost = size * (channels + 2 * TOUCH if self.by_convolution(channels) else 8 * TOUCH)
        bias = self.layout.narrowing_bias
        return saving * bias > cost if math.isfinite(bias) else True

    # --- tensors ----------------------------------------------------------------------------------------------------

    def whole(self, view: ChannelView) -> Value:
        """The tensor of a view as such, for an operation without a rule."""
        if view.plain:
            return view.base
        if view.in_place:
            factors = np.where(view.live, view.scale, 0)
            return self.unscaled(replace(view, index=np.arange(len(factors)), scale=factors)).base
        return self.selected(view, np.arange(view.channels), fill=False).base

    def unscaled(self, view: ChannelView) -> ChannelView:
        """The same view with scales of 1: one multiplication of the base."""
        if (view.scale[view.live] == 1).all():
            return view
        if not view.injective:  # one channel of the base has two scales: it must become two channels
            return self.selected(view, np.arange(view.channels))
        factors = view.over_base(view.scale)
        base = self._once("scale", view.base, factors, lambda: self._times(view.base, factors, view.base))
        self.pass_zero(view.base, base)
        return view.on(base).unscaled()

    def selected(self, view: ChannelView, order: Ids, fill: bool = True) -> ChannelView:
        """Select the channels of an order; -1 asks for a channel of zeros.

        ``fill`` lets the width grow to what the layout asks for.
        """
        size = self.rounded(len(order)) if fill else len(order)
        matrix, bias = view.selection(order, size)
        key = np.column_stack([matrix, bias])
        base = self._once("select", view.base, key, lambda: self.multiplied(view.base, matrix, bias))
        self.note_filled(base, len(order))
        return ChannelView.placed(base, view.channels, order)

    def multiplied(self, base: Value, matrix: Array, bias: Array) -> Value:
        """``matrix @ channels + bias`` for a matrix with at most one entry per row: a 1x1 convolution or a gather."""
        if len(base.shape) > 2 and self.by_convolution(matrix.shape[1]):
            return self._convolved(base, matrix, bias)
        return self._gathered(base, matrix, bias)

    def _convolved(self, base: Value, matrix: Array, bias: Array) -> Value:
        dtype = base.dtype.numpy()
        weight = matrix.reshape(*matrix.shape, *[1] * (len(base.shape) - 2))
        terms = [base, self.editor.constant(weight, dtype)]
        if bias.any():
            terms.append(self.editor.constant(bias, dtype))
        return self.editor.node("Conv", terms, len(matrix), base)

    def _gathered(self, base: Value, matrix: Array, bias: Array) -> Value:
        size, channels = matrix.shape
        origin = base
        # Rows of zeros read a channel that is 0, or the one that a padding appends behind the last.
        index = np.where(matrix.any(axis=1), np.abs(matrix).argmax(axis=1), self._zero.get(base, channels))
        if (index == channels).any():
            base = self._with_zero_channel(base)
        result = self.editor.node(
            "Gather", [base, self.editor.constant(index, np.int64)], size, base, {"axis": 1}
        )
        factors = matrix.sum(axis=1)
        if not set(factors.tolist()) <= {0.0, 1.0}:
            result = self._times(result, factors, origin)
        if bias.any():
            offset = self.editor.constant(_along_channels(bias, base), base.dtype.numpy())
            result = self.editor.node("Add", [result, offset], size, base)
        return result

    def _with_zero_channel(self, base: Value) -> Value:
        pads = np.zeros((2, len(base.shape)), dtype=np.int64)
        pads[1, 1] = 1
        terms = [base, self.editor.constant(pads.reshape(-1), np.int64)]
        return self.editor.node("Pad", terms, (width(base) or 0) + 1, base)

    def _times(self, value: Value, factors: Array, origin: Value) -> Value:
        """A multiplication per channel that remembers whose slopes it applies."""
        factor = self.editor.constant(_along_channels(factors, value), value.dtype.numpy())
        result = self.editor.node("Mul", [value, factor], width(value) or 0, value)
        result.producer().metadata_props.update(self._notes.get(origin, {}))
        return result

    def _once(self, kind: str, base: Value, key: Array, make: Callable[[], Value]) -> Value:
        name = (kind, base, key.tobytes())
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]


def _along_channels(values: Array, value: Value) -> Array:
    """A vector in the shape that multiplies a value channel by channel."""
    return values.reshape(1, -1, *[1] * (len(value.shape) - 2))
