"""What a node of an ONNX graph does to channels: the kinds of operation that the passes have rules for.

Channels are the positions along axis 1. :data:`KINDS` is the one table of kinds; :mod:`.channel_demand` and
:mod:`.narrow_channels` each hold a table with one rule per kind. A node of no kind is left as it is by every pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Node = Any  # onnx_ir.Node
Value = Any  # onnx_ir.Value
Array = NDArray[Any]
Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]

# f(0) = 0 and one channel in, the same channel out; those that also commute with a positive factor come first.
HOMOGENEOUS = frozenset(["Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "Identity"])
CHANNELWISE = HOMOGENEOUS | frozenset(["Gelu", "HardSwish", "Tanh", "Erf", "Clip"])


class Operation(NamedTuple):
    """A node of a known kind.

    Attributes:
        kind: A key of :data:`KINDS`.
        detail: What its recogniser found out, such as the positions that a gather reads.
    """

    kind: str
    detail: Any


def recognise(node: Node) -> Operation | None:
    """The kind of a node, or None for an operation without rules."""
    for kind, recogniser in KINDS.items():
        detail = recogniser(node)
        if detail is not None and detail is not False:
            return Operation(kind, detail)
    return None


# --- values ---------------------------------------------------------------------------------------------------------


def width(value: Value) -> int | None:
    """Number of channels (size of axis 1), or None where it is unknown or free."""
    shape = getattr(value, "shape", None)
    if shape is None or len(shape) < 2 or not isinstance(shape[1], int):
        return None
    return int(shape[1])


def constant(value: Value) -> Array | None:
    """The numbers of a constant input."""
    if value is None or value.const_value is None:
        return None
    result: Array = value.const_value.numpy()
    return result


def attribute(node: Node, name: str, default: Any = None) -> Any:
    """Value of an attribute of a node."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def attributes(node: Node) -> dict[str, Any]:
    """All attributes of a node."""
    return {name: found.value for name, found in node.attributes.items()}


def computed(node: Node) -> list[Value]:
    """Inputs of a node that are no constants."""
    return [value for value in node.inputs if value is not None and constant(value) is None]


def bias_of(node: Node) -> Array:
    """Bias of a convolution or matrix product, float64; zeros if it has none."""
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if bias is not None:
        return np.asarray(bias, dtype=np.float64)
    return np.zeros(node.inputs[1].shape[0])


def pads_space(node: Node) -> bool:
    """Whether a convolution or pooling reads zeros beyond the border."""
    return any(attribute(node, "pads", [0])) or attribute(node, "auto_pad", "NOTSET") in (
        "SAME_UPPER",
        "SAME_LOWER",
    )


# --- recognisers: what the kind needs to know about the node, or None (or False) --------------------------------------


def plain_conv(node: Node) -> bool:
    """A convolution with constant weights, all channels in one group."""
    return node.op_type == "Conv" and attribute(node, "group", 1) == 1 and _has_constant_weights(node)


def plain_gemm(node: Node) -> bool:
    """A linear layer on a matrix, as the exporter writes it."""
    return (
        node.op_type == "Gemm"
        and attribute(node, "transB", 0) == 1
        and not attribute(node, "transA", 0)
        and attribute(node, "alpha", 1.0) == 1.0
        and attribute(node, "beta", 1.0) == 1.0
        and _has_constant_weights(node)
    )


def layer(node: Node) -> bool:
    """A convolution or linear layer in which every output channel may read every input channel."""
    return plain_conv(node) or plain_gemm(node)


def depthwise(node: Node) -> bool:
    """A convolution with one constant filter per channel."""
    weight = constant(node.inputs[1]) if node.op_type == "Conv" else None
    return (
        weight is not None
        and _has_constant_weights(node)
        and attribute(node, "group", 1) == width(node.inputs[0]) == len(weight) > 1
    )


def _has_constant_weights(node: Node) -> bool:
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    known = constant(node.inputs[1]) is not None and (bias is None or constant(bias) is not None)
    return known and width(node.inputs[0]) is not None


