"""Derive the paper's layer list and alive list from any network, by walking its captured graph.

From each convolution or linear layer the walk goes back to the nearest activation (all of them where the way
leads through a concatenation), and forward to the first activation in execution order, across normalisation,
pooling and residual additions. It stops at other layers with weights: what has no activation between is
counted in full.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import Node

from ...core.modules import Inputs
from ...graph import ops
from ...graph.capture import Graph, capture, module_path, op_name
from .count import PaperCount, PaperLayer, paper_count

_GATES = ops.GATES | {"prelu"}
_CONVS = ops.CONVOLUTIONS | {"convolution", "_convolution"}
_LINEARS = ops.LINEAR | {"addmm"}
_PRODUCTS = ops.PRODUCTS | ops.ATTENTION | {"baddbmm"}
_SUMS = frozenset(["add"])


@dataclass(frozen=True)
class PaperNetwork:
    """A network as the paper counts it.

    Attributes:
        layers: Convolutions and linear layers; ``before`` and ``after`` index the lists below.
        widths: Full number of filters per activation, in execution order.
        names: Qualified slope parameter per activation, or the module path of a plain activation.
        alive: Filters whose slope survives the threshold; all of them for a plain activation.
    """

    layers: list[PaperLayer]
    widths: list[int]
    names: list[str]
    alive: list[int]

    def count(self) -> PaperCount:
        """Memory and FLOPs of the alive filters, as the paper counts them."""
        return paper_count(self.layers, self.alive, self.widths)


def paper_layers(
    net: nn.Module,
    example_inputs: Inputs,
    threshold: float = 0.0,
    *,
    alive: Mapping[str, int] | None = None,
) -> PaperNetwork:
    """Describe a network, rotated or not, for the paper's count.

    Args:
        net: The network before compaction.
        example_inputs: Inputs of ``forward``, a batch of any size.
        threshold: A filter is dead if the absolute value of its slope is below this, or exactly 0.
        alive: Instead of a threshold: name of a slope -> how many of its filters are alive, as a mask leaves them.

    Raises:
        ShapeError: If the network does not run on the inputs.
        CaptureError: If it cannot be exported.
    """
    return read_network(capture(net, example_inputs), net, threshold, alive)


def read_network(
    graph: Graph, net: nn.Module, threshold: float = 0.0, alive: Mapping[str, int] | None = None
) -> PaperNetwork:
    """:func:`paper_layers` of a network that has been captured; its lists are in the order of ``graph.nodes``."""
    order = {node: position for position, node in enumerate(graph.nodes)}
    parameters = dict(net.named_parameters(remove_duplicate=False))
    activations = [node for node in graph.nodes if is_gate(node)]
    index = {node: position for position, node in enumerate(activations)}
    slopes = [_slope_name(node, graph, parameters) for node in activations]
    widths = [
        parameters[slope].numel() if slope else _channels(node)
        for node, slope in zip(activations, slopes, strict=True)
    ]
    given = alive or {}
    left = [
        given.get(slope, _count_alive(parameters[slope], threshold)) if slope else width
        for slope, width in zip(slopes, widths, strict=True)
    ]
    names = [slope or module_path(node) or node.name for node, slope in zip(activations, slopes, strict=True)]
    weighted = [node for node in graph.nodes if is_weighted(node)]
    layers = [_layer(node, order, index, widths) for node in weighted]
    return PaperNetwork(layers, widths, names, left)


def is_gate(node: Node) -> bool:
    """Whether a node is an activation that the paper would put slopes on."""
    return node.op == "call_function" and op_name(node) in _GATES


def is_weighted(node: Node) -> bool:
    """Whether a node is a convolution or a linear layer."""
    return _weight(node) is not None


def is_sum(node: Node) -> bool:
    """Whether a node adds two tensors, or a number to one."""
    return node.op == "call_function" and op_name(node) in _SUMS


def _weight(node: Node) -> Tensor | None:
    """Weight of a convolution or linear layer, as a fake tensor (outputs first), or None for other nodes."""
    name = op_name(node) if node.op == "call_function" else ""
    if name not in _CONVS | _LINEARS:
        return None
    operand = node.args[2 if name == "addmm" else 1]
    value = operand.meta.get("val") if isinstance(operand, Node) else None
    if not isinstance(value, Tensor):
        return None
    return value.t() if name == "addmm" else value


def _layer(node: Node, order: dict[Node, int], index: dict[Node, int], widths: list[int]) -> PaperLayer:
    weight = _weight(node)
    assert weight is not None
    convolution = op_name(node) in _CONVS
    value = node.meta["val"]
    groups = _groups(node, weight) if convolution else 1
    kernel = weight.shape[2:] if convolution else ()
    places = value.shape[2:] if convolution else value.shape[1:-1]
    outputs, inputs = int(weight.shape[0]), int(weight.shape[1]) * groups
    before = tuple(index[source] for source in _sources(_data_input(node)))
    after, stream = _consumer(node, order, index)
    if after is not None and outputs % widths[after]:
        after = None  # the channels were rearranged on the way: count all of them
    if before and inputs % sum(widths[source] for source in before):
        before = ()
    return PaperLayer(
        module_path(node) or node.name,
        _product(kernel),
        _product(places),
        inputs,
        outputs,
        before,
        after,
        groups,
        stream,
    )


def _groups(node: Node, weight: Tensor) -> int:
    operand = node.args[0]
    assert isinstance(operand, Node)
    return max(1, int(operand.meta["val"].shape[1]) // int(weight.shape[1]))


def _product(sizes: tuple[int, ...] | torch.Size) -> int:
    result = 1
    for size in sizes:
        result *= int(size)
    return result


def _data_input(node: Node) -> Node:
    operand = node.args[1 if op_name(node) == "addmm" else 0]
    assert isinstance(operand, Node)
    return operand


def _sources(start: Node) -> list[Node]:
    """Nearest activations upstream: one along a chain, the sum's nearest, all of a concatenation."""
    if is_gate(start):
        return [start]
    if start.op != "call_function" or _stops(start):
        return []
    if op_name(start) == "cat":
        parts = start.args[0]
        assert isinstance(parts, (list, tuple))
        found = [_sources(part) for part in parts if isinstance(part, Node)]
        return [source for part in found for source in part] if all(found) else []
    branches = [_sources(source) for source in _data_operands(start)]
    return next((branch for branch in reversed(branches) if branch), [])


