"""Recognise gates in a recording: functions of one tensor with g(0) = 0 that let one sign pass and hold the other back.

Three kinds: torch's own activations by name; products and selections that together compute such a function of one
tensor (``x * sigmoid(x)``, ``relu(x) ** 2``, ``where(x > 0, x, 0.1 * x)``), recognised by what they compute; and what
the user names. Tanh and other functions that are odd are taken only if named.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..core.errors import GateError
from ..core.modules import first_line
from .channel_dims import read_as, reads
from .dispatch import ACTIVATIONS, function_name
from .recording import SCRIPT, Call, Recording, Run, Value, within_rotated

# Work on each entry by itself.
_ELEMENTWISE = ACTIVATIONS | frozenset(
    "add radd iadd sub rsub isub mul div rdiv truediv rtruediv itruediv true_divide divide neg negative pow rpow "
    "float_power square sqrt rsqrt exp expm1 exp2 log log1p sigmoid tanh erf erfc softplus logsigmoid hardsigmoid "
    "softsign tanhshrink hardshrink softshrink threshold sin cos atan arctan sign abs absolute clamp clip clamp_min "
    "clamp_max where maximum minimum max min gt lt ge le eq ne to float half double bfloat16 type type_as contiguous "
    "clone reciprocal logical_not heaviside addcmul module".split()
)
_PRODUCTS = frozenset(["mul", "div", "truediv", "true_divide", "divide", "pow", "square"])
_SELECTIONS = frozenset("where maximum minimum max min clamp clip clamp_min clamp_max threshold".split())
_LINEAR = frozenset("add radd iadd sub rsub isub mul neg to float contiguous clone".split())
_SCALINGS = _LINEAR | {"div", "truediv", "true_divide", "divide"}
# No argument makes them anything but 0 at 0.
_ZERO_AT_ZERO = frozenset("relu relu6 gelu silu hardswish mish leaky_relu elu selu celu".split())
# Nonlinear, but not rectifiers: on the way between two layers they are worth a word.
_OTHER_ACTIVATIONS = frozenset(
    "sigmoid tanh softplus logsigmoid hardsigmoid softsign tanhshrink softshrink".split()
)
_LARGE = 20.0
_LONGEST = 40  # calls of a gate that is written out


@dataclass(eq=False)
class Gate:
    """One execution of a gate.

    Attributes:
        call: The call whose result is the gate's.
        source: What the gate is a function of.
        region: All calls that compute it.
        run: The run of the module that is the gate and nothing else, if there is one.
    """

    call: Call
    source: Value
    region: set[Call] = field(default_factory=set)
    run: Run | None = None

    @property
    def output(self) -> Value:
        """Its result."""
        return self.call.outputs[0]


@dataclass(frozen=True)
class Named:
    """Gates that the user names: classes of modules, torch functions by name, and Python functions by their code."""

    classes: tuple[type[nn.Module], ...] = ()
    names: frozenset[str] = frozenset()
    functions: tuple[Callable[..., Any], ...] = ()

    @classmethod
    def of(cls, gates: Collection[Any]) -> Named:
        """Sort what the user names.

        Raises:
            GateError: If something is neither a class of modules nor a function.
        """
        classes, names, functions = [], [], []
        for gate in gates:
            if isinstance(gate, type) and issubclass(gate, nn.Module):
                classes.append(gate)
            elif not callable(gate) or isinstance(gate, (nn.Module, type)):
                raise GateError(
                    f"gates must hold classes of modules and functions, got {gate!r}: pass its class"
                )
            elif not hasattr(gate, "__code__") or str(getattr(gate, "__module__", "")).startswith("torch"):
                names.append(function_name(gate))
            else:
                functions.append(gate)
        return cls(tuple(classes), frozenset(names), tuple(functions))


def find_gates(recording: Recording, named: Named) -> list[Gate]:
    """All gates of a recording, in execution order; those inside rotated activations are not among them.

    Raises:
        GateError: If a gate that the user names has g(0) other than 0.
    """
    chosen = _named_gates(recording, named)
    inside = {call for gate in chosen for call in gate.region}
    found: dict[Call, Gate] = {}
    for call in recording.calls:
        if call in inside or call.output is None or within_rotated(call.run):
            continue
        if 0 in call.output.shape:  # no channel to scale
            continue
        gate = _gate_at(call, found)
        if gate is None:
            continue
        inner = [found[part] for part in gate.region if part in found and part is not call]
        if all(user in gate.region for part in inner for user in part.output.users):
            for part in inner:
                del found[part.call]
            found[call] = gate
    gates = sorted([*found.values(), *chosen], key=lambda gate: gate.call.number)
    for gate in gates:
        gate.run = gate.run or _whole_module(gate, recording)
    return gates


def _gate_at(call: Call, found: dict[Call, Gate]) -> Gate | None:
    """The gate whose last step is this call."""
    if call.name in ACTIVATIONS and call.args and isinstance(call.args[0], Value):
        gate = Gate(call, call.args[0], {call})
        zero = call.name in _ZERO_AT_ZERO or _zero_at_zero(gate)
        return gate if call.inputs == [gate.source] and zero else None
    if call.opaque:
        return _opaque_gate(call)
    if call.name in _PRODUCTS | _SELECTIONS:
        return _written_out(call, found)
    return None


def _opaque_gate(call: Call) -> Gate | None:
    """A module without children, or a script function of one tensor, that computes a gate."""
    gate = Gate(call, call.inputs[0], {call})
    alone = len(call.inputs) == 1 if call.name == SCRIPT else not list(call.run.module.children())
    found = (
        alone and call.output is not None and _same_shape(gate) and _rectifies(gate) and _elementwise(gate)
    )
    return gate if found else None


def _written_out(call: Call, found: dict[Call, Gate]) -> Gate | None:
    """Walk back from a product or selection until it depends on one tensor only, and look at what it computes."""
    region, frontier = {call}, set(call.inputs)
    while len(region) < _LONGEST:
        newest = max(frontier, key=lambda value: value.number)
        if len(frontier) == 1:
            gate = Gate(call, newest, set(region))
            nonlinear = any(part.name not in _LINEAR for part in region) or len(call.inputs) > 1
            if nonlinear and _same_shape(gate) and _rectifies(gate):
                return gate if call.name in _PRODUCTS or _feeds_layer(gate.output) else None
            if newest.call in found and _is_linear(gate):
                return None  # a gate's result, scaled
        before = newest.call
        if (
            before is None
            or before.name not in _ELEMENTWISE
            or before.output is not newest
            or _mutates_other(before)
        ):
            return None
        region.add(before)
        frontier = (frontier - {newest}) | set(before.inputs)
    return None


def _mutates_other(call: Call) -> bool:
    return call.in_place and not isinstance(call.args[0], Value)


def _feeds_layer(value: Value) -> bool:
    return bool(value.users) and bool(read_as(value, limit=40))


def _whole_module(gate: Gate, recording: Recording) -> Run | None:
    """The innermost module that computes the gate and nothing else; a scaling behind it or a cast before it is part."""
    run = gate.call.run
    leaf = run.parent is not None and not list(run.module.children())
    if not leaf or run.output is None or len(run.inputs) != 1:
        return None
    last, source, region = gate.output, gate.source, set(gate.region)
    while last is not run.output:
        user = last.users[0] if len(last.users) == 1 else None
        if user is None or user.run is not run or user.name not in _SCALINGS or user.inputs != [last]:
            return None
        region.add(user)
        last = user.outputs[0]
    while source is not run.inputs[0]:
        before = source.call
        if (
            before is None
            or before.run is not run
            or before.name not in _ELEMENTWISE
            or len(before.inputs) != 1
        ):
            return None
        region.add(before)
        source = before.inputs[0]
    assert last.call is not None
    whole = Gate(last.call, source, region, run)
    if (
        not set(recording.calls[slice(*run.calls)]) <= region
        or not _same_shape(whole)
        or not _zero_at_zero(whole)
    ):
        return None
    gate.call, gate.source, gate.region = whole.call, whole.source, whole.region
    return run


# --- what a region computes ----------------------------------------------------------------------------------------


def evaluate(gate: Gate, source: Tensor) -> Tensor:
    """The gate's function at another source, of the same shape."""
    values: dict[Any, Any] = {gate.source: source}
    with torch.no_grad():
        for call in sorted(gate.region, key=lambda part: part.number):
            args, kwargs = tree_map(
                lambda leaf: values.get(leaf, leaf) if isinstance(leaf, Value) else leaf,
                (call.args, call.kwargs),
            )
            if call.in_place:
                args = (args[0].clone(), *args[1:])
            values[call.outputs[0]] = call.func(*args, **kwargs)
    result: Tensor = values[gate.output]
    return result


