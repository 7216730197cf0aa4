"""Put slopes into a network that exists, at every call site of a gate.

``rotate`` runs copies of the network in eval and in train mode and notes what they call (:mod:`.recording`), finds
the gates in that (:mod:`.gates`) and their channels (:mod:`.channel_dims`), decides where the slopes go
(:mod:`.placing`), does that to another copy, and compares it with the original. Only then does it change the network.
Modules keep their class (or get a subclass of it, see :mod:`.dispatch`), attributes, methods and state-dict keys.
"""

from __future__ import annotations

import copy
import random
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn

from ..core.arguments import checked
from ..core.errors import (
    FastFormUndoneWarning,
    GateError,
    NothingRotatedWarning,
    PlainActivationsWarning,
    RotationError,
    UnknownNameError,
)
from ..core.modules import Call, Inputs, as_inputs, check_values, first_line, initialise_lazy, unwrap
from ..core.nested import tensors_in
from ..core.state import Saved, check_fit, copy_of, make_ordinary, ordinary_tensors
from ..graph.capture import capture_trial_copy
from .activation import Rotated, RotatedReLU
from .call_sites import Site, merge_sites, set_channel_dims
from .channel_dims import place_channels
from .dispatch import children_of, dispatch, is_dispatching, make_plain, shield
from .folding import is_fast, plain_training
from .gates import Named, find_gates, hidden_in_scripts, multiplicative_gates, other_activations
from .placing import Placing, Plan, computes_gate, plain_gate
from .recording import Recording, record

STARTS = ("ones", "published")
# Multiplying by 1 changes no bit; other kernels may be chosen, and some sum in any order.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
_HALF_TOLERANCE = 2e-2


@checked()
def rotate(
    net: nn.Module,
    example_inputs: Inputs,
    *,
    init: str = "ones",
    exclude: Collection[str] = (),
    gates: Collection[Any] = (),
    channel_dim: int | Mapping[str, int] | None = None,
) -> nn.Module:
    """Give every activation with gate(0) = 0 one learnable slope per channel, per call site.

    Found are torch's activations (ReLU, ReLU6, PReLU, LeakyReLU, GELU, SiLU, Hardswish, Mish, ELU, ...) as modules,
    functions and methods, gates that are written out (``x * sigmoid(x)``, ``relu(x) ** 2``), and modules of one's own
    that compute such a function. A site keeps its slopes in a module that takes the gate module's place, or, if the
    gate is a function or a module that is called several times, in a new child of the module that calls it, whose
    class becomes a subclass of the same name. Before anything changes, a copy with slopes of 1 is compared with the
    original, in eval mode and, with seeded dropout, in train mode.

    Args:
        net: Any model, trained or not. It is changed in place. Activations that are rotated already are left alone. A
            network in the form of :func:`fast_training` is put back into its plain form first, with a warning.
        example_inputs: The arguments of one forward pass; a batch of 1 or 2 is enough. See :func:`as_inputs`.
        init: Where slopes start: ``"ones"``, so that the network computes what it did, or ``"published"``, random of
            both signs (:func:`rotated_slopes_`), for training from scratch.
        exclude: Qualified names of modules whose activations, at any depth, stay as they are, or of single sites as
            messages give them; ``""`` means those that the root's own forward calls.
        gates: More gates of one tensor with g(0) = 0: classes of modules, Python functions, torch functions.
        channel_dim: Dimension that holds the channels where it cannot be found; or a dict from names of sites or
            modules to dimensions, which count whatever was found.

    Returns:
        ``net``.

    Raises:
        ShapeError: If the model does not run on the inputs.
        CaptureError: If ``torch.export`` cannot capture the rotated model, without which nothing can be removed later.
        RotationError: If a call site cannot be given slopes, or the network with slopes of 1 is another function; names
            the sites.
        GateError: If something in ``gates`` is no gate with g(0) = 0.
        UnknownNameError: If ``exclude`` or ``channel_dim`` names something that the network does not have, or ``init``
            is unknown.

    ``net`` is unchanged after an error, and the inputs are never changed.

    Source: Nayak and Kalyani, TMLR 2024, Section 3; that trained networks start from 1 is ours.
    """
    if init not in STARTS:
        raise UnknownNameError("start of slopes", init, STARTS)
    inner = _inner(net)
    if is_fast(inner):
        warnings.warn(
            "the network was in the form that fast_training gives it, which fits its present layers only; it is in "
            "plain form again: call fast_training again after rotate",
            FastFormUndoneWarning,
            stacklevel=3,
        )
        plain_training(inner)
    check_values(inner)
    make_ordinary(inner)
    with ordinary_tensors():
        call = as_inputs(example_inputs)
        initialise_lazy(inner, call)
        trials = _Trials(inner, call)
        plan = _decide(trials, exclude, Named.of(gates), channel_dim)
        if plan is not None:
            with _seeded(trials.call):
                trials.check(plan)
            # Slopes of 1 take no random numbers either.
            with _seeded(trials.call) if init == "ones" else nullcontext():
                _install(plan, inner, init)
    return net


