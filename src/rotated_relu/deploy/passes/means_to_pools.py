"""Turn the mean over all pixels into a global average pool.

    mean(x, all pixels) = global_average_pool(x)

Engines compute the pool in their own memory layout, but first bring what a general mean reads into the plain one.
"""

from __future__ import annotations

import onnx_ir as ir

from .patterns import Node, attribute, constant


class MeansToPools(ir.passes.InPlacePass):
    """Replace means over all dimensions behind the channels.

    Requires: axes are initializers.
    Ensures: the same function up to rounding; the results keep their names and shapes. Only float32, which every engine
    has the pool for.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every mean that fits."""
        found = [node for node in model.graph if _is_over_pixels(node)]
        for node in found:
            _replace(model.graph, node)
        return ir.passes.PassResult(model, modified=bool(found))


def _is_over_pixels(node: Node) -> bool:
    if node.op_type != "ReduceMean" or len(node.inputs) < 2 or node.inputs[0].shape is None:
        return False
    rank, axes = len(node.inputs[0].shape), constant(node.inputs[1])
    if axes is None or rank < 3 or node.inputs[0].dtype != ir.DataType.FLOAT:
        return False
    return sorted({int(axis) % rank for axis in axes.tolist()}) == list(range(2, rank))


def _replace(graph: ir.Graph, node: Node) -> None:
    """The pool keeps the pixels' dimensions, as 1; where the mean does not, they are flattened away."""
    source, result = node.inputs[0], node.outputs[0]
    pool = ir.node("GlobalAveragePool", [source], name=f"{node.name}_pool")
    pooled = pool.outputs[0]
    made = [pool]
    if not attribute(node, "keepdims", 1):
        pooled.name, pooled.dtype = f"{result.name}_pooled", source.dtype
        pooled.shape = ir.Shape([*list(source.shape)[:2], *(1,) * (len(source.shape) - 2)])
        made.append(ir.node("Flatten", [pooled], attributes={"axis": 1}, name=f"{node.name}_flat"))
    ir.convenience.replace_nodes_and_values(graph, node, [node], made, [result], [made[-1].outputs[0]])
