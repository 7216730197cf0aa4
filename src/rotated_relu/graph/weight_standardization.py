"""Convolutions that standardise their weight in ``forward``: each output channel's to mean 0 and variance 1.

The weight that convolves is ``batch_norm(weight.reshape(1, out, -1))``, scaled by a gain per output channel. Row c of
it depends on row c of the parameter alone, so that output channels, and whole groups, can go exactly. Inputs cannot:
the statistics of a row are taken over all of them. Such a layer reads its input at full width, zeros where channels
died.

Source: Qiao et al., "Micro-Batch Training with Batch-Channel Normalization and Weight Standardization"; the gain is
that of Brock et al., "Characterizing signal propagation to close the performance gap in unnormalized ResNets".
"""

from __future__ import annotations

from torch.fx import Node

from . import ops
from .capture import Graph, module_path, op_name

_SHAPED = ops.VIEWS | {"reshape_as", "view_as", "flatten"}


def standardising(conv: Node, graph: Graph) -> set[Node]:
    """The operations between a convolution and the parameters of its module, if they standardise the weight; else none.

    Args:
        conv: A call of a convolution.
        graph: The captured model.
    """
    owner = module_path(conv)
    norm = _before(conv.args[1], _SHAPED)
    if norm is None or op_name(norm) != "batch_norm" or any(value is not None for value in norm.args[2:5]):
        return set()
    flat, gain = norm.args[0], norm.args[1]
    weight = _before(flat, _SHAPED)
    # (1, out, -1): one "channel" of the batch norm for each output, over all its inputs and the kernel.
    channels = conv.meta["val"].shape[1]
    if weight is None or graph.states.get(weight) != f"{owner}.weight":
        return set()
    assert isinstance(flat, Node)
    if flat.meta["val"].shape[:2] != (1, channels):
        return set()
    if gain is not None:
        parameter = _before(gain, _SHAPED | {"mul"})
        if parameter not in graph.states or parameter.meta["val"].numel() != channels:
            return set()
    inner = _ancestors(conv.args[1])
    # Were the standardised weight read elsewhere, or computed by another module, cutting rows would change that too.
    alone = all(module_path(node) == owner and node.users.keys() <= {*inner, conv} for node in inner)
    return inner if alone else set()


def _before(value: object, names: frozenset[str]) -> Node | None:
    """The node in front of operations of some kinds with a single tensor each (``reshape_as`` reads a shape too)."""
    while isinstance(value, Node) and value.op == "call_function" and op_name(value) in names:
        others = value.all_input_nodes if op_name(value) == "mul" else value.all_input_nodes[:1]
        if len(others) != 1:
            return None
        (value,) = others
    return value if isinstance(value, Node) else None


def _ancestors(value: object) -> set[Node]:
    """A node and all operations that it is computed from."""
    found: set[Node] = set()
    left = [value]
    while left:
        node = left.pop()
        if isinstance(node, Node) and node.op == "call_function" and node not in found:
            found.add(node)
            left += node.all_input_nodes
    return found
