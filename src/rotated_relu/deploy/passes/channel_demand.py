"""Which channels of an ONNX graph's tensors are read, and what a channel costs its consumers.

The backward half of :mod:`.onnx_narrow`. Tensors are looked at along axis 1 alone; an operation without a rule reads
all of its inputs. ``demand`` may be too large, never too small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Mask = NDArray[np.bool_]

# f(0) = 0 and one channel in, the same channel out; those that also commute with a positive factor come first.
HOMOGENEOUS = frozenset(["Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "Identity"])
ELEMENTWISE = HOMOGENEOUS | frozenset(["Gelu", "HardSwish", "Tanh", "Erf", "Clip"])
TOUCH = 16.0  # reading or writing one number costs about as much as this many multiply-accumulates


@dataclass
class Demand:
    """What the consumers of each value want.

    Attributes:
        channels: Per value, which positions along axis 1 some consumer needs.
        fixed: Values that an operation without a rule reads, directly or through operations that keep channels.
        solid: Values of which some consumer needs constant channels as numbers: it pads, so that they are no constants.
        price: Per value, about how many multiply-accumulates per position one channel costs all of its consumers.
    """

    channels: dict[Any, Mask] = field(default_factory=dict)
    fixed: set[Any] = field(default_factory=set)
    solid: set[Any] = field(default_factory=set)
    price: dict[Any, float] = field(default_factory=dict)

    def wants(self, value: Any) -> Mask:
        """Demanded channels; none if nobody reads the value."""
        if value not in self.channels:
            self.channels[value] = np.zeros(width(value) or 0, dtype=bool)
        return self.channels[value]

    def ask(self, value: Any, channels: Mask | None, price: float) -> None:
        """Note one more consumer; None asks for everything."""
        if width(value) is not None:
            self.wants(value)[...] |= True if channels is None else channels
        if channels is None:
            self.fixed.add(value)
            self.solid.add(value)
        self.price[value] = self.price.get(value, 0.0) + price + TOUCH


def width(value: Any) -> int | None:
    """Static size of axis 1, or None."""
    shape = getattr(value, "shape", None)
    if shape is None or len(shape) < 2 or not isinstance(shape[1], int):
        return None
    return int(shape[1])


def constant(value: Any) -> Array | None:
    """The numbers of a constant input."""
    if value is None or value.const_value is None:
        return None
    result: Array = value.const_value.numpy()
    return result


def attribute(node: Any, name: str, default: Any = None) -> Any:
    """Value of an attribute of a node."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def per_channel(node: Any) -> tuple[Any, Array] | None:
    """The tensor and the factors of a ``Mul`` with one constant per position of axis 1."""
    for source, other in (node.inputs, node.inputs[::-1]):
        values, channels = constant(other), width(source)
        if values is None or channels is None or constant(source) is not None:
            continue
        rank = len(source.shape)
        full = (1,) * (rank - values.ndim) + values.shape
        if values.size in (1, channels) and full[1] == values.size and len(full) == rank:
            return source, np.broadcast_to(values.reshape(-1), (channels,))
    return None


def picked(node: Any) -> Array | None:
    """Channel positions that a ``Gather`` along axis 1 reads."""
    index, channels = constant(node.inputs[1]), width(node.inputs[0])
    if index is None or channels is None or index.ndim != 1:
        return None
    axis = attribute(node, "axis", 0)
    if axis % len(node.inputs[0].shape) != 1:
        return None
    result: Array = index % channels
    return result


def zero_pads(node: Any) -> list[int] | None:
    """Pads of a ``Pad`` with the constant 0, starts then ends."""
    pads = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    fill = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros(())
    axes = node.inputs[3] if len(node.inputs) > 3 else None
    mode = attribute(node, "mode", "constant")
    if pads is None or fill is None or axes is not None or mode != "constant" or fill.reshape(-1)[:1].any():
        return None
    values = [int(pad) for pad in pads]
    return values if min(values) >= 0 and width(node.inputs[0]) is not None else None


def keeps_channels(node: Any) -> bool:
    """One tensor in, and channel i of the result depends on channel i of it alone, with f(0) = 0."""
    source = node.inputs[0] if node.inputs else None
    if source is None or width(source) is None or len(node.outputs) != 1:
        return False
    kind = node.op_type
    if kind == "Clip":
        bounds = [constant(value) for value in node.inputs[1:] if value is not None]
        known = [float(bound) for bound in bounds if bound is not None and bound.size == 1]
        return len(bounds) == len(known) == 2 and known[0] <= 0 <= known[1]
    if kind in ELEMENTWISE:
        return True
    axes = constant(node.inputs[1]) if kind == "ReduceMean" and len(node.inputs) > 1 else None
    if kind == "ReduceMean":
        rank = len(source.shape)
        return axes is not None and all(axis % rank >= 2 for axis in axes.tolist())
    if kind == "Slice" and len(node.inputs) > 3:
        axes = constant(node.inputs[3])
        return axes is not None and all(axis % len(source.shape) >= 2 for axis in axes.tolist())
    return False


