"""Keep account of the slopes in a graph: whose they are, which ones stay, and why.

The exporter notes at each node which module it comes from. Those notes name files of this machine and go; what is worth
knowing of slopes moves into two notes of our own, which survive until the graph has its layout.
"""

from __future__ import annotations

import ast
from typing import Any

import onnx_ir as ir

from ..onnx_model import KeptSlopes
from .fold_slopes import slope_and_input
from .patterns import Array, Node

_NAME, _REASON = "rotated_relu.slopes", "rotated_relu.reason"
_ACTIVATIONS = "rotated_relu.nn.activation."


class MarkSlopes(ir.passes.InPlacePass):
    """Note at each multiplication by slopes whose they are, and what would keep them.

    Requires: the graph as ``torch.onnx.export`` returns it, with its notes.
    Ensures: nothing but notes changes.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Mark every multiplication by slopes."""
        marked = [_mark(node) for node in model.graph if node.op_type == "Mul"]
        return ir.passes.PassResult(model, modified=any(marked))


class DropNotes(ir.passes.InPlacePass):
    """Leave out the exporter's notes: stack traces with the paths of this machine.

    Ensures: no metadata at the model, its graph, nodes and values, but the marks of slopes if they are kept.

    Args:
        keep_marks: Whether the marks of :class:`MarkSlopes` stay.
    """

    def __init__(self, keep_marks: bool) -> None:
        super().__init__()
        self.keep = (_NAME, _REASON) if keep_marks else ()

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Clear all notes but those that are kept."""
        graph = model.graph
        model.metadata_props.clear()
        graph.metadata_props.clear()
        for value in (*graph.inputs, *graph.initializers.values()):
            value.metadata_props.clear()
        for node in graph:
            for value in node.outputs:
                value.metadata_props.clear()
            for key in [key for key in node.metadata_props if key not in self.keep]:
                del node.metadata_props[key]
        return ir.passes.PassResult(model, modified=True)


def kept_slopes(model: ir.Model) -> tuple[KeptSlopes, ...]:
    """The marked slopes that the graph still multiplies by, in order of execution."""
    marks = [node.metadata_props for node in model.graph if node.op_type == "Mul"]
    kept = {mark[_NAME]: KeptSlopes(mark[_NAME], mark[_REASON]) for mark in marks if _NAME in mark}
    return tuple(kept.values())


def _mark(node: Node) -> bool:
    name, split = _activation(node), slope_and_input(node)
    if name is None or split is None:
        return False
    node.metadata_props[_NAME], node.metadata_props[_REASON] = name, _reason(node, split[0])
    return True


def _activation(node: Node) -> str | None:
    """Qualified name of the rotated activation that a node comes from, by the exporter's notes."""
    notes: list[Any] = [
        node.metadata_props.get(f"pkg.torch.onnx.{key}") for key in ("class_hierarchy", "name_scopes")
    ]
    if None in notes:
        return None
    classes, names = (ast.literal_eval(note) for note in notes)
    # The last entry is the operation itself.
    inner = str(classes[-2]) if len(classes) > 1 else ""
    return str(names[-2]) if inner.startswith(_ACTIVATIONS) else None


def _reason(node: Node, slope: Array) -> str:
    """Why no weight takes these slopes, should none do so."""
    consumers = sorted({use.node.op_type for use in node.outputs[0].uses()})
    negative = int((slope < 0).sum())
    if "MaxPool" in consumers:
        return f"a max-pool reads it and {negative} of {slope.size} slopes are negative"
    if "Add" in consumers and len(consumers) > 1:
        others = " and ".join(consumer for consumer in consumers if consumer != "Add")
        return f"two kinds of consumers: an addition, which has no weights, and {others}"
    return f"its consumer has no weights that could take them: {', '.join(consumers) or 'the output'}"
