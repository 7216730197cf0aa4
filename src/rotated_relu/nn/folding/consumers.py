"""Decide which slopes may act on the weights of their consumers; changes nothing.

Requires: a network that :func:`capture` accepts, in train mode too. Ensures: a :class:`Choice` that holds in both
modes. A gate is folded if everything that its output reaches, through operations that treat channels separately and
linearly, is the input of a convolution or linear layer that is called once. The operations on the way:

- dropout, which multiplies entries by the same random mask either way;
- average pooling, means and sums over other dimensions, zero padding, upsampling: linear in each channel;
- views, flattening, permutations, slices of other dimensions: they only move entries.

Not max-pooling (a negative slope would turn a maximum into a minimum), additions, concatenations, outputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.fx import Node

from ...core.modules import Inputs
from ...core.state import copy_of
from ...graph import ops
from ...graph.capture import Graph, capture, module_path, op_name
from ..activation import Rotated
from .modules import CONSUMERS, FOLDED


@dataclass(frozen=True)
class Fold:
    """One consumer of a folded gate: ``repeat`` consecutive input channels share a slope."""

    gate: str
    repeat: int


@dataclass
class Choice:
    """What becomes of each module, by qualified name.

    Attributes:
        folds: Consumers that always take the slope of one gate.
        fused: Gates that are not folded.
        fused_consumers: Convolutions and linear layers that read the output of a fused gate directly.
        in_place: Gates whose ReLU may overwrite its input: nobody else reads it, its writer does not keep it.
    """

    folds: dict[str, Fold]
    fused: set[str]
    fused_consumers: set[str]
    in_place: set[str]


class _InMode(nn.Module):
    """Calls a network in a mode of its own choice, whatever mode it is put into; norms keep their statistics."""

    def __init__(self, net: nn.Module, training: bool) -> None:
        super().__init__()
        self.net = net
        self.wanted = training

    def train(self, mode: bool = True) -> _InMode:
        self.net.train(self.wanted)
        for module in self.net.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                module.eval()
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.net(*args, **kwargs)


_PREFIX = "net."


def choose(net: nn.Module, example_inputs: Inputs) -> Choice:
    """Decide for every rotated activation of ``net``, which stays untouched.

    Raises:
        ShapeError: If the network does not run on the inputs.
        CaptureError: If ``torch.export`` cannot capture it.
    """
    modes = [_Mode(copy_of(net), example_inputs, training) for training in (False, True)]
    first, second = (mode.folds() for mode in modes)
    gates = [name for name, module in net.named_modules() if isinstance(module, Rotated)]
    folded = {gate for gate in gates if gate in first and first[gate] == second.get(gate)}
    folds = {consumer: fold for gate in folded for consumer, fold in first[gate].items()}
    fused = {gate for gate in gates if gate not in folded and type(net.get_submodule(gate)) in FOLDED}
    consumers = set.union(*(mode.direct_consumers(fused) for mode in modes)) - set(folds)
    in_place = set.intersection(*(mode.overwritable() for mode in modes)) & (folded | fused)
    return Choice(folds, fused, consumers, in_place)


def layers_behind(net: nn.Module, example_inputs: Inputs) -> dict[str, dict[str, Fold]]:
    """For every rotated activation of ``net``, in eval mode, the layers that sum over its channels.

    Raises:
        ShapeError: If the network does not run on the inputs.
        CaptureError: If ``torch.export`` cannot capture it.
    """
    return _Mode(copy_of(net), example_inputs, training=False).layers_behind()


@dataclass(frozen=True)
class _Layout:
    """Entry i along dimension ``dim`` belongs to channel i // repeat."""

    dim: int
    repeat: int