def flattened(node: Any) -> int | None:
    """Pixels per channel if a node lays out an image of known size as one row of features per example."""
    source = node.inputs[0] if node.op_type in ("Flatten", "Reshape") else None
    if source is None or source.shape is None or len(source.shape) != 4 or width(source) is None:
        return None
    result, sizes = node.outputs[0], list(source.shape)[2:]
    if not all(isinstance(size, int) for size in sizes) or result.shape is None or len(result.shape) != 2:
        return None
    pixels = math.prod(sizes)
    return pixels if width(result) == (width(source) or 0) * pixels else None


def plain_conv(node: Any) -> bool:
    """A convolution with constant weights, all channels in one group."""
    return (
        node.op_type == "Conv"
        and attribute(node, "group", 1) == 1
        and constant(node.inputs[1]) is not None
        and (len(node.inputs) < 3 or node.inputs[2] is None or constant(node.inputs[2]) is not None)
        and width(node.inputs[0]) is not None
    )


def depthwise_conv(node: Any) -> bool:
    """A convolution with one constant filter per channel."""
    weight = constant(node.inputs[1]) if node.op_type == "Conv" else None
    channels = width(node.inputs[0]) if weight is not None else None
    return (
        weight is not None
        and channels is not None
        and attribute(node, "group", 1) == channels == len(weight) > 1
        and (len(node.inputs) < 3 or node.inputs[2] is None or constant(node.inputs[2]) is not None)
    )


def plain_gemm(node: Any) -> bool:
    """A linear layer on a matrix, in the form that the exporter writes."""
    return (
        node.op_type == "Gemm"
        and attribute(node, "transB", 0) == 1
        and not attribute(node, "transA", 0)
        and attribute(node, "alpha", 1.0) == 1.0
        and constant(node.inputs[1]) is not None
        and width(node.inputs[0]) is not None
    )


def is_norm(node: Any) -> bool:
    """A batch norm with constant statistics."""
    return (
        node.op_type == "BatchNormalization"
        and all(constant(value) is not None for value in node.inputs[1:5])
        and width(node.inputs[0]) is not None
    )


def is_sum(node: Any) -> bool:
    """An addition of two computed tensors of the same rank and channels."""
    return (
        node.op_type == "Add"
        and all(constant(value) is None and width(value) is not None for value in node.inputs)
        and width(node.inputs[0]) == width(node.inputs[1]) == width(node.outputs[0])
        and len({len(value.shape) for value in node.inputs}) == 1
    )


def shrink(node: Any) -> float:
    """Output positions per input position of a strided operation."""
    return 1.0 / float(math.prod(attribute(node, "strides", [1])))


def demand_of(graph: Any) -> Demand:
    """Demand of every value, from the outputs back to the inputs."""
    found = Demand()
    for value in graph.outputs:
        found.ask(value, None, 0)
    for node in reversed(list(graph)):
        _ask_inputs(node, found)
    return found


def _ask_inputs(node: Any, found: Demand) -> None:
    result = node.outputs[0]
    wanted, price = found.wants(result), found.price.get(result, 0.0)
    if plain_conv(node) or plain_gemm(node):
        weight = constant(node.inputs[1])
        assert weight is not None
        kernel = math.prod(weight.shape[2:])
        live = weight[wanted]
        reads = (live != 0).any(axis=tuple(axis for axis in range(live.ndim) if axis != 1))
        found.ask(node.inputs[0], reads, kernel * int(wanted.sum()) * shrink(node))
    elif depthwise_conv(node):
        weight = constant(node.inputs[1])
        assert weight is not None
        reads = wanted & weight.reshape(len(weight), -1).any(axis=1)
        found.ask(node.inputs[0], reads, (math.prod(weight.shape[2:]) + price) * shrink(node))
    elif (pixels := flattened(node)) is not None:
        found.ask(node.inputs[0], np.any(wanted.reshape(-1, pixels), axis=1), price)
    elif node.op_type == "Mul" and (scaled := per_channel(node)) is not None:
        found.ask(scaled[0], wanted & (scaled[1] != 0), price)
    elif node.op_type == "Gather" and (index := picked(node)) is not None:
        reads = np.zeros(width(node.inputs[0]) or 0, dtype=bool)
        reads[index[wanted]] = True
        found.ask(node.inputs[0], reads, price)
    elif node.op_type == "Pad" and (pads := zero_pads(node)) is not None:
        start = pads[1]
        found.ask(node.inputs[0], wanted[start : start + (width(node.inputs[0]) or 0)], price)
    elif keeps_channels(node) or is_norm(node):
        found.ask(node.inputs[0], wanted, price * shrink(node))
    elif is_sum(node):
        for value in node.inputs:
            found.ask(value, wanted, price)
    else:
        for value in node.inputs:
            if value is not None and constant(value) is None:
                found.ask(value, None, price)
        return
    computed = [value for value in node.inputs if value is not None and constant(value) is None]
    if node.op_type in ("Conv", "Pad") and any(attribute(node, "pads", [1])):
        found.solid.update(computed)
    for wish in (found.fixed, found.solid):
        if result in wish and not plain_conv(node) and not plain_gemm(node):
            wish.update(computed)
