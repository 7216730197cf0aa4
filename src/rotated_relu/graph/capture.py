"""Capture a model as one flat, functional graph of ATen operations; the only place that calls ``torch.export``.

Requires: a module that ``torch.export`` accepts in eval mode, and example inputs of the right shape and device.
Ensures: :class:`Graph`, whose nodes are in execution order, where no node that depends on inputs or parameters
mutates another one (``relu_`` has become ``relu``), and where each parameter, buffer and module call keeps its
qualified name. The model is as before: training flags, buffers, caches, lists. What its ``forward`` changes for the
next call (a running memory) counts as an output, and as an input of unknown value.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from ..core.errors import CaptureError
from ..core.modules import Call, Flat, Inputs, as_inputs, first_line
from ..core.state import check_fit, ordinary, ordinary_tensors, trial
from . import ops


@dataclass
class Graph:
    """A captured model.

    Attributes:
        nodes: Operations, placeholders first, in execution order (no ``get_attr``, no output node).
        outputs: The nodes that the model returns, flattened.
        inputs: The user's inputs, placeholder node to example tensor.
        states: Parameter and buffer placeholders to their qualified names.
        constants: Tensors created in ``forward`` and lifted by the export, placeholder to value.
        varying: Nodes whose value depends on a user input, a parameter or a floating-point buffer.
    """

    nodes: list[Node]
    outputs: list[Node]
    inputs: dict[Node, Any]
    states: dict[Node, str]
    constants: dict[Node, Any]
    varying: set[Node] = field(default_factory=set)


def op_name(node: Node) -> str:
    """Name of a node's operation: ``conv2d``, ``add``, ``getitem``; with its namespace if it is not torch's own."""
    return ops.target_name(node.target)


def module_path(node: Node) -> str:
    """Qualified name of the innermost module call that a node belongs to ('' for the root)."""
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def module_paths(node: Node) -> list[str]:
    """Qualified names of all module calls around a node, outermost first."""
    return [str(path) for path, _ in (node.meta.get("nn_module_stack") or {}).values()]


def describe(node: Node) -> str:
    """Operation and place of a node, for messages: ``view in layer1.0``."""
    path = module_path(node)
    return f"{op_name(node)} in {path}" if path else f"{op_name(node)} in the model's forward"


def capture(model: nn.Module, example_inputs: Inputs) -> Graph:
    """Capture ``model`` in eval mode as a :class:`Graph`.

    Args:
        model: Any module that ``torch.export`` accepts.
        example_inputs: As in :func:`rotated_relu.rotate`; shapes are static in the graph.

    Raises:
        ShapeError: If the model itself does not run on the inputs (wrong shape, dtype or device).
        CaptureError: If the model runs but cannot be exported; names the operation and the module where known.
    """
    call = as_inputs(example_inputs)
    model = ordinary(model)
    check_fit(model, call)
    # From the state before that run: what it left in a cache would be a constant here.
    with ordinary_tensors(), trial(model):
        return capture_trial_copy(model, call)


def capture_trial_copy(model: nn.Module, call: Call) -> Graph:
    """Capture a network in the mode that it is in, without a trial run before and without putting its state back.

    Args:
        model: A network that runs on the inputs and whose state the caller puts back or throws away.
        call: The arguments of one forward pass.

    Raises:
        CaptureError: As :func:`capture`.
    """
    call = call.copied()
    # As the root, a GraphModule would lose which module each operation belongs to; and see Flat.
    program = _export(_Carrying(model, call), tuple(call.tensors))
    _unshell(program)  # once: a child of the model may have the same name
    if any(node.op == "get_attr" for node in program.graph.nodes):  # an autocast block has a graph of its own
        program = program.run_decompositions({})
    try:
        return _functional(_read(program, model, call))
    except _NeedsDecomposition:
        return _functional(_read(program.run_decompositions({}), model, call))


class _Carrying(Flat):
    """Writes buffers that ``forward`` replaces into the old ones: torch sees a replacement at the root alone."""

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        before = [
            (module, name, value) for module in self.modules() for name, value in module._buffers.items()
        ]
        outputs = super().forward(*tensors)
        for module, name, value in before:
            now = module._buffers.get(name)
            if value is not None and now is not None and now is not value and now.shape == value.shape:
                module._buffers[name] = value.copy_(now)
        return outputs


def _unshell(program: torch.export.ExportedProgram) -> None:
    """Take the module around the model out of the nodes' module stacks."""
    for node in program.graph.nodes:
        stack = node.meta.get("nn_module_stack") or {}
        node.meta["nn_module_stack"] = {
            key: (path.removeprefix("inner").removeprefix("."), kind)
            for key, (path, kind) in stack.items()
            if path != "inner"
        }


_UNSEEN = (
    "forward computes a tensor where torch cannot see it, as in an assignment to the .data of a parameter"
)


