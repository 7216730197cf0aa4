"""Fold slopes into the weights of their consumers.

    conv(a * x, W) = conv(x, W * a)    with a along the input channels of W

holds for slopes of any sign, and with zero padding, since a * 0 = 0. Linear layers and matrix products likewise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from .editing import add_initializer
from .patterns import Array, Node, Value, attribute, constant


class FoldSlopes(ir.passes.InPlacePass):
    """Fold multiplications by one constant per channel into what reads them.

    Requires: weights are initializers with their numbers at hand.
    Does: ``y = a * x`` goes where nothing but Conv, Gemm and MatMul reads y. The weights from before are left for
    ``RemoveUnusedNodesPass``: they would double the file.
    Ensures: the same function up to rounding; multiplications with any other consumer stay as they are.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold what can be folded."""
        products = [node for node in model.graph if node.op_type == "Mul"]
        folded = [_fold(model.graph, node) for node in products]
        return ir.passes.PassResult(model, modified=any(folded))


def slope_and_input(mul: Node) -> tuple[Array, Value] | None:
    """The constant factor and the tensor of a multiplication; None if both are constants, or none is."""
    for factor, source in (mul.inputs, mul.inputs[::-1]):
        values = constant(factor)
        if values is not None and source is not None and source.const_value is None:
            return values, source
    return None


def _fold(graph: Any, mul: Node) -> bool:
    split, result = slope_and_input(mul), mul.outputs[0]
    if split is None or result in graph.outputs or not result.uses():
        return False
    slope, source = split
    uses = list(result.uses())
    # All or nothing: while one consumer still needs the product, folding the others saves no multiplication.
    scaled = [weight for use in uses if (weight := _scaled_weight(use.node, use.idx, slope)) is not None]
    if len(scaled) < len(uses):
        return False
    for number, (use, weight) in enumerate(zip(uses, scaled, strict=True)):
        # A weight of its own for each consumer: another layer may share the old one without reading the product.
        name = f"{use.node.inputs[1].name}_{mul.name}_{number}"
        use.node.replace_input_with(1, add_initializer(graph, name, weight))
        use.node.replace_input_with(0, source)
    graph.remove(mul, safe=True)
    return True


def _scaled_weight(consumer: Node, position: int, slope: Array) -> Array | None:
    """Weight of a consumer with the slope multiplied in, or None if this consumer cannot take it."""
    weight = constant(consumer.inputs[1]) if position == 0 and len(consumer.inputs) > 1 else None
    if weight is None:
        return None
    if consumer.op_type == "Conv":
        return _scaled_conv(weight, slope, attribute(consumer, "group", 1))
    if consumer.op_type == "Gemm" and not attribute(consumer, "transA", 0):
        axis = 1 if attribute(consumer, "transB", 0) else 0
        return _scaled_matrix(weight, slope, axis, rank=2)
    if consumer.op_type == "MatMul" and weight.ndim == 2:
        shape = consumer.inputs[0].shape
        return _scaled_matrix(weight, slope, 0, rank=len(shape)) if shape is not None else None
    return None


def _scaled_conv(weight: Array, slope: Array, groups: int) -> Array | None:
    outputs, per_group = weight.shape[:2]
    per_channel = _vector(slope, channel_dim=1, rank=weight.ndim, channels=per_group * groups)
    if per_channel is None:
        return None
    # The outputs of a group read the inputs of that group alone.
    factor = np.repeat(per_channel.reshape(groups, per_group), outputs // groups, axis=0)
    result: Array = weight * factor.reshape(outputs, per_group, *[1] * (weight.ndim - 2))
    return result


def _scaled_matrix(weight: Array, slope: Array, axis: int, rank: int) -> Array | None:
    per_feature = _vector(slope, channel_dim=rank - 1, rank=rank, channels=weight.shape[axis])
    if per_feature is None:
        return None
    return weight * (per_feature[:, None] if axis == 0 else per_feature[None, :])


def _vector(slope: Array, channel_dim: int, rank: int, channels: int) -> Array | None:
    """The slope as a vector of ``channels`` values, if it varies along the channel dimension alone."""
    if slope.size == 1:
        return np.broadcast_to(slope.reshape(1), (channels,))
    if slope.ndim > rank or slope.size != channels:
        return None
    # ONNX aligns shapes at the end, as numpy does.
    full = (1,) * (rank - slope.ndim) + slope.shape
    return slope.reshape(-1) if full[channel_dim] == channels else None