def unrotate(net: nn.Module, names: Collection[str]) -> None:
    """Make activations plain again; ``names`` are those of their modules. The slopes are lost."""
    for name in names:
        parent, _, leaf = name.rpartition(".")
        owner, module = net.get_submodule(parent), net.get_submodule(name)
        assert isinstance(module, Rotated)
        if leaf in children_of(owner):
            make_plain(owner, leaf)
        else:
            owner._modules[leaf] = module.gate


def _inner(net: nn.Module) -> nn.Module:
    """The network inside wrappers, of which one would not follow it."""
    if isinstance(net, nn.parallel.DistributedDataParallel):
        raise RotationError(
            "the network is wrapped in DistributedDataParallel, which would not know its slopes: rotate the network "
            "first, then wrap it"
        )
    return unwrap(net)


# --- decide --------------------------------------------------------------------------------------------------------


def _decide(
    trials: _Trials, exclude: Collection[str], named: Named, channel_dim: int | Mapping[str, int] | None
) -> Plan | None:
    """Where all slopes go, or None if there is nothing to rotate."""
    net = trials.net
    recordings = trials.recordings(named)
    gates = [find_gates(recording, named) for recording in recordings]
    sites = merge_sites(gates)
    placing = Placing(net, recordings, sites)
    placing.name_sites()
    _check_names(net, sites, [*exclude, *(channel_dim if isinstance(channel_dim, Mapping) else ())])
    wanted = [site for site in sites if not _excluded(site, exclude)]
    others = [call for recording in recordings for call in other_activations(recording, named)]
    products = list(
        dict.fromkeys(name for recording in recordings for name in multiplicative_gates(recording))
    )
    scripts = [pair for found in zip(recordings, gates, strict=True) for pair in hidden_in_scripts(*found)]
    left = _left_plain({call.run.name: call.name for call in others}, products, exclude)
    left += _left_in_scripts(dict.fromkeys(scripts), exclude)
    if not wanted:
        warnings.warn(
            f"no activation with gate(0) = 0 was found: nothing rotated{left}",
            NothingRotatedWarning,
            stacklevel=4,
        )
        return None
    set_channel_dims(wanted, channel_dim)
    unknown = [site for site in wanted if not site.channels]
    if unknown:
        names = [site.name for site in unknown]
        raise RotationError(
            f"it cannot be seen which dimension holds the channels of {'; '.join(map(str, unknown))}: no layer writes "
            f"or reads them; pass channel_dim={{{names[0]!r}: 1}} (or -1, ...), or leave them plain with "
            f"exclude={names!r}"
        )
    plan = placing.plan(wanted)
    if left:
        warnings.warn(f"some activations keep no slopes{left}", PlainActivationsWarning, stacklevel=4)
    return plan


def _left_plain(others: Mapping[str, str], products: Sequence[str], exclude: Collection[str]) -> str:
    """Words on activations that are no gates of one tensor."""
    words = []
    plain = [
        f"{kind} in {name or 'the root module'}" for name, kind in others.items() if not _below(name, exclude)
    ]
    if plain:
        words.append(
            f"{', '.join(plain)}: taken only if g(0) = 0 and named with gates=[...]; silence this with exclude"
        )
    named = [name or "the root module" for name in products if not _below(name, exclude)]
    if named:
        words.append(
            f"{', '.join(named)} multiply two parts of one tensor, a gate of two tensors, which cannot be rotated"
        )
    return "".join(f"; {word}" for word in words)


def _left_in_scripts(scripts: Iterable[tuple[str, str]], exclude: Collection[str]) -> str:
    named = [
        f"{function} in {owner or 'the root module'}"
        for function, owner in scripts
        if not _below(owner, exclude)
    ]
    if not named:
        return ""
    return (
        f"; activations inside the torch.jit.script functions {', '.join(named)} cannot be reached: take "
        "torch.jit.script away, or silence this with exclude"
    )


def _below(name: str, prefixes: Collection[str]) -> bool:
    return any(f"{name}.".startswith(f"{prefix}.") if prefix else not name for prefix in prefixes)