def scale(node: Node) -> tuple[Value, Array] | None:
    """The tensor and the factors of a ``Mul`` with one constant per channel, such as slopes."""
    if node.op_type != "Mul":
        return None
    for source, other in (node.inputs, node.inputs[::-1]):
        values, channels = constant(other), width(source)
        if values is None or channels is None or constant(source) is not None:
            continue
        rank = len(source.shape)
        full = (1,) * (rank - values.ndim) + values.shape
        if values.size in (1, channels) and full[1] == values.size and len(full) == rank:
            return source, np.broadcast_to(values.reshape(-1), (channels,))
    return None


def gather(node: Node) -> Array | None:
    """Channels that a ``Gather`` along axis 1 reads, in order."""
    if node.op_type != "Gather":
        return None
    index, channels = constant(node.inputs[1]), width(node.inputs[0])
    if index is None or channels is None or index.ndim != 1:
        return None
    if attribute(node, "axis", 0) % len(node.inputs[0].shape) != 1:
        return None
    result: Array = index % channels
    return result


def zero_pad(node: Node) -> list[int] | None:
    """Pads of a ``Pad`` with the constant 0: the starts of all axes, then the ends."""
    if node.op_type != "Pad":
        return None
    pads = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    fill = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros(())
    axes = node.inputs[3] if len(node.inputs) > 3 else None
    mode = attribute(node, "mode", "constant")
    if pads is None or fill is None or axes is not None or mode != "constant" or fill.reshape(-1)[:1].any():
        return None
    values = [int(pad) for pad in pads]
    return values if min(values) >= 0 and width(node.inputs[0]) is not None else None


def norm(node: Node) -> bool:
    """A batch norm with constant statistics."""
    return (
        node.op_type == "BatchNormalization"
        and all(constant(value) is not None for value in node.inputs[1:5])
        and width(node.inputs[0]) is not None
    )


def addition(node: Node) -> bool:
    """A sum of two computed tensors of the same rank and channels."""
    return (
        node.op_type == "Add"
        and all(constant(value) is None and width(value) is not None for value in node.inputs)
        and width(node.inputs[0]) == width(node.inputs[1]) == width(node.outputs[0])
        and len({len(value.shape) for value in node.inputs}) == 1
    )


def flatten(node: Node) -> int | None:
    """Pixels per channel where an image of known size becomes one row of features per example."""
    source = node.inputs[0] if node.op_type in ("Flatten", "Reshape") else None
    if source is None or source.shape is None or len(source.shape) != 4 or width(source) is None:
        return None
    result, sizes = node.outputs[0], list(source.shape)[2:]
    if not all(isinstance(size, int) for size in sizes) or result.shape is None or len(result.shape) != 2:
        return None
    pixels = math.prod(sizes)
    return pixels if width(result) == (width(source) or 0) * pixels else None


def channelwise(node: Node) -> bool:
    """One tensor in, and channel i of the result depends on channel i of it alone, with f(0) = 0."""
    source = node.inputs[0] if node.inputs else None
    if source is None or width(source) is None or len(node.outputs) != 1:
        return False
    if node.op_type == "Clip":
        return _clips_around_zero(node)
    if node.op_type == "ReduceMean":
        return len(node.inputs) > 1 and _spares_channels(node.inputs[1], len(source.shape))
    if node.op_type == "Slice":
        return len(node.inputs) > 3 and _spares_channels(node.inputs[3], len(source.shape))
    return node.op_type in CHANNELWISE


def _clips_around_zero(node: Node) -> bool:
    bounds = [constant(value) for value in node.inputs[1:] if value is not None]
    known = [float(bound) for bound in bounds if bound is not None and bound.size == 1]
    return len(bounds) == len(known) == 2 and known[0] <= 0 <= known[1]


def _spares_channels(axes: Value, rank: int) -> bool:
    found = constant(axes)
    return found is not None and all(axis % rank >= 2 for axis in found.tolist())


KINDS: dict[str, Callable[[Node], Any]] = {
    "layer": layer,
    "depthwise": depthwise,
    "scale": scale,
    "gather": gather,
    "pad": zero_pad,
    "norm": norm,
    "addition": addition,
    "flatten": flatten,
    "channelwise": channelwise,
}
