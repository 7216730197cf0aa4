"""Fold slopes into the weights of their consumers, in an ONNX graph.

Requires: an ``onnx_ir`` model whose weights are initializers.
Does: for ``y = a * x`` with one constant ``a`` per channel, read by nothing but Conv, Gemm and MatMul:
``conv(a * x, W) = conv(x, W * a)``, with a along the input channels of W; the multiplication goes away. It
holds for slopes of any sign, and with zero padding, since a * 0 = 0.
Ensures: the same function up to rounding; multiplications with any other consumer stay as they are.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class KeptSlopes:
    """Slopes of one activation that an exported graph still multiplies by.

    Attributes:
        name: Qualified name of the activation.
        reason: Why no weight could take them.
    """

    name: str
    reason: str


_NAME, _REASON = "rotated_relu.slopes", "rotated_relu.reason"


def mark_slopes(model: Any) -> int:
    """Note at each multiplication by slopes whose they are and what would keep them; returns how many there are."""
    found = 0
    for node in model.graph:
        name = _activation(node) if node.op_type == "Mul" else None
        split = _slope_and_input(node) if name is not None else None
        if name is not None and split is not None:
            node.metadata_props[_NAME], node.metadata_props[_REASON] = name, _reason(node, split[0])
            found += 1
    return found


def kept_slopes(model: Any) -> tuple[KeptSlopes, ...]:
    """What is left of the slopes that :func:`mark_slopes` found, in order of execution."""
    marks = [node.metadata_props for node in model.graph if node.op_type == "Mul"]
    kept = {mark[_NAME]: KeptSlopes(mark[_NAME], mark[_REASON]) for mark in marks if _NAME in mark}
    return tuple(kept.values())


def drop_notes(model: Any, marks: bool) -> None:
    """Leave out the exporter's notes (stack traces with the paths of this machine), and our marks too if asked."""
    keep = () if marks else (_NAME, _REASON)
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph:
        for key in [key for key in node.metadata_props if key not in keep]:
            del node.metadata_props[key]
        for value in node.outputs:
            value.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()


def _activation(node: Any) -> str | None:
    """Name of the rotated activation that a node comes from, by the exporter's notes."""
    notes = [node.metadata_props.get(f"pkg.torch.onnx.{key}") for key in ("class_hierarchy", "name_scopes")]
    if notes[0] is None or notes[1] is None:
        return None
    classes, names = ast.literal_eval(notes[0]), ast.literal_eval(notes[1])
    inner = str(classes[-2]) if len(classes) > 1 else ""
    return str(names[-2]) if inner.startswith("rotated_relu.nn.activation.") else None


def _reason(node: Any, slope: Array) -> str:
    consumers = sorted({use.node.op_type for use in node.outputs[0].uses()})
    negative = int((slope < 0).sum())
    if "MaxPool" in consumers:
        return f"a max-pool reads it and {negative} of {slope.size} slopes are negative"
    if "Add" in consumers and len(consumers) > 1:
        others = " and ".join(consumer for consumer in consumers if consumer != "Add")
        return f"two kinds of consumers: an addition, which has no weights, and {others}"
    return f"its consumer has no weights that could take them: {', '.join(consumers) or 'the output'}"


def fold_slopes_into_consumers(model: Any) -> int:
    """Fold all foldable slopes of an ``onnx_ir.Model`` in place and return how many went."""
    folded = 0
    for node in list(model.graph):
        if node.op_type == "Mul" and _fold(model.graph, node):
            folded += 1
    if folded:
        _drop_unread_initializers(model.graph)
    return folded


def _drop_unread_initializers(graph: Any) -> None:
    """The weights from before the folding would double the file."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and value not in graph.outputs and value not in graph.inputs:
            del graph.initializers[name]


def _fold(graph: Any, mul: Any) -> bool:
    split = _slope_and_input(mul)
    result = mul.outputs[0]
    if split is None or result in graph.outputs or not result.uses():
        return False
    slope, source = split
    uses = list(result.uses())
    scaled = [weight for use in uses if (weight := _scaled_weight(use.node, use.idx, slope)) is not None]
    if len(scaled) < len(uses):
        return False
    for number, (use, weight) in enumerate(zip(uses, scaled, strict=True)):
        use.node.replace_input_with(
            1, _initializer(graph, f"{use.node.inputs[1].name}_{mul.name}_{number}", weight)
        )
        use.node.replace_input_with(0, source)
    graph.remove(mul, safe=True)
    return True


def _slope_and_input(mul: Any) -> tuple[Array, Any] | None:
    for constant, source in (mul.inputs, mul.inputs[::-1]):
        if constant is not None and constant.const_value is not None and source.const_value is None:
            return constant.const_value.numpy(), source
    return None


def _scaled_weight(consumer: Any, position: int, slope: Array) -> Array | None:
    """Weight of a consumer with the slope multiplied in, or None if this consumer cannot take it."""
    if position != 0 or len(consumer.inputs) < 2 or consumer.inputs[1] is None:
        return None
    constant = consumer.inputs[1].const_value
    if constant is None:
        return None
    weight: Array = constant.numpy()
    attributes = {name: attribute.value for name, attribute in consumer.attributes.items()}
    if consumer.op_type == "Conv":
        return _scaled_conv(weight, slope, attributes.get("group", 1))
    if consumer.op_type == "Gemm" and not attributes.get("transA", 0):
        axis = 1 if attributes.get("transB", 0) else 0
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
    full = (1,) * (rank - slope.ndim) + slope.shape
    return slope.reshape(-1) if full[channel_dim] == channels else None


def _initializer(graph: Any, name: str, values: Array) -> Any:
    import onnx_ir as ir

    tensor = ir.tensor(np.ascontiguousarray(values), name=name)
    value = ir.Value(
        name=name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value
