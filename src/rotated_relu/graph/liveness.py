"""Run a captured graph over reachability, forward and backward, and say what matters.

Forward zero means "this entry is always 0, its consumers can skip it". Backward zero means "nobody reads this entry,
its writer can skip it". Both passes work on patterns (see :mod:`.zero_patterns`); values are set back to 0 and 1 at
every node in both directions, so that long chains neither overflow nor vanish. Runs on the CPU in float32, whatever the
model's device: a pattern's sums of zeros are exactly zero there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from ..core.errors import SlopeError
from .capture import Graph, op_name
from .rule_failures import RuleFailures
from .zero_patterns.algebra import everything, pattern_of
from .zero_patterns.table import apply


@dataclass
class Liveness:
    """What a model's output depends on.

    Attributes:
        alive: For each node and each of its dimensions, a boolean vector: entries that may be non-zero and are read.
        relevant: For each parameter and float buffer (by qualified name) a boolean tensor of its shape. Setting all
            entries that are False to 0 does not change the output; see :func:`analyse` for other values.
        unhandled: Operations that fell back to "everything reaches everything", with their count.
        failures: Those of them whose handler failed, which is a bug.
    """

    alive: dict[Node, list[Tensor]] = field(default_factory=dict)
    relevant: dict[str, Tensor] = field(default_factory=dict)
    unhandled: Counter[str] = field(default_factory=Counter)
    failures: RuleFailures = field(default_factory=RuleFailures)

    def needed(self, name: str, states: Mapping[str, Tensor]) -> Tensor:
        """Entries of a parameter or buffer that are relevant and not zero: boolean, of its shape, on the CPU."""
        return self.relevant[name] & (states[name].detach().cpu() != 0)


class _Binarise(torch.autograd.Function):
    """0/1 in both directions; backward also notes which entries are alive (non-zero and read)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, node: Node, liveness: Liveness) -> Tensor:
        binary = (x > 0).to(torch.float32)
        ctx.save_for_backward(binary)
        ctx.node, ctx.liveness = node, liveness
        return binary

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        # Only whether anything reads it: a count would overflow along a deep network.
        read = (grads[0] > 0).to(torch.float32)
        (binary,) = ctx.saved_tensors
        ctx.liveness.alive[ctx.node] = _per_dimension(binary * read)
        return read, None, None


def _per_dimension(both: Tensor) -> list[Tensor]:
    """Reduce an alive pattern to one boolean vector per dimension."""
    if both.dim() == 0:
        return []
    return [
        both.sum([other for other in range(both.dim()) if other != dim]) > 0 if both.dim() > 1 else both > 0
        for dim in range(both.dim())
    ]


def analyse(
    graph: Graph,
    states: Mapping[str, Tensor],
    *,
    arbitrary: bool = False,
    known: Mapping[str, Tensor] = MappingProxyType({}),
) -> Liveness:
    """Find what the output of a captured model depends on.

    Args:
        graph: From :func:`rotated_relu.graph.capture.capture`.
        states: The model's parameters and buffers by qualified name (their zeros count, e.g. slopes set to 0).
        arbitrary: Ask for more: *all* entries that are not relevant may be replaced at once by any values. Two zeros in
            a row are each irrelevant because of the other, but not both, so this costs a second pass: with everything
            irrelevant taken as non-zero, what has become relevant keeps its zero. Fewer entries can only reach less,
            so two passes are enough.
        known: Patterns of some of these, from :func:`state_patterns`: who analyses a network again and again has them.

    Returns:
        :class:`Liveness`.

    Raises:
        SlopeError: If a parameter or float buffer is NaN or infinite: nothing can be said about such a network.
    """
    liveness = Liveness()
    patterns = {**state_patterns(graph, states, but=known), **known}
    leaves = {name: pattern.detach().requires_grad_() for name, pattern in patterns.items()}
    _both_passes(graph, states, leaves, liveness)
    # Each entry alone may be anything, given the others as they are. All at once is a stronger question.
    if arbitrary:
        replaced = {
            name: torch.where(liveness.relevant[name], leaf.detach(), 1.0).requires_grad_()
            for name, leaf in leaves.items()
        }
        wider = Liveness()
        _both_passes(graph, states, replaced, wider)
        liveness.relevant = {name: mask | wider.relevant[name] for name, mask in liveness.relevant.items()}
    return liveness


def _both_passes(
    graph: Graph, states: Mapping[str, Tensor], leaves: Mapping[str, Tensor], liveness: Liveness
) -> None:
    for name, leaf in leaves.items():
        liveness.relevant[name] = torch.zeros(leaf.shape, dtype=torch.bool)
        note = _note_relevant(name, liveness)
        leaf.register_post_accumulate_grad_hook(note)  # type: ignore[no-untyped-call]
    with torch.enable_grad():
        environment = _forward(graph, states, leaves, liveness)
        outputs = [environment[node] for node in graph.outputs if isinstance(environment.get(node), Tensor)]
        # All outputs count alike: an entry is read if any of them depends on it.
        total = sum((out.sum() for out in outputs if out.requires_grad), start=torch.zeros(()))
        if total.requires_grad:
            total.backward()
    _join_tied(states, liveness.relevant)
    _complete(graph, liveness)


