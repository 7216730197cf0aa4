"""The layers of a network: what reads some channels and writes others, with a weight of its own.

A layer qualifies if its weight is used by calls of that one module alone and the module's own forward is the
operation, apart from padding before it, views around it, and a computation of its weight that treats output channels
apart (a standardisation, see :mod:`.weight_standardization`, or a weight norm). Grouped convolutions pass whole groups;
batch norms pass channels, but may write them at other positions; recurrent layers write all of theirs.

A module may be registered under several names; the first of them is its name here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn
from torch.fx import Node

from . import ops
from .capture import Graph, module_path, op_name
from .weight_norm import WeightNorm, find_weight_norm
from .weight_standardization import standardising

_PRODUCTS = ops.PRODUCTS | ops.ADDED_PRODUCTS
_CONVOLUTIONS = ops.CONVOLUTIONS | ops.TRANSPOSED_CONVOLUTIONS
_KNOWN = _CONVOLUTIONS | ops.LINEAR | ops.BATCH_NORM | _PRODUCTS | ops.RECURRENT


@dataclass(frozen=True)
class Call:
    """One call of a layer.

    Attributes:
        source: The tensor that it reads.
        operation: What multiplies or normalises.
        result: The tensor that it returns; the operation itself, unless views follow.
    """

    source: Node
    operation: Node
    result: Node


@dataclass
class Layer:
    """One convolution, linear layer, batch norm or recurrent layer of the user's model, with all of its calls.

    Attributes:
        name: Qualified name of the module.
        module: The module.
        kind: "conv", "linear", "grouped", "norm" or "recurrent".
        inputs_first: Whether its weight is (inputs, outputs, ...) and not (outputs, inputs, ...).
        calls: Its calls, in execution order.
        groups: Groups of a grouped convolution.
        packed: Whether a grouped convolution reads and writes subsets of its groups (see ``removal/grouped.py``).
        inner: What it computes besides: its weight from its parameters, views around the operation.
        standardised: Whether its weight is standardised, each output's over all inputs.
        weight_norm: How its weight comes from a gain and a direction, or None.
    """

    name: str
    module: nn.Module
    kind: str
    inputs_first: bool = False
    calls: list[Call] = field(default_factory=list)
    groups: int = 1
    packed: bool = False
    inner: set[Node] = field(default_factory=set)
    standardised: bool = False
    weight_norm: WeightNorm | None = None

    @property
    def channel_dim(self) -> int:
        """Dimension of input and output that holds the channels."""
        return -1 if self.kind in ("linear", "recurrent") else 1

    @property
    def weight_dims(self) -> tuple[int, int]:
        """Dimensions of the weight that hold output and input channels."""
        return (1, 0) if self.inputs_first else (0, 1)

    @property
    def whole_dims(self) -> set[int]:
        """Dimensions of the weight along which norms or statistics are taken: they stay whole."""
        if self.standardised:
            return {1}
        return set() if self.weight_norm is None else {0, 1} - {self.weight_norm.dim}

    @property
    def spatial(self) -> bool:
        """Whether the dimensions behind the channels are space, along which the weight is moved."""
        return self.kind in ("conv", "grouped")


def find_layers(graph: Graph, model: nn.Module) -> list[Layer]:
    """All layers of a captured model that can read and write subsets of channels, in execution order."""
    search = _Search(graph, model)
    found: dict[str, Layer] = {}
    others: dict[str, set[Node]] = defaultdict(set)
    for node in graph.nodes:
        # What depends on constants only is a constant itself (a table of positions).
        if op_name(node) not in _KNOWN or node not in graph.varying:
            continue
        name = search.names.of(module_path(node))
        layer = search.read(node, name)
        if layer is None:
            others[name].add(node)
        elif name in found:
            found[name].calls += layer.calls
            found[name].inner |= layer.inner
        else:
            found[name] = layer
    return [
        layer
        for name, layer in found.items()
        if others[name] <= layer.inner and search.owns_its_weight(layer)
    ]


class Names:
    """The first name of each module, and of its parameters, whatever names it is registered under."""

    def __init__(self, model: nn.Module) -> None:
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self._first: dict[int, str] = {}
        for name, module in self.modules.items():
            self._first.setdefault(id(module), name)

    def of(self, path: str) -> str:
        """First name of the module with this name."""
        return self._first[id(self.modules[path])] if path in self.modules else path

    def of_state(self, state: str) -> str:
        """First name of a parameter or buffer, by that of its module."""
        path, _, leaf = state.rpartition(".")
        return f"{self.of(path)}.{leaf}" if path else leaf


class _Search:
    """Reads one operation after the other as the call of a layer."""

    def __init__(self, graph: Graph, model: nn.Module) -> None:
        self.graph = graph
        self.names = Names(model)
        self.states = {node: self.names.of_state(state) for node, state in graph.states.items()}
        self.consumers: dict[str, set[Node]] = defaultdict(set)
        for placeholder, state in self.states.items():
            self.consumers[state].update(placeholder.users)

    def read(self, node: Node, name: str) -> Layer | None:
        """The layer with this one call, or None if the operation is more or less than a call of its module."""
        module = self.names.modules.get(name)
        layer = None if module is None else self._of_kind(node, name, module)
        if layer is None or not all(self._stands_alone(layer, call) for call in layer.calls):
            return None
        return layer

    def owns_its_weight(self, layer: Layer) -> bool:
        """Whether its parameters are read by its own calls alone."""
        allowed = {call.operation for call in layer.calls} | layer.inner
        own = {state for state in self.consumers if state.rpartition(".")[0] == layer.name}
        if layer.weight_norm is not None:
            own |= {f"{layer.name}.{leaf}" for leaf in (layer.weight_norm.gain, layer.weight_norm.direction)}
        return all(self.consumers[state] <= allowed for state in own)

    def _of_kind(self, node: Node, name: str, module: nn.Module) -> Layer | None:
        operation = op_name(node)
        if operation in ops.BATCH_NORM:
            plain = isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
            own = plain and self._state(node.args[1]) in (f"{name}.weight", None)
            return (
                Layer(name, module, "norm", calls=[_plain(node)]) if own and self._owned(node, name) else None
            )
        if operation in ops.RECURRENT:
            return self._recurrent(node, name, module)
        if operation in _PRODUCTS:
            return self._product(node, name, module)
        if operation in ops.LINEAR:
            return (
                self._weighted(node, Layer(name, module, "linear")) if isinstance(module, nn.Linear) else None
            )
        return self._convolution(node, name, module)

    def _convolution(self, node: Node, name: str, module: nn.Module) -> Layer | None:
        if not isinstance(module, nn.modules.conv._ConvNd):
            return None
        if node.meta["val"].dim() != len(module.kernel_size) + 2:
            return None  # without a batch, dimension 1 is no channel
        # Depthwise is the case of one channel per group: it goes as groups do.
        kind = "grouped" if module.groups > 1 else "conv"
        transposed = op_name(node) in ops.TRANSPOSED_CONVOLUTIONS
        return self._weighted(node, Layer(name, module, kind, transposed, groups=module.groups))

    def _weighted(self, node: Node, layer: Layer) -> Layer | None:
        """A convolution or linear layer, by where its weight comes from."""
        layer.calls.append(_plain(node))
        weight = node.args[1]
        if self._state(weight) == f"{layer.name}.weight":
            return layer
        layer.weight_norm = find_weight_norm(weight, layer.name, self.states)
        if layer.weight_norm is not None:
            layer.inner = {layer.weight_norm.node}
            return layer
        if op_name(node) in ops.CONVOLUTIONS:
            layer.inner = standardising(node, self.graph)
            layer.standardised = bool(layer.inner)
        return layer if layer.inner else None

    def _product(self, node: Node, name: str, module: nn.Module) -> Layer | None:
        """``addmm(bias, x, weight)`` between views, with a weight (inputs, outputs): the linear layer of GPT-2."""
        first = 1 if op_name(node) in ops.ADDED_PRODUCTS else 0
        x, weight = node.args[first], node.args[first + 1]
        if self._state(weight) != f"{name}.weight" or not isinstance(x, Node) or node.meta["val"].dim() != 2:
            return None
        # With other parameters, the module does something else besides.
        if not {leaf for leaf, _ in module.named_parameters()} <= {"weight", "bias"}:
            return None
        source, before = _walk(x, name, self.names, backwards=True)
        result, after = _walk(node, name, self.names, backwards=False)
        one, other = source.meta["val"].shape, result.meta["val"].shape
        # The views around the product must come to nothing: the same tensor but for its last dimension.
        if one[:-1] != other[:-1] or (one[-1], other[-1]) != weight.meta["val"].shape:  # type: ignore[union-attr]
            return None
        inner = {*before, *after, node}
        return Layer(name, module, "linear", True, [Call(source, node, result)], inner=inner)

    def _recurrent(self, node: Node, name: str, module: nn.Module) -> Layer | None:
        """Only its inputs can go: through the recurrence, each of its outputs depends on all of them."""
        if not isinstance(module, nn.RNNBase) or not isinstance(node.args[2], (list, tuple)):
            return None  # packed sequences have other arguments
        owned = all((self._state(weight) or "").startswith(f"{name}.") for weight in node.args[2])
        return Layer(name, module, "recurrent", calls=[_plain(node)]) if owned else None

    def _state(self, value: Any) -> str | None:
        return self.states.get(value) if isinstance(value, Node) else None

    def _owned(self, node: Node, name: str) -> bool:
        return all((self._state(value) or f"{name}.").startswith(f"{name}.") for value in node.args[1:5])

    def _stands_alone(self, layer: Layer, call: Call) -> bool:
        """The module adds nothing around the operation but padding."""
        # What a module computes before its operation would see a narrower tensor after a gather.
        source: Any = call.source
        while source.op == "call_function" and self.names.of(module_path(source)) == layer.name:
            if op_name(source) != "pad":
                return False
            source = source.args[0]
        # A norm only gathers before its forward, which may go on with an activation; and the results of a recurrent
        # layer are taken from a tuple in its forward.
        if layer.kind in ("norm", "recurrent"):
            return True
        return not any(_within(self.names.of(module_path(user)), layer.name) for user in call.result.users)


def _plain(node: Node) -> Call:
    source = node.args[0]
    assert isinstance(source, Node)
    return Call(source, node, node)


def _walk(node: Node, name: str, names: Names, *, backwards: bool) -> tuple[Node, list[Node]]:
    """Go through views inside of a module, to where the tensor came from or to what leaves it; with what was passed."""
    passed: list[Node] = []
    while True:
        around: Iterable[Node] = [node] if backwards else node.users
        nearest = next(iter(around), None)
        inside = (
            nearest is not None and op_name(nearest) in ops.VIEWS and names.of(module_path(nearest)) == name
        )
        if nearest is None or not inside or len(node.users) != 1:
            return node, passed
        passed.append(nearest)
        node = nearest.args[0] if backwards else nearest  # type: ignore[assignment]


def _within(path: str, name: str) -> bool:
    return f"{path}.".startswith(f"{name}.")


def as_list(values: Any) -> list[int]:
    """Plain integers, for plans that are saved as JSON."""
    return [int(value) for value in np.asarray(values).tolist()]