def _at(gate: Gate, fill: float) -> Tensor:
    source = gate.source
    return evaluate(gate, torch.full(source.shape, fill, dtype=source.dtype, device=source.device))


def _zero_at_zero(gate: Gate) -> bool:
    return gate.source.dtype.is_floating_point and bool((_at(gate, 0.0) == 0).all())


def _same_shape(gate: Gate) -> bool:
    return gate.source.shape == gate.output.shape and gate.source.dtype.is_floating_point


def _rectifies(gate: Gate) -> bool:
    """Zero at zero, and clearly smaller on one side than on the other."""
    try:
        zero, high, low = (_at(gate, fill) for fill in (0.0, _LARGE, -_LARGE))
    except Exception:  # a function that was torn from its context need not run
        return False
    high, low = high.abs(), low.abs()
    one_sided = bool((low < 0.5 * high).all()) or bool((high < 0.5 * low).all())
    return bool((zero == 0).all()) and one_sided and bool((high + low).isfinite().all())


def _is_linear(gate: Gate) -> bool:
    try:
        one, two, minus = (_at(gate, fill) for fill in (1.0, 2.0, -1.0))
    except Exception:
        return False
    return torch.allclose(two, 2 * one) and torch.allclose(minus, -one)


def _elementwise(gate: Gate) -> bool:
    """For a module that shows nothing of its work: each result depends on its own entry only."""
    shape, dtype, device = gate.source.shape, gate.source.dtype, gate.source.device
    count = torch.Size(shape).numel()
    mixed = torch.where(torch.arange(count, device=device) % 2 == 0, 1.0, -2.0).to(dtype).reshape(shape)
    expected = torch.where(mixed > 0, _at(gate, 1.0), _at(gate, -2.0))
    return torch.allclose(evaluate(gate, mixed), expected)