class _Mode:
    """The network captured in one mode."""

    def __init__(self, net: nn.Module, example_inputs: Inputs, training: bool) -> None:
        shell = _InMode(net, training)
        shell.requires_grad_(True)  # export tells parameters from constants by it
        self.graph: Graph = capture(shell, example_inputs)
        self.modules = dict(net.named_modules(remove_duplicate=False))
        self.names = {id(module): [] for module in self.modules.values()}  # type: dict[int, list[str]]
        for name, module in self.modules.items():
            self.names[id(module)].append(name)
        self.parameters = {
            _PREFIX + name: value for name, value in net.named_parameters(remove_duplicate=False)
        }
        self.owner = {
            node: _path(node) for node in self.graph.nodes if node.op == "call_function" and _path(node)
        }
        self.products = self._find_products()

    def folds(self) -> dict[str, dict[str, Fold]]:
        """Gates that can be folded, each with its consumers."""
        found = {}
        for gate, products in self.products.items():
            consumers = (
                self._consumers(gate, products[0]) if len(products) == 1 and self._once(gate) else None
            )
            if consumers:
                found[gate] = consumers
        return found

    def direct_consumers(self, gates: set[str]) -> set[str]:
        """Names of the layers that read the output of one of the gates as it is."""
        users = (user for gate in gates for product in self.products.get(gate, []) for user in product.users)
        return {name for user in users if (name := self._layer(user)) is not None}

    def overwritable(self) -> set[str]:
        """Gates called once whose plain ReLU may work in place."""
        found = set()
        for node in self.graph.nodes:
            gate = self.owner.get(node, "").removesuffix(".gate")
            module = self.modules.get(gate)
            if not isinstance(module, Rotated) or type(module.gate) is not nn.ReLU:
                continue
            called_once = (
                len(self.products.get(gate, [])) == 1 and self._once(gate) and self._once(f"{gate}.gate")
            )
            if called_once and op_name(node) == "relu" and self._is_spare(node.args[0]):
                found.add(gate)
        return found

    def _is_spare(self, node: Any) -> bool:
        """Whether a tensor has one consumer and its writer does not need it in the backward pass."""
        return (
            node.op == "call_function"
            and op_name(node) in _KEEP_NO_OUTPUT
            and len(node.users) == 1
            and node not in self.graph.outputs
        )

    def _find_products(self) -> dict[str, list[Node]]:
        """``slope * gate(x)`` of each rotated activation, one per call."""
        found: dict[str, list[Node]] = {}
        for node in self.graph.nodes:
            state = self.graph.states.get(node)
            if state is None:
                continue
            for name, module in self.modules.items():
                if isinstance(module, Rotated) and self.parameters.get(state) is module.slope:
                    found.setdefault(name, []).extend(_products(node))
        return found

    def _consumers(self, gate: str, product: Node) -> dict[str, Fold] | None:
        """All consumers of a gate's output, or None if one of them cannot take the slope."""
        if type(self.modules[gate]) not in FOLDED:
            return None
        found, others = self._reached(gate, product)
        return None if others else found

    def _reached(self, gate: str, product: Node) -> tuple[dict[str, Fold], bool]:
        """Layers that sum over a gate's channels, and whether anything else reads its output too."""
        module = self.modules[gate]
        assert isinstance(module, Rotated)
        start = _Layout(module.channel_dim % len(_shape(product)), 1)
        found: dict[str, Fold] = {}
        waiting, others = [(product, start)], False
        while waiting:
            node, layout = waiting.pop()
            others |= node in self.graph.outputs or not node.users
            for user in node.users:
                name = self._layer(user)
                after = None if name is not None else _moved(user, node, layout)
                if after is not None:
                    waiting.append((user, after))
                elif name and user.args[0] is node and name not in found and self._reads(user, node, layout):
                    found[name] = Fold(gate, layout.repeat)
                else:
                    others = True
        return found, others

    def layers_behind(self) -> dict[str, dict[str, Fold]]:
        """For every gate called once, the layers that sum over its channels, whatever else reads it."""
        return {
            gate: self._reached(gate, products[0])[0]
            for gate, products in self.products.items()
            if len(products) == 1
        }

    def _reads(self, consumer: Node, source: Node, layout: _Layout) -> bool:
        """Whether a layer is called once and sums over the dimension that holds the channels."""
        name = self.owner[consumer]
        calls = sum(1 for node, path in self.owner.items() if path == name and op_name(node) in _LAYERS)
        return calls == 1 and self._once(name) and layout.dim == _summed_dim(consumer, len(_shape(source)))

    def _layer(self, node: Node) -> str | None:
        """Name of the plain convolution or linear layer that a node is the call of."""
        if op_name(node) not in _LAYERS or node not in self.owner:
            return None
        name = self.owner[node]
        module = self.modules.get(name)
        weight = node.args[1] if len(node.args) > 1 else None
        own = module._parameters.get("weight") if module is not None and type(module) in CONSUMERS else None
        state = self.graph.states.get(weight) if isinstance(weight, Node) else None
        return name if own is not None and state is not None and self.parameters.get(state) is own else None

    def _once(self, name: str) -> bool:
        return len(self.names[id(self.modules[name])]) == 1


_LAYERS = ops.LINEAR | ops.CONVOLUTIONS
# Their backward passes read inputs and statistics, never the output.
_KEEP_NO_OUTPUT = (ops.NORMS - {"rms_norm"}) | {"add", "sub"} | _LAYERS
_SAME = frozenset(["dropout", "feature_dropout", "contiguous", "clone", "alias"])
_POOLS = ops.AVERAGE_POOLS | {f"upsample_nearest{dims}d" for dims in (1, 2, 3)}
_VIEWS = ops.VIEWS | {"flatten", "unflatten"}