def _note_relevant(name: str, liveness: Liveness) -> Callable[[Tensor], None]:
    """Keep one bit of each gradient as soon as it is there: all gradients at once would double the memory."""

    def note(leaf: Tensor) -> None:
        if leaf.grad is not None:
            liveness.relevant[name] = leaf.grad > 0
            leaf.grad = None

    return note


def _join_tied(states: Mapping[str, Tensor], relevant: dict[str, Tensor]) -> None:
    """A tensor with several names matters where any of them does; the graph reads it under one of them only."""
    joined: dict[int, Tensor] = {}
    for name, mask in relevant.items():
        joined[id(states[name])] = joined.get(id(states[name]), mask) | mask
    for name, value in states.items():
        if id(value) in joined:
            relevant[name] = joined[id(value)]


def _is_float(value: Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


def state_patterns(
    graph: Graph, states: Mapping[str, Tensor], but: Collection[str] = ()
) -> dict[str, Tensor]:
    """By name, where the parameters and float buffers of a captured model are not 0, as 0 and 1 on the CPU.

    Args:
        graph: Of the model.
        states: Its parameters and buffers by qualified name.
        but: Names to leave out.

    Raises:
        SlopeError: As :func:`analyse`.
    """
    names = [name for name in graph.states.values() if _is_float(states[name]) and name not in but]
    return {name: _state_pattern(name, states[name]) for name in names}


def _state_pattern(name: str, value: Tensor) -> Tensor:
    if not bool(torch.isfinite(value).all()):
        raise SlopeError(f"{name} holds NaN or infinite values; retrain or restore it before compacting")
    pattern: Tensor = pattern_of(value)
    return pattern


def _forward(
    graph: Graph, states: Mapping[str, Tensor], leaves: Mapping[str, Tensor], liveness: Liveness
) -> dict[Node, Any]:
    """Evaluate the graph: patterns where a node varies, real values where it is constant."""
    environment: dict[Node, Any] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            environment[node] = _placeholder(node, graph, states, leaves, liveness)
        elif node not in graph.varying:
            environment[node] = _concrete(node, environment)
        else:
            environment[node] = _step(node, environment, graph.varying, liveness)
    return environment


def _placeholder(
    node: Node, graph: Graph, states: Mapping[str, Tensor], leaves: Mapping[str, Tensor], liveness: Liveness
) -> Any:
    if node in graph.inputs:
        value = graph.inputs[node]
        return torch.ones(value.shape, requires_grad=True) if isinstance(value, Tensor) else value
    if node in graph.constants:
        return graph.constants[node]
    name = graph.states[node]
    return leaves[name] if name in leaves else states[name]


def _concrete(node: Node, environment: Mapping[Node, Any]) -> Any:
    target: Any = node.target
    args = map_arg(node.args, environment.__getitem__)
    kwargs = map_arg(node.kwargs, environment.__getitem__)
    with torch.no_grad():
        return target(*args, **kwargs)


def _step(node: Node, environment: Mapping[Node, Any], varying: set[Node], liveness: Liveness) -> Any:
    """One varying node: its handler, or the sound default where that fails or changes the shape."""

    def value(source: Node) -> Any:
        found = environment[source]
        # Constants that are indices keep their values: a pattern of them would name other entries.
        if source in varying or not isinstance(found, Tensor) or _is_index(found):
            return found
        return pattern_of(found)

    args, kwargs = map_arg(node.args, value), map_arg(node.kwargs, value)
    try:
        result = apply(node, args, kwargs)
        _check_shapes(node.meta.get("val"), result)
    except Exception as error:
        if not isinstance(
            error, NotImplementedError
        ):  # how a handler says that it does not cover the arguments
            liveness.failures.note(node, "zero-pattern rule", error)
        liveness.unhandled[op_name(node)] += 1
        sources = [environment[source] for source in node.all_input_nodes if source in varying]
        result = everything(node.meta["val"], list(_tensors(sources)))
    if isinstance(result, Tensor):
        return _Binarise.apply(result, node, liveness)
    return result


def _is_index(value: Tensor) -> bool:
    return not value.is_floating_point() and value.dtype != torch.bool


def _tensors(values: Any) -> Any:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _check_shapes(expected: Any, result: Any) -> None:
    if isinstance(expected, Tensor) and (not isinstance(result, Tensor) or result.shape != expected.shape):
        raise ValueError("the handler's result has another shape than the operation's")


def _complete(graph: Graph, liveness: Liveness) -> None:
    """Nodes that the backward pass never reached are not read at all."""
    for node in graph.nodes:
        value = node.meta.get("val")
        if node.op == "call_function" and isinstance(value, Tensor) and node not in liveness.alive:
            read_whole = node not in graph.varying
            liveness.alive[node] = [torch.full((size,), read_whole) for size in value.shape]