def _excluded(site: Site, names: Collection[str]) -> bool:
    if site.name in names or ("" in names and not site.owner):
        return True
    return any(_below(place, [name]) for name in names if name for place in (site.owner, site.module))


def _check_names(net: nn.Module, sites: Sequence[Site], names: Collection[str]) -> None:
    known = {name for name, _ in net.named_modules(remove_duplicate=False)} | {site.name for site in sites}
    for name in names:
        if name not in known:
            raise UnknownNameError("module", name, known - {""})


# --- try on copies -------------------------------------------------------------------------------------------------


class _Trials:
    """Runs a copy of the network in eval and train mode, from the same state and random numbers each time."""

    def __init__(self, net: nn.Module, call: Call) -> None:
        self.net = net
        self.call = call
        self.copy = copy_of(net)
        self.recorded: dict[bool, Recording] = {}
        self.doubled = False

    def given(self, training: bool) -> Call:
        """Copies of the inputs; twice the batch if norms refused a single example in train mode."""
        double = training and self.doubled
        return (self.call.of_size(2 * self.call.batch_size) if double else self.call).copied()

    @contextmanager
    def _mode(self, training: bool) -> Iterator[None]:
        """The copy in one mode; afterwards as it was, random numbers included."""
        saved = Saved(self.copy, weights=False)
        try:
            with torch.no_grad(), _seeded(self.call):
                self.copy.train(training)
                yield
        finally:
            saved.put_back()

    def recordings(self, named: Named) -> list[Recording]:
        """What the network calls in eval mode and, where it runs, in train mode."""
        watched = [function.__code__ for function in named.functions]
        try:
            self.recorded[False] = self._record(False, watched)
        except Exception:
            check_fit(self.copy, self.call)  # says what is wrong with the inputs, if it is them
            raise
        for self.doubled in (False, True):
            try:
                self.recorded[True] = self._record(True, watched)
                break
            except Exception:  # batch statistics of one value, or no training without labels
                continue
        return list(self.recorded.values())

    def _record(self, training: bool, watched: Sequence[CodeType]) -> Recording:
        given = self.given(training)
        with self._mode(training):
            return record(self.copy, given, place_channels, watched)

    def _outputs(self, training: bool) -> Any:
        given = self.given(training)
        with self._mode(training):
            return self.copy(*given.args, **given.kwargs)

    def check(self, plan: Plan) -> None:
        """Compare the copy with slopes of 1 with what it was, count that every site is used, and capture it."""
        _install(plan, self.copy, "ones")
        for training, recording in self.recorded.items():
            with _counted_calls(self.copy, [*_new_names(plan)]) as counts:
                try:
                    found = self._outputs(training)
                except Exception as error:
                    raise RotationError(
                        f"with slopes the network fails ({first_line(error)}); nothing was changed"
                    ) from error
            self._compare(plan, recording.output, found, training)
            _check_counts(plan, counts, recording, training)
        with self._mode(False):
            capture_trial_copy(self.copy, self.call)

    def _compare(self, plan: Plan, before: Any, after: Any, training: bool) -> None:
        if _equal(before, after):
            return
        self.copy = copy_of(
            self.net
        )  # other kernels without a recorder, or a network that differs from run to run
        again = self._outputs(training)
        _install(plan, self.copy, "ones")
        if not _equal(again, after) and _equal(again, before):
            mode = "train" if training else "eval"
            listed = "; ".join(map(str, plan.sites))
            raise RotationError(
                f"with slopes of 1 the network computes something else in {mode} mode; nothing was changed. The sites "
                f"were {listed}; find the one with exclude"
            )


def _equal(before: Any, after: Any) -> bool:
    """Whether outputs agree, NaN with NaN."""
    one, other = tensors_in(before), tensors_in(after)
    if [value.shape for value in one] != [value.shape for value in other]:
        return False
    return all(_close(a, b) for a, b in zip(one, other, strict=True))


def _close(one: Tensor, other: Tensor) -> bool:
    if not one.is_floating_point() or not one.numel():
        return one.dtype == other.dtype and (not one.numel() or bool((one == other).all()))
    finite = one[one.isfinite()].abs()
    scale = float(finite.max()) if finite.numel() else 0.0
    tolerance = _TOLERANCE.get(one.dtype, _HALF_TOLERANCE) * scale
    return torch.allclose(one, other, rtol=0, atol=tolerance, equal_nan=True)


def _new_names(plan: Plan) -> Iterator[tuple[str, Site]]:
    yield from plan.swaps.items()
    for sites in plan.dispatched.values():
        for site in sites.values():
            yield site.name, site