# --- what the user names -------------------------------------------------------------------------------------------


def _named_gates(recording: Recording, named: Named) -> list[Gate]:
    gates = []
    for run in recording.runs:
        if isinstance(run.module, named.classes) and _one_to_one(run) and not within_rotated(run):
            assert run.output is not None
            assert run.output.call is not None
            gates.append(Gate(run.output.call, run.inputs[0], set(recording.calls[slice(*run.calls)]), run))
    for call in recording.calls:
        if call.name in named.names and call.output is not None and not within_rotated(call.run):
            gates.append(Gate(call, call.inputs[0], {call}))
    for _, start, end, value in recording.returned:
        inside = set(recording.calls[start:end])
        outer = [v for call in inside for v in call.inputs if v.call not in inside]
        if value.call is not None and value.call in inside and outer:
            gates.append(Gate(value.call, outer[0], inside))
    for gate in gates:
        _check_named(gate)
    return gates


def _one_to_one(run: Run) -> bool:
    made_by_call = run.output is not None and run.output.call is not None
    return made_by_call and len(run.inputs) == 1 and run.output.shape == run.inputs[0].shape  # type: ignore[union-attr]


def _check_named(gate: Gate) -> None:
    what = type(gate.run.module).__name__ if gate.run else gate.call.name
    try:
        value = float(_at(gate, 0.0).abs().max())
    except Exception as error:
        raise GateError(
            f"{what} is not a function of one tensor, entry by entry: {first_line(error)}; take it out of gates"
        ) from error
    if not value == 0:
        raise GateError(
            f"{what} cannot be rotated: gate(0) = {value:g}, but it must be 0; take it out of gates"
        )


# --- what cannot be rotated ----------------------------------------------------------------------------------------


def multiplicative_gates(recording: Recording) -> list[str]:
    """Modules that multiply two parts of one tensor (``F.glu``, NAFNet's SimpleGate): no function of one tensor."""
    names = [call.run.name for call in recording.calls if call.name == "glu" or _parts_multiplied(call)]
    return list(dict.fromkeys(names))


def _parts_multiplied(call: Call) -> bool:
    if call.name != "mul" or len(call.inputs) != 2:
        return False
    first, second = (value.call for value in call.inputs)
    if first is None or second is None or call.inputs[0] is call.inputs[1]:
        return False
    if first is second:
        return first.name in ("chunk", "split", "split_with_sizes", "tensor_split", "unbind")
    return first.name == second.name == "getitem" and first.inputs[0] is second.inputs[0]


def hidden_in_scripts(recording: Recording, gates: Collection[Gate]) -> list[tuple[str, str]]:
    """Script functions that call activations inside, and are no gates themselves, each with who calls it."""
    known = {call for gate in gates for call in gate.region}
    return [
        (call.func.name, call.run.name)
        for call in recording.calls
        if call.name == SCRIPT and call not in known and called_by_script(call.func) & ACTIVATIONS
    ]


def called_by_script(function: Any) -> set[str]:
    """Names of the torch functions that a script function calls."""
    return {name.strip("_") for name in re.findall(r"aten::(\w+)", str(function.inlined_graph))}


def other_activations(recording: Recording, named: Named) -> list[Call]:
    """Activations between two layers that are no gates: they keep their place without slopes."""
    gates = {call for gate in _named_gates(recording, named) for call in gate.region}
    return [
        call
        for call in recording.calls
        if call.name in _OTHER_ACTIVATIONS
        and call not in gates
        and call.output is not None
        and not within_rotated(call.run)
        if any(
            reads(user, call.output, dim)
            for user in call.output.users
            for dim in range(len(call.output.shape))
        )
    ]
