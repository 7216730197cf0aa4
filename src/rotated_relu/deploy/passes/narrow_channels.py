"""Let tensors of an ONNX graph be narrower than the network's own modules can make them.

A module must give every consumer the same tensor, so a residual stream stays as wide as the union of what its blocks
use, and blocks gather from it. A deployed graph is free: each addition computes the channels that somebody reads,
slopes and gathers become part of the weights around them.

The pass carries a *view* of every tensor forward (:mod:`.channel_view` has the algebra) and gives each node to the rule
of its kind (:data:`RULES`). A rule decides by the demand (:mod:`.channel_demand`) and by what a selection would cost
(:mod:`.selecting`), inserts what it needs in front of the node, and returns the view of the result; the node itself is
left behind without consumers. Two branches that meet in an addition are the hard case: :mod:`.narrow_additions`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir

from ...core.graph_layout import GraphLayout
from . import narrow_additions, narrow_rules
from .channel_view import ChannelView
from .narrowing import Narrowing
from .patterns import Node, recognise

Rule = Callable[[Narrowing, Node, Any], ChannelView | None]

RULES: dict[str, Rule] = {
    "layer": narrow_rules.layer,
    "depthwise": narrow_rules.depthwise,
    "scale": narrow_rules.scale,
    "gather": narrow_rules.gather,
    "pad": narrow_rules.pad,
    "norm": narrow_rules.norm,
    "addition": narrow_additions.addition,
    "flatten": narrow_rules.flatten,
    "channelwise": narrow_rules.channelwise,
}


class NarrowChannels(ir.passes.InPlacePass):
    """Compute only the channels that are read.

    Requires: weights are initializers with their numbers at hand; nodes are in topological order.
    Ensures: the same function up to rounding, for finite inputs; the same inputs and outputs, by name and shape. What
    an operation without a rule reads is as it was. Nodes that nobody reads any more are left for
    ``RemoveUnusedNodesPass``. Graphs with control flow are left alone, and all graphs if the layout is not enabled.

    Args:
        layout: Widths, and how eagerly additions become narrow.
    """

    def __init__(self, layout: GraphLayout) -> None:
        super().__init__()
        self.layout = layout

    def requires(self, model: ir.Model) -> None:
        """All initializers hold numbers."""
        for name, value in model.graph.initializers.items():
            if value.const_value is None:
                raise ir.passes.PreconditionError(f"initializer {name} has no numbers")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite node by node, in order of execution."""
        if not self.layout.enabled or _has_control_flow(model.graph):
            return ir.passes.PassResult(model, modified=False)
        state = Narrowing(model.graph, self.layout)
        for node in list(model.graph):
            state.editor.before = node
            if not _rewrite(state, node):
                _read_whole_tensors(state, node)
        return ir.passes.PassResult(model, modified=state.editor.modified)


def _rewrite(state: Narrowing, node: Node) -> bool:
    """Give a node to its rule; False if it stays."""
    operation = recognise(node)
    if operation is None:
        return False
    result = node.outputs[0]
    leaves = not state.outputs.isdisjoint(node.outputs)
    if leaves and operation.kind != "layer":
        return False  # an output must be a whole tensor; a layer computes one at its full width
    view = RULES[operation.kind](state, node, operation.detail)
    if view is None:
        return False
    state.views[result] = view
    if leaves:
        state.replace_output(result, view.base)
    return True


def _read_whole_tensors(state: Narrowing, node: Node) -> None:
    for position, value in enumerate(node.inputs):
        if value in state.views:
            node.replace_input_with(position, state.selector.whole(state.views[value]))


def _has_control_flow(graph: ir.Graph) -> bool:
    """Whether a node holds a graph of its own (If, Loop, Scan), which may read values from outside."""
    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return any(found.type in kinds for node in graph for found in node.attributes.values())