def check_static(graph: Graph) -> None:
    """Raise unless all shapes in a graph are numbers, as liveness needs them.

    Raises:
        CaptureError: Naming the first operation whose result has a shape that depends on values.
    """
    for node in graph.nodes:
        leaves = torch.utils._pytree.tree_leaves(node.meta.get("val"))
        if any(isinstance(leaf, Tensor) and not all(type(n) is int for n in leaf.shape) for leaf in leaves):
            raise CaptureError(
                f"how many entries {describe(node)} returns depends on values (a boolean mask, nonzero): which "
                "channels matter cannot be told from one graph. Index with positions that __init__ computes once, or "
                "compact the submodule before that operation"
            )


def _export(flat: Flat, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    try:
        # Where a shape depends on values, torch prints the whole graph.
        quiet = io.StringIO()
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(quiet),
            contextlib.redirect_stderr(quiet),
            _without_stack_traces(),
        ):
            warnings.simplefilter("ignore")
            return torch.export.export(flat, inputs, strict=False)
    except Exception as error:
        model = flat.inner
        unseen = "fake tensor in the exported program constant" in str(error)
        scripts = [name for name, part in model.named_modules() if isinstance(part, torch.jit.ScriptModule)]
        reason = _UNSEEN if unseen else first_line(error)
        if scripts:
            reason = f"{scripts[0] or 'the network'} went through torch.jit, which hides what it computes"
        raise CaptureError(
            f"torch.export cannot capture {type(model).__name__}: {reason}{_culprit(error, model)}; "
            "replace the data-dependent Python in that module, or compact the submodule that can be exported"
        ) from error


@contextlib.contextmanager
def _without_stack_traces() -> Iterator[None]:
    """Let nodes come without the stack of Python calls that made them: nobody reads it, and it takes a fifth of the
    time of an export."""
    config: Any = torch.fx.config
    before = config.do_not_emit_stack_traces
    config.do_not_emit_stack_traces = True
    try:
        yield
    finally:
        config.do_not_emit_stack_traces = before


def _culprit(error: BaseException, model: nn.Module) -> str:
    """Name the module and source line in which the export failed, from the traceback's own frames."""
    names = {id(module): name for name, module in model.named_modules()}
    found, trace = "", error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        if trace.tb_frame.f_code.co_name == "forward" and id(owner) in names:
            place = names[id(owner)] or "the root module"
            code = trace.tb_frame.f_code
            found = f" (in {place}, {type(owner).__name__}.forward, {code.co_filename}:{trace.tb_lineno})"
        trace = trace.tb_next
    return found


def _read(program: torch.export.ExportedProgram, model: nn.Module, call: Call) -> Graph:
    """Sort the program's placeholders into inputs, states and constants, and drop bookkeeping nodes."""
    signature = program.graph_signature
    states = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    states = {key: name.removeprefix(Flat.prefix) for key, name in states.items()}
    changed = {**signature.buffers_to_mutate, **signature.parameters_to_mutate}
    carried = {name.removeprefix(Flat.prefix) for name in changed.values()}
    lifted = signature.inputs_to_lifted_tensor_constants
    leaves = iter(call.tensors)
    graph = Graph([], [], {}, {}, {})
    for node in list(program.graph.nodes):
        if op_name(node) in ops.CHECKS:
            program.graph.erase_node(node)
        elif node.op == "placeholder":
            if states.get(node.name) in carried:
                graph.inputs[node] = node.meta["val"]
            elif node.name in states:
                graph.states[node] = states[node.name]
            elif node.name in lifted:
                graph.constants[node] = program.constants[lifted[node.name]]
            else:
                graph.inputs[node] = next(leaves)
            graph.nodes.append(node)
        elif node.op == "call_function":
            graph.nodes.append(node)
        elif node.op == "get_attr":
            raise CaptureError(
                f"the exported graph calls a subgraph ({node.target}): control flow is not supported"
            )
        elif node.op == "output":
            user = {*signature.user_outputs, *changed}
            leaves_out = torch.utils._pytree.tree_leaves(node.args)
            graph.outputs = [leaf for leaf in leaves_out if isinstance(leaf, Node) and leaf.name in user]
    _mark_varying(graph, dict(model.named_parameters(remove_duplicate=False)))
    return _with_batch_norms(graph)


def _mark_varying(graph: Graph, parameters: dict[str, nn.Parameter]) -> None:
    """Integer buffers (position tables) are constants; float buffers and parameters are not."""
    for node in graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder":
            state = graph.states.get(node)
            is_float = isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())
            if node in graph.inputs or (state is not None and (state in parameters or is_float)):
                graph.varying.add(node)
        elif op_name(node) not in ops.SHAPE_READS and any(
            source in graph.varying for source in node.all_input_nodes
        ):
            graph.varying.add(node)


class _NeedsDecomposition(Exception):
    """A varying tensor is written through a view: let torch functionalise the graph."""


