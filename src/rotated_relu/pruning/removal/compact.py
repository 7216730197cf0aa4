"""Physically remove what the slopes declared dead, and prove that the output did not change."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from ...core.errors import CertificateError, CompactionError, NothingRemovedWarning, SlopeError
from ...core.modules import Inputs, as_inputs
from ...graph.capture import capture
from ...graph.liveness import analyse
from ...graph.needed_macs import ideal_work
from ...nn.folding import as_plain
from ...nn.slopes import apply_threshold, check_slopes
from .freeze import widen
from .history import earlier_plans
from .optimizer_state import check_optimizer, cut_optimizer
from .plan import Plan
from .planner import decide
from .surgery import apply, named_states
from .verify import Certificate, certify


@dataclass(frozen=True)
class Compacted:
    """Result of :func:`compact`.

    Attributes:
        model: A new network of the same class with the same state-dict keys and smaller layers.
        plan: What was cut, what stayed and why, as plain data.
        certificate: The proof that it equals the original with the dead slopes at 0.
        optimizer: The optimizer that was passed in, for the new network's parameters and with the state of what was
            kept; None if none was passed.
    """

    model: nn.Module
    plan: Plan
    certificate: Certificate
    optimizer: Optimizer | None = None


def compact(
    net: nn.Module,
    example_inputs: Inputs,
    threshold: float = 0.1,
    round_to: int = 1,
    *,
    optimizer: Optimizer | None = None,
) -> Compacted:
    """Remove all channels that slopes under ``threshold`` make irrelevant.

    The slopes with ``|a| < threshold`` count as 0; everything that then cannot influence the output goes from the
    convolutions, linear layers and norms, wherever in the network it is. The result is compared in float64 with the
    original before it is returned.

    Args:
        net: A rotated network, in any mode, on any device. It is never changed.
        example_inputs: Tensor or tuple of tensors for one forward pass; a batch of 1 is enough.
        threshold: zeta of the paper, in units of slope.
        round_to: Widths are rounded up to multiples of it by keeping dead channels; 1 removes everything, 8 or 16
            suit vector units better.
        optimizer: What trains the network, to go on with after compaction: the result holds another one of the same
            class, groups and settings, whose momentum and moments are cut as the parameters are. The one passed in is
            unchanged. A learning-rate scheduler has to be made anew, and can load the old one's ``state_dict``.

    Returns:
        :class:`Compacted`.

    Raises:
        SlopeError: If there are no slopes, some are NaN or infinite, or the threshold kills all of them.
        ShapeError: If the network does not run on the inputs.
        CaptureError: If ``torch.export`` cannot capture it; names operation and module.
        CertificateError: If the result differs by more than 1e-9 relative; names the layer.
        CompactionError: If the optimizer is another network's, or its state cannot be cut.

    Source: the threshold is that of Nayak and Kalyani, TMLR 2024; what is removed is ours (see docs/compaction.md).
    """
    trained, inputs, net = net, as_inputs(example_inputs), as_plain(net)
    _check_arguments(net, threshold, round_to)
    if optimizer is not None:
        check_optimizer(optimizer, trained)
    frozen: set[str] = set()
    while True:
        small, plan = _attempt(net, inputs, threshold, round_to, frozen)
        try:
            certificate = certify(lambda: _masked(net, threshold)[0], small, inputs, plan)
            break
        except CertificateError as error:
            more = widen(net, error.module, frozen)
            if not more:
                raise
            frozen |= more
    if not plan.cuts:
        warnings.warn(f"nothing was removed at threshold {threshold:g}", NothingRemovedWarning, stacklevel=2)
    follower = None if optimizer is None else cut_optimizer(optimizer, trained, small, plan)
    return Compacted(small, plan, certificate, follower)


def _attempt(
    net: nn.Module, inputs: tuple[Any, ...], threshold: float, round_to: int, frozen: Collection[str]
) -> tuple[nn.Module, Plan]:
    """A smaller network, not yet certified, with the forwards of ``frozen`` modules at full width."""
    masked, alive = _masked(net, threshold)
    if not any(alive.values()):
        largest = max(float(slope.detach().abs().max()) for slope in check_slopes(net).values())
        raise SlopeError(
            f"threshold {threshold:g} kills every slope of the network (the largest |slope| is {largest:.4g}); "
            "choose a smaller one, for example with rotated_relu.find_threshold"
        )
    graph = capture(masked, inputs)
    states = named_states(masked)
    plan = _empty_plan(states, alive, inputs, threshold, round_to, net)
    plan.frozen, plan.earlier = sorted(frozen), earlier_plans(net)
    liveness = analyse(graph, states)
    plan.work = {name: [w.all, w.ideal] for name, w in ideal_work(graph, liveness, states).items()}
    decide(graph, liveness, states, masked, plan)
    del graph, liveness, states
    small = apply(plan, masked)
    _restore_frozen_parameters(small, net)
    return small, plan


def _masked(net: nn.Module, threshold: float) -> tuple[nn.Module, dict[str, int]]:
    """A copy of the network with its small slopes at 0, and how many slopes of each activation are alive."""
    masked = copy.deepcopy(net)
    masked.requires_grad_(True)  # export tells parameters from constants by it
    return masked, apply_threshold(masked, threshold)


def _check_arguments(net: nn.Module, threshold: float, round_to: int) -> None:
    check_slopes(net)
    if not 0 <= threshold < float("inf"):
        raise SlopeError(f"threshold must be 0 or a positive number, got {threshold!r}")
    if not isinstance(round_to, int) or round_to < 1:
        raise CompactionError(f"round_to must be a positive integer (1, 8, 16), got {round_to!r}")


def _empty_plan(
    states: dict[str, Tensor],
    alive: dict[str, int],
    inputs: tuple[Any, ...],
    threshold: float,
    round_to: int,
    net: nn.Module,
) -> Plan:
    totals = {name: slope.numel() for name, slope in check_slopes(net).items()}
    return Plan(
        threshold=float(threshold),
        round_to=round_to,
        slopes={name: {"total": totals[name], "alive": alive[name]} for name in totals},
        states={name: list(value.shape) for name, value in states.items()},
        inputs=[
            {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
            for value in inputs
            if isinstance(value, Tensor)
        ],
    )


def _restore_frozen_parameters(small: nn.Module, net: nn.Module) -> None:
    """``requires_grad`` as the user had it."""
    frozen = {name for name, parameter in net.named_parameters() if not parameter.requires_grad}
    for name, parameter in small.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
