"""Which channels of a graph's tensors are read, and what a channel costs its consumers.

Requires: an ``onnx_ir`` graph in topological order.
Ensures: a demand for every value that is read, which may be too large, never too small. The graph is unchanged.

The backward half of :mod:`.narrow_channels`: one rule per kind of operation (:data:`RULES`) says what a node reads,
given what is read of its result. An operation without a rule reads all of its inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .patterns import (
    Array,
    Mask,
    Node,
    Value,
    attribute,
    computed,
    constant,
    pads_space,
    recognise,
    width,
)

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

    channels: dict[Value, Mask] = field(default_factory=dict)
    fixed: set[Value] = field(default_factory=set)
    solid: set[Value] = field(default_factory=set)
    price: dict[Value, float] = field(default_factory=dict)

    def wants(self, value: Value) -> Mask:
        """Demanded channels; none if nobody reads the value."""
        if value not in self.channels:
            self.channels[value] = np.zeros(width(value) or 0, dtype=bool)
        return self.channels[value]

    def price_of(self, value: Value) -> float:
        """Multiply-accumulates per position that one channel costs its consumers."""
        return self.price.get(value, 0.0)

    def ask(self, value: Value, channels: Mask | None, price: float) -> None:
        """Note one more consumer; None asks for everything."""
        if width(value) is not None:
            self.wants(value)[...] |= True if channels is None else channels
        if channels is None:
            self.fixed.add(value)
            self.solid.add(value)
        self.price[value] = self.price_of(value) + price + TOUCH


def demand_of(graph: Any) -> Demand:
    """Demand of every value, from the outputs back to the inputs."""
    found = Demand()
    for value in graph.outputs:
        found.ask(value, None, 0)
    for node in reversed(list(graph)):
        operation = recognise(node)
        if operation is None:
            _read_everything(found, node)
        else:
            RULES[operation.kind](found, node, operation.detail)
            _pass_on(found, node, operation.kind)
    return found


def _read_everything(found: Demand, node: Node) -> None:
    price = found.price_of(node.outputs[0])
    for value in computed(node):
        found.ask(value, None, price)


def _pass_on(found: Demand, node: Node, kind: str) -> None:
    """What must be there in full behind a node must be so before it; a layer's weights decouple the two."""
    sources = computed(node)
    if node.op_type == "Pad" or (node.op_type == "Conv" and pads_space(node)):
        # Beyond the border a constant channel is 0, so it is no constant for what reads across the border.
        found.solid.update(sources)
    for wish in (found.fixed, found.solid):
        if node.outputs[0] in wish and kind != "layer":
            wish.update(sources)


def _shrinks(node: Node) -> float:
    """Output positions per input position of a strided operation."""
    return 1.0 / float(math.prod(attribute(node, "strides", [1])))


def _weight(node: Node) -> Array:
    weight = constant(node.inputs[1])
    assert weight is not None  # the recogniser has seen to it
    return weight


# --- rules: what a node reads, given what is read of its result -------------------------------------------------------


def _layer(found: Demand, node: Node, _: bool) -> None:
    wanted, weight = found.wants(node.outputs[0]), _weight(node)
    live = weight[wanted] != 0
    reads = live.any(axis=tuple(axis for axis in range(live.ndim) if axis != 1))
    macs = math.prod(weight.shape[2:]) * int(wanted.sum())
    found.ask(node.inputs[0], reads, macs * _shrinks(node))


def _depthwise(found: Demand, node: Node, _: bool) -> None:
    result, weight = node.outputs[0], _weight(node)
    reads = found.wants(result) & weight.reshape(len(weight), -1).any(axis=1)
    macs = math.prod(weight.shape[2:])
    found.ask(node.inputs[0], reads, (macs + found.price_of(result)) * _shrinks(node))


def _scale(found: Demand, node: Node, scaled: tuple[Value, Array]) -> None:
    result, (source, factors) = node.outputs[0], scaled
    found.ask(source, found.wants(result) & (factors != 0), found.price_of(result))


def _gather(found: Demand, node: Node, index: Array) -> None:
    result, source = node.outputs[0], node.inputs[0]
    reads = np.zeros(width(source) or 0, dtype=bool)
    reads[index[found.wants(result)]] = True
    found.ask(source, reads, found.price_of(result))


def _pad(found: Demand, node: Node, pads: list[int]) -> None:
    result, source, start = node.outputs[0], node.inputs[0], pads[1]
    found.ask(source, found.wants(result)[start : start + (width(source) or 0)], found.price_of(result))


def _addition(found: Demand, node: Node, _: bool) -> None:
    wanted, price = found.wants(node.outputs[0]), found.price_of(node.outputs[0])
    for value in node.inputs:
        found.ask(value, wanted, price)


def _flatten(found: Demand, node: Node, pixels: int) -> None:
    result = node.outputs[0]
    reads = np.any(found.wants(result).reshape(-1, pixels), axis=1)
    found.ask(node.inputs[0], reads, found.price_of(result))


def _channelwise(found: Demand, node: Node, _: bool) -> None:
    result = node.outputs[0]
    found.ask(node.inputs[0], found.wants(result), found.price_of(result) * _shrinks(node))


RULES: dict[str, Callable[[Demand, Node, Any], None]] = {
    "layer": _layer,
    "depthwise": _depthwise,
    "scale": _scale,
    "gather": _gather,
    "pad": _pad,
    "norm": _channelwise,
    "addition": _addition,
    "flatten": _flatten,
    "channelwise": _channelwise,
}
