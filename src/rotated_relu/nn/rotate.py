"""Put slopes into a network that exists, at every call site of a gate.

``rotate`` runs copies of the network in eval and in train mode (:mod:`.trials`) and notes what they call
(:mod:`.recording`), finds the gates in that (:mod:`.gates`) and their channels (:mod:`.channel_dims`), decides where
the slopes go (:mod:`.placing`), does that to a copy (:mod:`.installing`), and compares it with the original. Only then
does it change the network.
Modules keep their class (or get a subclass of it, see :mod:`.dispatch`), attributes, methods and state-dict keys.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from torch import nn

from ..core.arguments import checked
from ..core.errors import (
    FastFormUndoneWarning,
    NothingRotatedWarning,
    PlainActivationsWarning,
    RotationError,
    UnknownNameError,
)
from ..core.modules import Inputs, as_inputs, check_values, initialise_lazy, unwrap
from ..core.state import make_ordinary, ordinary_tensors
from .activation import Rotated
from .call_sites import Site, check_widths, merge_sites, set_channel_dims
from .dispatch import children_of, make_plain
from .folding import is_fast, plain_training
from .gates import Named, find_gates, hidden_in_scripts, multiplicative_gates, other_activations
from .installing import install
from .placing import Placing, Plan
from .trials import Trials, seeded

STARTS = ("ones", "published")


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
        trials = Trials(inner, call)
        plan = _decide(trials, exclude, Named.of(gates), channel_dim)
        if plan is not None:
            with seeded(trials.call):
                trials.check(plan)
            # Slopes of 1 take no random numbers either.
            with seeded(trials.call) if init == "ones" else nullcontext():
                install(plan, inner, init)
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
    trials: Trials, exclude: Collection[str], named: Named, channel_dim: int | Mapping[str, int] | None
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
    check_widths(wanted)
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