def _data_operands(node: Node) -> list[Node]:
    return [source for source in node.all_input_nodes if source.op == "call_function"]


def _stops(node: Node) -> bool:
    return is_weighted(node) or op_name(node) in _PRODUCTS


def _consumer(start: Node, order: dict[Node, int], index: dict[Node, int]) -> tuple[int | None, bool]:
    """First activation downstream in execution order, and whether a pre-activation stream lies between.

    A sum that is read by an activation alone is the end of a post-activation block, whose slopes do cover it.
    A sum with other consumers (a normalisation, the next block's sum) is a stream without slopes of its own.
    """
    consumers = sorted(_downstream(start), key=lambda item: order[item[0]])
    if not consumers:
        return None, False
    node, stream = consumers[0]
    return index[node], stream


def _downstream(start: Node) -> Iterator[tuple[Node, bool]]:
    seen: set[tuple[Node, bool]] = set()
    waiting: list[tuple[Node, bool]] = [(user, False) for user in start.users]
    while waiting:
        node, stream = waiting.pop()
        if (node, stream) in seen or node.op != "call_function":
            continue
        seen.add((node, stream))
        if is_gate(node):
            yield node, stream
        elif not _stops(node):
            stream = stream or (is_sum(node) and not all(is_gate(user) for user in node.users))
            waiting += [(user, stream) for user in node.users]


def _slope_name(gate: Node, graph: Graph, parameters: dict[str, nn.Parameter]) -> str | None:
    """Qualified name of the slope parameter that multiplies a gate's output, if there is one."""
    for user in gate.users:
        if user.op != "call_function" or op_name(user) != "mul":
            continue
        for operand in user.all_input_nodes:
            name = _parameter_behind(operand, graph)
            if (
                operand is not gate
                and name is not None
                and name.split(".")[-1] == "slope"
                and name in parameters
            ):
                return name
    return None


def _parameter_behind(node: Node, graph: Graph) -> str | None:
    """Follow views and casts of one tensor up to a parameter."""
    while node not in graph.states:
        if node.op != "call_function" or len(node.all_input_nodes) != 1:
            return None
        node = node.all_input_nodes[0]
    return graph.states[node]


def _count_alive(slope: Tensor, threshold: float) -> int:
    magnitude = slope.detach().abs()
    return int(((magnitude >= threshold) & (magnitude > 0)).sum())


def _channels(node: Node) -> int:
    """Channels of an image-like activation; features of a vector or token activation."""
    shape = node.meta["val"].shape
    return int(shape[1] if len(shape) >= 4 else shape[-1])