def _path(node: Node) -> str:
    return module_path(node).removeprefix("net").removeprefix(".")


def _shape(node: Node) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def _summed_dim(layer: Node, rank: int) -> int | None:
    """Dimension that a layer sums over in an input of this rank; None for a convolution without a batch."""
    if op_name(layer) == "linear":
        return rank - 1
    return 1 if rank == int(op_name(layer)[-2]) + 2 else None


def _products(slope: Node) -> Iterator[Node]:
    """Follow a slope through casts and views to the multiplications."""
    for user in slope.users:
        if op_name(user) == "mul":
            yield user
        elif op_name(user) in ("to", "_to_copy", "view", "reshape", "alias"):
            yield from _products(user)


def _moved(user: Node, source: Node, layout: _Layout) -> _Layout | None:
    """Layout of the channels after an operation, or None if it does more than act on each channel linearly."""
    name, before = op_name(user), _shape(source)
    if user.op != "call_function" or user.args[0] is not source or user.all_input_nodes != [source]:
        return None
    if name in _SAME:
        return layout
    if name in _POOLS:
        return layout if layout.dim == 1 and len(before) == int(name[-2]) + 2 else None
    if name in ops.PADS:
        return _padded(user, before, layout)
    if name in ops.MEANS:
        return _averaged(user, before, layout)
    if name in _VIEWS:
        return _viewed(before, _shape(user), layout)
    if name in ("permute", "transpose"):
        return _permuted(user, before, layout)
    if name == "unsqueeze":
        behind = int(user.args[1]) % (len(before) + 1) > layout.dim  # type: ignore[arg-type]
        return layout if behind else _Layout(layout.dim + 1, layout.repeat)
    if name in ("slice", "select"):
        return _sliced(user, before, layout)
    return None


def _padded(user: Node, before: tuple[int, ...], layout: _Layout) -> _Layout | None:
    pads: Any = user.args[1]
    mode = user.args[2] if op_name(user) == "pad" and len(user.args) > 2 else "constant"
    value = user.args[3 if op_name(user) == "pad" else 2 :]
    constant = mode == "constant" and any(value)
    touches = layout.dim >= len(before) - len(pads) // 2 and any(
        pads[2 * (len(before) - 1 - layout.dim) :][:2]
    )
    return None if constant or touches else layout


def _averaged(user: Node, before: tuple[int, ...], layout: _Layout) -> _Layout | None:
    if len(user.args) < 2 or not isinstance(user.args[1], (list, tuple)) or user.kwargs:
        return None
    dims = [int(dim) % len(before) for dim in user.args[1]]  # type: ignore[arg-type]
    keep = len(user.args) > 2 and bool(user.args[2])
    if not dims or layout.dim in dims:
        return None
    return layout if keep else _Layout(layout.dim - sum(dim < layout.dim for dim in dims), layout.repeat)


def _viewed(before: tuple[int, ...], after: tuple[int, ...], layout: _Layout) -> _Layout | None:
    """The channel dimension may stay, or merge with dimensions behind it."""
    ahead = math.prod(before[: layout.dim])
    for dim, size in enumerate(after):
        if math.prod(after[:dim]) != ahead:
            continue
        for end in range(layout.dim + 1, len(before) + 1):
            merged = math.prod(before[layout.dim + 1 : end])
            if size == before[layout.dim] * merged:
                return _Layout(dim, layout.repeat * merged)
    return None


def _permuted(user: Node, before: tuple[int, ...], layout: _Layout) -> _Layout:
    rank = len(before)
    if op_name(user) == "permute":
        order = [int(dim) % rank for dim in user.args[1]]  # type: ignore[arg-type,union-attr]
    else:
        one, other = (int(dim) % rank for dim in user.args[1:3])  # type: ignore[arg-type]
        order = list(range(rank))
        order[one], order[other] = other, one
    return _Layout(order.index(layout.dim), layout.repeat)


def _sliced(user: Node, before: tuple[int, ...], layout: _Layout) -> _Layout | None:
    dim = int(user.args[1]) % len(before) if len(user.args) > 1 else 0  # type: ignore[arg-type]
    if dim == layout.dim:
        # A whole slice, as indexing with ":" leaves behind, takes everything.
        return layout if op_name(user) == "slice" and _shape(user) == before else None
    return layout if op_name(user) == "slice" or dim > layout.dim else _Layout(layout.dim - 1, layout.repeat)
