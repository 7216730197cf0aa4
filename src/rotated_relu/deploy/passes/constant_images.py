"""Replace tensors whose numbers are the same at every pixel, whatever the input, by one number per channel.

A residual branch that is gone leaves the constant of its last norm, and torch exports that as a tensor of zeros, as
large as the image, that is normed at every call:

    x + norm(zeros like x)     = x + c                 with c = offset of the norm, shape (1, channels, 1, 1)
    conv(x) + c                = conv(x) with bias c
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from .editing import add_initializer
from .narrow_rules import affine_of_norm
from .patterns import Array, Node, Value, attribute, bias_of, constant, pads_space, width

BROADCAST = frozenset(["Add", "Sub", "Mul"])  # what reads a number per channel as well as an image


class ConstantImages(ir.passes.InPlacePass):
    """Let additions and multiplications read one number per channel.

    Requires: weights are initializers; nodes are in topological order.
    Does: follows tensors of one number from where they are made through norms, convolutions without padding, ReLUs,
    sums and products, and replaces what elementwise operations read of them if the other operand has the result's
    shape. What is added behind a convolution goes into its bias.
    Ensures: the same function up to rounding. Nodes that nobody reads any more are left for ``RemoveUnusedNodesPass``.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Find the constants, then replace them."""
        known: dict[Value, Array] = {}
        for node in model.graph:
            rule = RULES.get(node.op_type)
            found = None if rule is None or len(node.outputs) != 1 else rule(node, known)
            if found is not None:
                known[node.outputs[0]] = found
        replaced = [_replace(model.graph, node, known) for node in list(model.graph)]
        return ir.passes.PassResult(model, modified=any(replaced))


def _replace(graph: ir.Graph, node: Node, known: dict[Value, Array]) -> bool:
    """Put the numbers of a constant operand in its place, where the other one is no constant."""
    if node.op_type not in BROADCAST or node.outputs[0] in known:
        return False
    places = [place for place, value in enumerate(node.inputs) if value in known]
    if len(places) != 1 or not _same_shape(*node.inputs):
        return False
    old, other = node.inputs[places[0]], node.inputs[1 - places[0]]
    values = known[old]
    if node.op_type == "Add" and _is_only_read_here(other) and not node.outputs[0].is_graph_output():
        _into_bias(graph, other.producer(), values)
        ir.convenience.replace_all_uses_with(node.outputs[0], other)
        return True
    shape = (1, -1, *[1] * (len(old.shape) - 2))
    number = add_initializer(graph, f"{node.name}_constant", values.reshape(shape).astype(old.dtype.numpy()))
    if node.op_type != "Sub":  # engines look for constants in the second place
        node.replace_input_with(0, other)
        places = [1]
    node.replace_input_with(places[0], number)
    return True


def _is_only_read_here(value: Value) -> bool:
    """Whether a convolution writes a value for one reader alone."""
    node = value.producer()
    alone = len(value.uses()) == 1 and not value.is_graph_output()
    return alone and node is not None and node.op_type == "Conv" and constant(node.inputs[1]) is not None


def _into_bias(graph: ir.Graph, node: Node, values: Array) -> None:
    bias = (bias_of(node) + values).astype(node.inputs[0].dtype.numpy())
    number = add_initializer(graph, f"{node.name}_bias", bias)
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    node.replace_input_with(2, number)


def _same_shape(one: Value, other: Value) -> bool:
    if one.shape is None or other.shape is None or one.shape.rank() != other.shape.rank():
        return False
    # The batch is whatever comes in; both operands are of one call.
    return list(one.shape)[1:] == list(other.shape)[1:] and all(
        isinstance(n, int) for n in list(one.shape)[1:]
    )


# --- numbers per channel of what a node writes, or None if they are not constant -------------------------------------


def _filled(node: Node, _: dict[Value, Array]) -> Array | None:
    result, filler = node.outputs[0], attribute(node, "value")
    if result.shape is None or len(result.shape) < 3 or width(result) is None:
        return None
    value = 0.0 if filler is None else float(np.asarray(filler.numpy()).reshape(-1)[0])
    return np.full(width(result) or 0, value)


def _norm(node: Node, known: dict[Value, Array]) -> Array | None:
    source = known.get(node.inputs[0])
    if source is None or any(constant(value) is None for value in node.inputs[1:5]):
        return None
    factor, offset = affine_of_norm(node)
    return source * factor + offset


def _convolution(node: Node, known: dict[Value, Array]) -> Array | None:
    source, weight = known.get(node.inputs[0]), constant(node.inputs[1])
    if source is None or weight is None or pads_space(node) or attribute(node, "group", 1) != 1:
        return None
    total: Array = weight.astype(np.float64).reshape(*weight.shape[:2], -1).sum(2)
    result: Array = bias_of(node) + total @ source
    return result


def _relu(node: Node, known: dict[Value, Array]) -> Array | None:
    source = known.get(node.inputs[0])
    return None if source is None else np.maximum(source, 0)


def _combined(node: Node, known: dict[Value, Array]) -> Array | None:
    """A sum or product of constants, of which one may be a number per channel already."""
    one, other = (_per_channel(value, known) for value in node.inputs)
    if one is None or other is None or not any(value in known for value in node.inputs):
        return None
    result: Array = one + other if node.op_type == "Add" else one * other
    return result


def _per_channel(value: Value, known: dict[Value, Array]) -> Array | None:
    numbers = constant(value)
    if value in known or numbers is None:
        return known.get(value)
    varies = [axis for axis, size in enumerate(numbers.shape) if size != 1]
    is_number_per_channel = not varies or (varies == [1] and numbers.ndim > 2)
    return numbers.astype(np.float64).reshape(-1) if is_number_per_channel else None


RULES: dict[str, Callable[[Node, dict[Value, Array]], Array | None]] = {
    "ConstantOfShape": _filled,
    "BatchNormalization": _norm,
    "Conv": _convolution,
    "Relu": _relu,
    "Add": _combined,
    "Mul": _combined,
}
