"""Physically remove the channels that a mask says go, and verify that the output did not change.

Requires: a mask of this network. Ensures: a smaller copy that computes what the masked original computes, in float64
and within 1e-9; or an error. The network that was passed in is unchanged either way.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim import Optimizer

from ...core.counting import count_parameters
from ...core.criteria import Criterion
from ...core.errors import CertificateError, CompactionError, NothingRemovedWarning
from ...core.graph_layout import GraphLayout, Tuned
from ...core.modules import Call, Inputs, as_inputs, unwrap
from ...core.state import copy_of, drop_caches, ordinary, ordinary_tensors, unchanged
from ...graph.capture import capture, check_static
from ...graph.liveness import analyse
from ...graph.needed_macs import ideal_work
from ...nn.folding import as_plain
from ...nn.slopes import check_slopes
from ..mask import apply_mask, check_mask, criterion_of
from .optimizer_state import check_optimizer, cut_optimizer
from .plan import Plan
from .planner import decide
from .recorded_inputs import record
from .surgery import apply, earlier_plans, named_states
from .verify import Certificate, certify


@dataclass(frozen=True, repr=False)
class Compacted:
    """Result of :func:`rotated_relu.compact`.

    Attributes:
        model: A new network of the same class with the same state-dict keys and smaller layers.
        plan: What was cut, what stayed and why, as plain data.
        certificate: The comparison in float64 with the original whose dead slopes are at 0.
        optimizer: The optimizer that was passed in, for the new network's parameters and with the state of what was
            kept; None if none was passed.
        tuned: What was timed to choose it, with ``round_to="auto"``; else None.
    """

    model: nn.Module
    plan: Plan
    certificate: Certificate
    optimizer: Optimizer | None = None
    tuned: Tuned | None = None

    def __repr__(self) -> str:
        weights = f"{count_parameters(self.model):,} parameters"
        return (
            f"Compacted({type(self.model).__name__} of {weights},\n  {self.plan!r},\n  {self.certificate!r})"
        )

    @property
    def layout(self) -> GraphLayout | None:
        """The layout in which its exported graph was fastest, for ``export_onnx(..., layout=...)``; None if untimed."""
        return None if self.tuned is None else self.tuned.layout


@ordinary_tensors()
def remove_channels(
    net: nn.Module,
    example_inputs: Inputs,
    mask: Mapping[str, Tensor],
    round_to: int = 1,
    *,
    optimizer: Optimizer | None = None,
) -> Compacted:
    """Remove all channels that a mask makes irrelevant; what :func:`rotated_relu.compact` does for integer widths.

    Args:
        net: A rotated network, in any mode, on any device. It is never changed.
        example_inputs: As in :func:`rotated_relu.rotate`; a batch of 1 is enough.
        mask: Qualified name of a slope -> boolean (channels,), True where the channel goes; see :mod:`..mask`. Slopes
            that are 0 go as well.
        round_to: Widths are rounded up to multiples of it by keeping dead channels; 1 removes everything.
        optimizer: As in :func:`rotated_relu.compact`.

    Raises:
        As :func:`rotated_relu.compact`.
    """
    trained, inputs = ordinary(unwrap(net)), as_inputs(example_inputs)
    net = as_plain(trained)
    if not isinstance(round_to, int) or round_to < 1:
        raise CompactionError(f"round_to must be a positive integer (1, 8, 16), got {round_to!r}")
    check_mask(net, mask)
    if optimizer is not None:
        check_optimizer(optimizer, trained)
    frozen: set[str] = set()
    while True:
        small, plan = _attempt(net, inputs, mask, round_to, frozen)
        try:
            certificate = certify(lambda: _at_zero(trained, mask), small, inputs, plan)
            break
        except CertificateError as error:
            more = _to_freeze(net, error.module, frozen)
            if not more:
                raise
            frozen |= more
    if not plan.cuts:
        why = (
            f"what is idle has to stay ({plan.held[0].reason}; see plan.held)"
            if plan.held
            else f"no channel is idle ({plan.criterion.describe()})"
        )
        warnings.warn(f"nothing was removed: {why}", NothingRemovedWarning, stacklevel=5)
    follower = None if optimizer is None else cut_optimizer(optimizer, trained, small, plan)
    return Compacted(small, plan, certificate, follower)


def _attempt(
    net: nn.Module,
    inputs: Call,
    mask: Mapping[str, Tensor],
    round_to: int,
    frozen: Collection[str],
) -> tuple[nn.Module, Plan]:
    """A smaller network, not yet certified, with the forwards of ``frozen`` modules at full width."""
    masked, alive = _masked(net, mask)
    graph = capture(masked, inputs)
    check_static(graph)
    states = named_states(masked)
    plan = _empty_plan(states, alive, inputs, criterion_of(mask), round_to, net)
    plan.frozen, plan.earlier = sorted(frozen), earlier_plans(net)
    liveness = analyse(graph, states)
    plan.work = {name: [w.all, w.ideal] for name, w in ideal_work(graph, liveness, states).items()}
    decide(graph, liveness, states, masked, plan)
    del graph, liveness, states
    small = apply(plan, masked)
    _restore_frozen_parameters(small, net)
    return small, plan


def _to_freeze(net: nn.Module, module: str | None, frozen: Collection[str]) -> set[str]:
    """Modules to keep at full width, given where a certificate failed; empty if nothing is left to try.

    A ``forward`` may read a width from one tensor and use it on another (``x.shape[1]`` for a reshape, ``q.shape[-1]``
    for a scale). The captured graph does not show that, but the certificate notices. Then the nearest enclosing module
    that is not at full width yet, and is neither a single layer of torch nor a container, keeps it, with all others of
    its class.

    Args:
        net: The network.
        module: Qualified name of the module where the failure was noticed, or None.
        frozen: Those that are at full width already.
    """
    modules = dict(net.named_modules())
    while module is not None:
        found = modules.get(module)
        if found is not None and module not in frozen and not _is_torchs_layer(found):
            return {name for name, other in modules.items() if type(other) is type(found)} - set(frozen)
        module = module.rpartition(".")[0] if module else None
    return set()


def _is_torchs_layer(module: nn.Module) -> bool:
    """Whether no code of its own could fix a width (``nn.MultiheadAttention`` has such code, and children)."""
    home = type(module).__module__
    return home.startswith("torch.nn.") and (home.endswith(".container") or not list(module.children()))


def _masked(net: nn.Module, mask: Mapping[str, Tensor]) -> tuple[nn.Module, dict[str, int]]:
    """A copy of the network with the mask applied, and how many slopes of each activation are alive."""
    masked = copy_of(net)
    drop_caches(masked)
    masked.requires_grad_(True)  # export tells parameters from constants by it
    return masked, apply_mask(masked, mask)


@contextlib.contextmanager
def _at_zero(net: nn.Module, mask: Mapping[str, Tensor]) -> Iterator[nn.Module]:
    """The network itself with the mask applied; afterwards it is as before."""
    with unchanged(net):
        apply_mask(net, mask)
        yield net


def _empty_plan(
    states: dict[str, Tensor],
    alive: dict[str, int],
    inputs: Call,
    criterion: Criterion,
    round_to: int,
    net: nn.Module,
) -> Plan:
    totals = {name: slope.numel() for name, slope in check_slopes(net).items()}
    return Plan(
        threshold=float(criterion.threshold or 0) if criterion.by_slope else 0.0,
        criterion=criterion,
        round_to=round_to,
        slopes={name: {"total": totals[name], "alive": alive[name]} for name in totals},
        states={name: list(value.shape) for name, value in states.items()},
        inputs=record(inputs),
    )


def _restore_frozen_parameters(small: nn.Module, net: nn.Module) -> None:
    """``requires_grad`` as the user had it."""
    frozen = {name for name, parameter in net.named_parameters() if not parameter.requires_grad}
    for name, parameter in small.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