@contextmanager
def _counted_calls(net: nn.Module, names: Sequence[tuple[str, Site]]) -> Iterator[dict[Site, int]]:
    """Count how often each new module is called; without hooks, which switch off torch's fast paths."""
    counts = {site: 0 for _, site in names}

    def counting(module: nn.Module, site: Site) -> Callable[[Tensor], Tensor]:
        original = module.forward

        def forward(x: Tensor) -> Tensor:
            counts[site] += 1
            result: Tensor = original(x)
            return result

        return forward

    modules = {name: net.get_submodule(name) for name, _ in names}
    for name, site in names:
        modules[name].__dict__["forward"] = counting(modules[name], site)
    try:
        yield counts
    finally:
        for module in modules.values():
            del module.__dict__["forward"]


def _check_counts(plan: Plan, counts: Mapping[Site, int], recording: Recording, training: bool) -> None:
    calls = set(recording.calls)
    lost = [site for site in plan.sites if counts[site] != sum(gate.call in calls for gate in site.gates)]
    if lost:
        raise RotationError(
            f"the slopes of these activations would not be used in {'train' if training else 'eval'} mode, because the "
            f"network calls them in another way than by their name: {'; '.join(map(str, lost))}; leave them plain with "
            f"exclude={[site.name for site in lost]!r}"
        )


@contextmanager
def _seeded(call: Call) -> Iterator[None]:
    """Random numbers from a fixed state, which is put back."""
    devices = sorted({value.device.index for value in call.tensors if value.is_cuda})
    numpy = sys.modules.get("numpy")
    states = random.getstate(), numpy.random.get_state() if numpy else None
    try:
        with torch.random.fork_rng(devices):
            torch.manual_seed(0)
            random.seed(0)
            if numpy:
                numpy.random.seed(0)
            yield
    finally:
        random.setstate(states[0])
        if numpy:
            numpy.random.set_state(states[1])


# --- change --------------------------------------------------------------------------------------------------------


def _install(plan: Plan, net: nn.Module, init: str) -> nn.Module:
    """Carry out a plan on a network of the recorded structure."""
    modules = dict(net.named_modules(remove_duplicate=False))
    swapped = {name: _swapped(site, modules[site.module], init) for name, site in plan.swaps.items()}
    made = {
        owner: {
            child: _rotated(_called_gate(site), site, init).train(modules[owner].training)
            for child, site in sites.items()
        }
        for owner, sites in plan.dispatched.items()
    }
    for name, module in swapped.items():
        parent, _, leaf = name.rpartition(".")
        modules[parent]._modules[leaf] = module
        _leave_fast_path(modules[parent])
    for owner, children in made.items():
        dispatch(modules[owner], plan.tables[owner], children)
        _leave_fast_path(modules[owner])
    for name in plan.shields:
        if not is_dispatching(modules[name]):
            shield(modules[name])
    for name in plan.hidden:
        net.get_submodule(name).hide_calls = True  # type: ignore[assignment]
    return net


def _swapped(site: Site, gate: nn.Module, init: str) -> Rotated:
    """What takes a gate module's place, hooks included."""
    has_state = any(True for _ in (*gate.parameters(), *gate.buffers()))
    inner = gate if has_state else copy.copy(gate)
    rotated = _rotated(inner, site, init).train(gate.training)
    if not has_state:
        for name, value in vars(gate).items():
            if name.endswith("_hooks") or "_hooks_" in name:
                rotated.__dict__[name] = value  # the same dict: handles that remove a hook still find it
                if isinstance(value, dict):
                    inner.__dict__[name] = type(value)()
    return rotated


def _called_gate(site: Site) -> nn.Module:
    return plain_gate(site) if computes_gate(site) else nn.Identity()


def _rotated(gate: nn.Module, site: Site, init: str) -> Rotated:
    """A rotated activation for one site, on the device and in the dtype of what it scales."""
    if type(gate) is nn.ReLU and not gate.inplace:
        rotated: Rotated = RotatedReLU(site.channels, site.channel_dim)
    else:
        try:
            rotated = Rotated(gate, site.channels, site.channel_dim)
        except GateError as error:
            raise RotationError(f"{site} cannot be rotated: {error}") from error
    if init == "ones":
        nn.init.ones_(rotated.slope)
    rotated.slope.data = rotated.slope.data.to(device=site.device, dtype=site.dtype)
    return rotated


def _leave_fast_path(owner: nn.Module) -> None:
    """A fused kernel of torch's would compute the whole encoder layer in eval mode, without slopes."""
    if isinstance(owner, nn.TransformerEncoderLayer):
        owner.activation_relu_or_gelu = 0
