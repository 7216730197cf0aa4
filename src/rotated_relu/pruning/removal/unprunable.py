"""What is dead and stays, with the reason: ``plan.held``.

Two kinds. A channel of a tensor behind a layer stays because its group is fixed (the layer itself writes less, the
tensor is as wide as before). And a weight that belongs to no layer of ours stays as wide as its tensors are: one that
is computed, shared, read by an operation that the module does not know of, or recurrent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn
from torch.fx import Node

from ...graph import ops
from ...graph.capture import Graph, describe, module_path, op_name
from ...graph.layers import Layer, Names
from ...graph.liveness import Liveness
from .kept_groups import KeptGroups
from .plan import Unprunable

_CONVOLUTIONS = ops.CONVOLUTIONS | ops.TRANSPOSED_CONVOLUTIONS
_WEIGHTED = (
    _CONVOLUTIONS
    | ops.LINEAR
    | ops.PRODUCTS
    | ops.ADDED_PRODUCTS
    | ops.BILINEAR
    | ops.LOOKUPS
    | ops.RECURRENT
    | ops.RECURRENT_CELLS
    | {"einsum"}
)


def unprunable(
    choice: KeptGroups, layers: Iterable[Layer], liveness: Liveness, model: nn.Module
) -> list[Unprunable]:
    """Dead output channels that stay, per layer and reason.

    Args:
        choice: The groups that stay.
        layers: The layers that can read and write subsets.
        liveness: Which channels are dead.
        model: The network, for the names and classes of its modules.
    """
    found: list[Unprunable] = []
    for layer in layers:
        # A norm is as wide as what it normalises, whose layer is listed; a recurrent layer has no dead outputs.
        if layer.kind not in ("norm", "recurrent"):
            own = choice.groups.along(layer.calls[0].result, layer.channel_dim)
            dead = own[choice.keep[own] & ~choice.alive[own]]
            found += _counted(layer.name, (_reason(choice, int(group)) for group in dead))
        found += _whole_sides(layer, choice)
    names = Names(model)
    known = {node for layer in layers for call in layer.calls for node in (call.operation, *layer.inner)}
    for node in choice.graph.nodes:
        if node in choice.graph.varying and node not in known and op_name(node) in _WEIGHTED:
            found += _without_layer(node, choice, liveness, names)
    return found


def _whole_sides(layer: Layer, choice: KeptGroups) -> Iterator[Unprunable]:
    """Dead channels that a weight keeps because a norm or statistics are taken over them."""
    kind = "a weight norm" if layer.weight_norm is not None else "a standardisation"
    call, (out_dim, in_dim) = layer.calls[0], layer.weight_dims
    for dim, key, side in ((in_dim, call.source, "inputs"), (out_dim, call.result, "outputs")):
        gone = int((~choice.kept(key, layer.channel_dim)).sum()) if dim in layer.whole_dims else 0
        if gone and layer.kind != "grouped":
            yield Unprunable(layer.name, gone, f"{kind} of its weight takes all {side}")


def _counted(name: str, reasons: Iterable[str]) -> Iterator[Unprunable]:
    for reason, channels in Counter(reasons).items():
        yield Unprunable(name, channels, reason)


def _reason(choice: KeptGroups, group: int) -> str:
    fixed = choice.groups.fixed.get(group)
    return f"width fixed by {fixed}" if fixed else "width rounded up, or the last channel of a tensor"


def _without_layer(node: Node, choice: KeptGroups, liveness: Liveness, names: Names) -> Iterator[Unprunable]:
    """Dead outputs of a weight that is no layer's: those that its tensor keeps."""
    weight, node_out = _weight(node, choice.graph), _first_result(node)
    if weight is None or node_out not in choice.groups.sizes or not choice.groups.rank(node_out):
        return
    # Channels come first behind the batch in images, last everywhere else.
    dim = 1 if op_name(node) in _CONVOLUTIONS and choice.groups.rank(node_out) > 1 else -1
    own = choice.groups.along(node_out, dim)
    dead = own[choice.keep[own] & ~liveness.alive[node_out][dim].numpy()]
    state = choice.graph.states.get(weight)
    name = names.of(state.rpartition(".")[0] if state else module_path(node))
    why = _why(node, weight, choice, names)
    yield from _counted(name, (_joined(choice, int(group), why) for group in dead))


def _joined(choice: KeptGroups, group: int, why: str) -> str:
    # Alive in another tensor or in the weight itself (a norm reads all of it): nothing else holds it.
    if choice.alive[group]:
        return why
    return f"{_reason(choice, group)}; {why}"


def _first_result(node: Node) -> Node:
    """The result, or the first of several."""
    parts = [user for user in node.users if op_name(user) == "getitem" and user.args[1] == 0]
    return parts[0] if parts else node


def _weight(node: Node, graph: Graph) -> Node | None:
    """The operand with several dimensions that comes from parameters alone, if there is one."""
    for value in node.all_input_nodes:
        shape = getattr(value.meta.get("val"), "shape", ())
        roots = set(_roots(value))
        # Of parameters alone: a product of two inputs (attention scores) has no weight that could be cut.
        if len(shape) > 1 and roots & graph.states.keys() and not roots & graph.inputs.keys():
            return value
    return None


def _roots(node: Node) -> Iterator[Node]:
    waiting, seen = [node], {node}
    while waiting:
        one = waiting.pop()
        if not one.all_input_nodes:
            yield one
        for source in one.all_input_nodes:
            if source not in seen:
                seen.add(source)
                waiting.append(source)


def _why(node: Node, weight: Node, choice: KeptGroups, names: Names) -> str:
    """Why an operation's weight is no layer's."""
    module: Any = names.modules.get(module_path(node))
    if weight not in choice.graph.states:
        return f"its weight is computed by {_computation(weight, module)}"
    others = [user for user in weight.users if user is not node]
    if others:
        return f"its weight is also read by {', '.join(sorted({describe(user) for user in others}))}"
    return f"its weight is read by {describe(node)}, which has no call of its own that could be cut"


def _computation(weight: Node, module: Any) -> str:
    """What computes a weight: the parametrizations or hooks of its module by class, else the operation."""
    # Both of torch's mechanisms leave a trace on the module: a list of parametrizations, or a hook that computes.
    found = [
        type(one).__name__ for parts in getattr(module, "parametrizations", {}).values() for one in parts
    ]
    hooks = getattr(module, "_forward_pre_hooks", {}).values()
    found += [type(hook).__name__ for hook in hooks if hasattr(hook, "compute_weight")]
    kinds = ", ".join(dict.fromkeys(found))
    return f"a parametrization ({kinds}: {op_name(weight)})" if kinds else describe(weight)