def _functional(graph: Graph) -> Graph:
    """Turn in-place operations on varying tensors into functional ones, and redirect later consumers.

    A later consumer of the mutated tensor, or of an identity alias of it, reads the result instead. Writing through a
    partial view (``x[:, 0] = y``) is left to torch's own functionalisation.
    """
    family = _alias_families(graph)
    order = {node: position for position, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if node in graph.varying and _writes_elsewhere(node):
            raise _NeedsDecomposition
        if _mutates(node) and _first_of(family, node) in graph.states:
            raise _NeedsDecomposition  # a buffer that is another one for the next call
        if node not in graph.varying or not _mutates(node):
            continue
        mutated = node.args[0]
        assert isinstance(mutated, Node)
        for other in family[family_root(family, mutated)].members:
            consumers = [user for user in other.users if order.get(user, len(order)) > order[node]]
            readers_out = other in graph.outputs
            if other is node or (not consumers and not readers_out):
                continue
            if not _same_values(other, mutated):
                raise _NeedsDecomposition
            for user in consumers:
                user.replace_input_with(other, node)
            graph.outputs = [node if out is other else out for out in graph.outputs]
        node.target = _out_of_place(node)
    return _with_copies(graph)


def _with_batch_norms(graph: Graph) -> Graph:
    """Put back ``batch_norm`` where torch's functionalisation left its inner operation, which returns a tuple."""
    for node in list(graph.nodes):
        source = node.args[0] if node.args else None
        inner = isinstance(source, Node) and op_name(source) == "_native_batch_norm_legit_no_training"
        if op_name(node) != "getitem" or not inner or node.args[1] != 0:
            continue
        assert isinstance(source, Node)
        *operands, momentum, eps = source.args
        source.target = torch.ops.aten.batch_norm.default
        source.args = (*operands, False, momentum, eps, False)
        source.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(source)
        graph.outputs = [source if out is node else out for out in graph.outputs]
        graph.nodes.remove(node)
    return graph


def _with_copies(graph: Graph) -> Graph:
    """Say of ``copy(target, source)`` that it is the source, in the shape of the target."""
    for node in graph.nodes:
        if op_name(node) != "copy" or node.op != "call_function":
            continue
        target, source = node.args[:2]
        assert isinstance(target, Node)
        assert isinstance(source, Node)
        same = target.meta["val"].shape == source.meta["val"].shape
        node.target = torch.ops.aten.alias.default if same else torch.ops.aten.expand_as.default
        node.args = (source,) if same else (source, target)
        node.kwargs = {}
    return graph


def _first_of(family: dict[Node, _Family], node: Node) -> Node | None:
    mutated = node.args[0]
    return family_root(family, mutated) if isinstance(mutated, Node) else None


@dataclass
class _Family:
    parent: Node
    members: list[Node]


def _alias_families(graph: Graph) -> dict[Node, _Family]:
    """Group nodes that may share memory. An in-place result shares with its first argument."""
    family: dict[Node, _Family] = {}
    for node in graph.nodes:
        family[node] = _Family(node, [node])
        if node.op != "call_function" or not node.args or not isinstance(node.args[0], Node):
            continue
        if op_name(node) in ops.MAY_ALIAS or _mutates(node):
            root = family_root(family, node.args[0])
            family[node] = _Family(root, [])
            family[root].members.append(node)
    return family


def family_root(family: dict[Node, _Family], node: Node) -> Node:
    """First node of a family of aliases."""
    while family[node].parent is not node:
        node = family[node].parent
    return node


def _same_values(one: Node, other: Node) -> bool:
    """Whether two aliases are connected by identity operations (and in-place writes) alone."""
    return _identity_root(one) is _identity_root(other)


def _identity_root(node: Node) -> Node:
    while node.op == "call_function" and (
        op_name(node) in ops.IDENTITIES or _mutates(node) or _was_in_place(node)
    ):
        source = node.args[0]
        assert isinstance(source, Node)
        node = source
    return node


def _writes_elsewhere(node: Node) -> bool:
    """Whether an operation (of the user's own, as a rule) changes arguments, but is none of torch's ``relu_`` kind."""
    schema = getattr(node.target, "_schema", None)
    return bool(
        schema is not None
        and schema.is_mutable
        and (not op_name(node).endswith("_") or "::" in op_name(node))
    )


def _mutates(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return bool(schema is not None and schema.is_mutable and op_name(node).endswith("_"))


def _was_in_place(node: Node) -> bool:
    return bool(node.meta.get("rotated_relu_in_place", False))


def _out_of_place(node: Node) -> Any:
    """The functional overload of an in-place operation: ``aten.add_.Tensor`` to ``aten.add.Tensor``."""
    name, overload = op_name(node)[:-1], getattr(node.target, "_overloadname", "default")
    packet = getattr(torch.ops.aten, name, None)
    functional = getattr(packet, overload, None) if packet is not None else None
    if functional is None:
        raise _NeedsDecomposition
    node.meta["rotated_relu_in_place"] = True
    return functional
