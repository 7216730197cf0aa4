"""The layers that end a wire: convolutions and linear layers that read some channels and write others.

A layer qualifies if its weight is used by calls of that one module alone and the module's own forward is the
operation, apart from spatial padding and a standardisation of its weight (see :mod:`.standardised`). Grouped
convolutions pass whole groups; batch norms pass channels, but may write them at other positions.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn
from torch.fx import Node

from .capture import Graph, describe, module_path, op_name
from .weight_standardization import standardising

if TYPE_CHECKING:
    from .channel_rules import Wires

_CONVS = frozenset(["conv1d", "conv2d", "conv3d"])
_TRANSPOSED = frozenset(["conv_transpose1d", "conv_transpose2d", "conv_transpose3d"])


@dataclass
class Layer:
    """One convolution, linear layer or batch norm of the user's model, with all of its calls.

    Attributes:
        name: Qualified name of the module.
        module: The module.
        kind: "conv", "transposed", "linear", "grouped" or "norm".
        calls: Its nodes in the graph.
        groups: Groups of a grouped convolution.
        packed: Whether a grouped convolution reads and writes subsets of its groups (see :mod:`.grouped`).
        inner: What computes its weight from its parameters; its inputs have to keep their width then.
    """

    name: str
    module: nn.Module
    kind: str
    calls: list[Node] = field(default_factory=list)
    groups: int = 1
    packed: bool = False
    inner: set[Node] = field(default_factory=set)

    @property
    def channel_dim(self) -> int:
        """Dimension of input and output that holds the channels."""
        return -1 if self.kind == "linear" else 1

    @property
    def weight_dims(self) -> tuple[int, int]:
        """Dimensions of the weight that hold output and input channels."""
        return (1, 0) if self.kind == "transposed" else (0, 1)

    def source(self, call: Node) -> Node:
        """The tensor that a call reads."""
        source = call.args[0]
        assert isinstance(source, Node)
        return source

    def wire(self, wires: Wires, call: Node) -> None:
        """Merge and pin atoms for one call: pass the batch, keep space, end the wire along channels."""
        source, rank = self.source(call), wires.rank(call)
        channels = self.channel_dim % rank
        for dim in range(rank):
            if dim == channels:
                continue
            if self.kind in ("linear", "norm") or dim == 0:
                wires.merge(wires.ids(source, dim), wires.ids(call, dim))
            else:
                wires.pin(wires.ids(source, dim), describe(call), call)
                wires.pin(wires.ids(call, dim), describe(call), call)
        first, axis = self.calls[0], self.channel_dim  # a linear layer's calls may differ in rank
        if call is not first:
            wires.merge(wires.ids(self.source(first), axis), wires.ids(source, axis))
            wires.merge(wires.ids(first, axis), wires.ids(call, axis))
        if self.kind == "grouped" and not self.packed:
            self._tie_groups(wires, source, call)
        if self.kind == "norm":
            for state in call.args[1:5]:
                if isinstance(state, Node):
                    wires.merge(wires.ids(state, 0), wires.ids(call, 1))

    def _tie_groups(self, wires: Wires, source: Node, call: Node) -> None:
        """A channel goes with its group: tie all inputs and outputs of a group together."""
        read = wires.ids(source, 1).reshape(self.groups, -1)
        written = wires.ids(call, 1).reshape(self.groups, -1)
        for block in (read, written):
            wires.merge(block[:, :-1].reshape(-1), block[:, 1:].reshape(-1))
        wires.merge(read[:, 0], written[:, 0])


def find_layers(graph: Graph, model: nn.Module) -> list[Layer]:
    """All layers of a captured model that can read and write subsets of channels, in execution order."""
    modules = dict(model.named_modules())
    users: dict[str, list[Node]] = defaultdict(list)
    for placeholder, name in graph.states.items():
        users[name].extend(placeholder.users)
    by_owner: dict[str, list[Node]] = defaultdict(list)
    for name, consumers in users.items():
        by_owner[name.rpartition(".")[0]].extend(consumers)
    found: dict[str, Layer] = {}
    for node in graph.nodes:
        inner = standardising(node, graph) if op_name(node) in _CONVS else set()
        owner = module_path(node) if inner else _owner(node, graph)
        module = modules.get(owner) if owner is not None else None
        if owner is None or module is None or not _alone(node, owner, by_owner[owner]):
            continue
        kind, groups = _kind(node, module)
        if kind:
            layer = found.setdefault(owner, Layer(owner, module, kind, [], groups))
            layer.calls.append(node)
            layer.inner |= inner
    return [
        layer for layer in found.values() if {*users[f"{layer.name}.weight"]} <= {*layer.calls, *layer.inner}
    ]


def _owner(node: Node, graph: Graph) -> str | None:
    """Name of the module whose ``weight`` this operation uses, if the operation is that module's call."""
    name = op_name(node)
    if name not in _CONVS | _TRANSPOSED | {"linear", "batch_norm"} or len(node.args) < 2:
        return None
    weight = node.args[1]
    state = graph.states.get(weight) if isinstance(weight, Node) else None
    owner = state.removesuffix(".weight") if state and state.endswith(".weight") else None
    return owner if owner is not None and owner == module_path(node) else None


def _alone(node: Node, name: str, consumers: list[Node]) -> bool:
    """The module adds nothing around the operation but padding, and nobody else uses its parameters."""
    source = node.args[0]
    while isinstance(source, Node) and source.op == "call_function" and module_path(source) == name:
        if op_name(source) != "pad":
            return False
        source = source.args[0]
    # A norm only gathers before its forward, which may go on with an activation.
    if op_name(node) != "batch_norm" and any(_within(user, name) for user in node.users):
        return False
    return all(module_path(consumer) == name for consumer in consumers)


def _within(node: Node, name: str) -> bool:
    return f"{module_path(node)}.".startswith(f"{name}.")


def _kind(node: Node, module: nn.Module) -> tuple[str, int]:
    name = op_name(node)
    groups = int(getattr(module, "groups", 1))
    if name == "linear":
        return ("linear", 1) if isinstance(module, nn.Linear) else ("", 1)
    if name == "batch_norm":
        plain = isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
        return ("norm", 1) if plain else ("", 1)
    if not isinstance(module, nn.modules.conv._ConvNd) or node.args[0].meta["val"].dim() != node_rank(module):  # type: ignore[union-attr]
        return "", 1
    if name in _TRANSPOSED:
        return ("transposed", 1) if groups == 1 else ("", 1)
    return ("grouped", groups) if groups > 1 else ("conv", 1)


def node_rank(module: nn.Module) -> int:
    """Rank of a batched input of a convolution."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.dim()


def as_list(values: Any) -> list[int]:
    """Plain integers, for plans that are saved as JSON."""
    return [int(value) for value in np.asarray(values).tolist()]
