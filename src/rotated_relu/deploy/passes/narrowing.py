"""What the rules of :mod:`.narrow_channels` share: demand, the views so far, and how to rewrite a layer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...core.graph_layout import GraphLayout
from .channel_demand import demand_of
from .channel_view import ChannelView
from .editing import Editor
from .patterns import (
    Array,
    Ids,
    Node,
    Value,
    attributes,
    bias_of,
    computed,
    constant,
    plain_conv,
    recognise,
)
from .selecting import Selector


class Narrowing:
    """State of one run over a graph.

    Attributes:
        demand: Which channels of each value are read, found before anything was rewritten.
        layout: What was asked for.
        editor: Inserts nodes.
        selector: Makes tensors of views.
        views: Per value of the old graph what it is now.
    """

    def __init__(self, graph: Any, layout: GraphLayout) -> None:
        self.graph, self.layout = graph, layout
        self.demand = demand_of(graph)
        self.editor = Editor(graph, "narrow")
        self.selector = Selector(self.editor, layout)
        self.views: dict[Value, ChannelView] = {}
        self.outputs = set(graph.outputs)

    def view(self, value: Value) -> ChannelView:
        """The view of a value; itself if nothing happened to it."""
        return self.views.get(value) or ChannelView.of(value)

    def replace_output(self, old: Value, new: Value) -> None:
        """Let another value be an output of the graph, under the same name."""
        new.name, old.name = old.name, f"{old.name}_before"
        self.graph.outputs[list(self.graph.outputs).index(old)] = new
        self.outputs.add(new)
        self.outputs.discard(old)

    # --- layers whose output channels nobody has seen yet -----------------------------------------------------------

    def is_free(self, value: Value) -> bool:
        """Whether a value comes from one convolution that nobody else reads, through bookkeeping alone.

        That convolution can write its channels in any order, scaled, for nothing: see :meth:`rewritten`.
        """
        while True:
            node = value.producer()
            if node is None or len(value.uses()) != 1 or value in self.outputs:
                return False
            if plain_conv(node):
                return True
            if not _is_bookkeeping(node):
                return False
            value = computed(node)[0]

    def rewritten(
        self, view: ChannelView, order: Ids, offset: Array | None = None, fill: bool = True
    ) -> Value:
        """P W: the convolution behind a view, writing channel ``order[j]`` of the view at j; zeros where that is -1.

        Args:
            view: Its base is the result of a convolution.
            order: Channels of the view.
            offset: Per channel of the view, added to those that are no constants.
            fill: Whether the width grows to what the layout asks for.
        """
        node = view.base.producer()
        weight = constant(node.inputs[1])
        assert weight is not None
        if fill:
            order = np.pad(order, (0, self.selector.rounded(len(order)) - len(order)), constant_values=-1)
        place = np.where(order >= 0, view.index[order], -1)
        live = place >= 0
        factor = np.where(live, view.scale[order], 0.0)  # 0 turns the rows that -1 picks into zeros
        moved = weight[place] * factor.reshape(-1, *[1] * (weight.ndim - 1))
        bias = bias_of(node)[place] * factor
        if offset is not None:
            bias = bias + np.where(live, offset[order], 0.0)
        constants = np.where((order >= 0) & ~live, view.shift[order], 0.0)
        return self.layer_like(node, node.inputs[0], moved, bias + constants)

    def layer_like(
        self, node: Node, source: Value, weight: Array, bias: Array, groups: int | None = None
    ) -> Value:
        """A convolution or matrix product like a given one, with other weights."""
        dtype = node.inputs[1].dtype.numpy()
        terms = [source, self.editor.constant(weight, dtype, of=node.inputs[1])]
        if bias.any():
            terms.append(self.editor.constant(bias, dtype))
        settings = attributes(node) | ({} if groups is None else {"group": groups})
        return self.editor.node(node.op_type, terms, len(weight), node.outputs[0], settings)

    def fan_in(self, view: ChannelView) -> int:
        """Multiply-accumulates per position and output channel of the convolution behind a view."""
        return math.prod(view.base.producer().inputs[1].shape[1:])


def _is_bookkeeping(node: Node) -> bool:
    """Whether a node only moves, scales or shifts channels, which a convolution before it can do itself."""
    operation = recognise(node)
    if operation is None:
        return False
    if operation.kind == "pad":
        return not any(spatial(operation.detail))
    return operation.kind in ("gather", "scale", "norm")


def spatial(pads: list[int]) -> list[int]:
    """Pads along batch and space, without those along channels."""
    half = len(pads) // 2
    return [pad for axis, pad in enumerate(pads) if axis % half != 1]


def nonempty(channels: Array) -> Ids:
    """Positions of a mask; the first one if it is empty, since a tensor without channels is none that engines take."""
    return np.flatnonzero(channels) if channels.any() else np.zeros(1, np.int64)
