"""Choose the channels that go to meet a budget: lowest score per saved cost first, and never the last way through.

Greedy, as a knapsack is filled: what costs much for what it does goes first. Three rules on top:

- the best living channel of an activation is spared until it is the last one: what it saves is known only then. A
  budget that is not met with one channel left of each activation begins another round, with the costs of that network;
- no channel goes without which the inputs no longer lead to the output: a residual block may vanish as a whole, a layer
  of a plain network may not;
- the last that went may have saved more than was wanted: what went before it and fits into the rest comes back, highest
  score first.

Requires: a score of every channel. Ensures: with what is chosen gone the output still depends on the inputs, and at
most the asked share of the cost is left, or as little as this order can reach.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..core.arguments import checked, need_number
from ..core.criteria import UNITS, Criterion
from ..core.errors import ArgumentError, SlopeError, UnknownNameError
from ..core.modules import Inputs
from ..nn.slopes import check_slopes
from .estimate import CostEstimate, check_table
from .importance import per_cost, slope_scores
from .latency.table import LatencyTable
from .leaving_out import Loss, loss_increases
from .mask import Mask, check_scores, zero_mask
from .steps.selector import Level, StepSelector

ROOM = 0.002  # of the whole: less is not worth a search for what fits into it
Channel = tuple[str, int]  # name of a slope, position


@checked("round_to")
def choose_channels(
    net: nn.Module,
    example_inputs: Inputs,
    *,
    keep: float = 0.5,
    unit: str = "macs",
    scores: Mapping[str, Tensor] | None = None,
    table: LatencyTable | None = None,
    round_to: int | None = None,
    loss: Loss | None = None,
) -> Mask:
    """What :func:`rotated_relu.select_channels` does with a table at hand; see there.

    Raises:
        ArgumentError: If the unit is ``latency`` and there is no table, or it is not and there is one; and what that
            function raises.
    """
    check_choice(net, keep, unit, scores, round_to, loss)
    if unit == "latency":
        check_table(table)
    elif table is not None:
        raise ArgumentError(f'a table of times is for unit="latency", not for {unit!r}')
    scores = slope_scores(net) if scores is None else scores
    selector = selector_for(CostEstimate(net, example_inputs, table), unit, round_to)
    dead = zero_mask(net)
    if loss is None or not isinstance(selector, StepSelector):
        return mask_for(selector, keep, scores, dead)
    return mask_for(selector, keep, scores, dead, loss_increases(net, loss, selector.levels(scores, dead)))


def mask_for(
    selector: Selector | StepSelector,
    keep: float,
    scores: Mapping[str, Tensor],
    dead: Mapping[str, Tensor],
    lost: Mapping[Level, float] | None = None,
) -> Mask:
    """What a selector chooses, if the budget is met with it.

    Args:
        selector: Of a network.
        keep: Share of its unit that may be left.
        scores: As of its ``choose``.
        dead: What is gone already, by name; every activation.
        lost: What is lost at each level of a selector in steps, where that was measured.

    Raises:
        SlopeError: If it cannot be met; says what can.
    """
    if isinstance(selector, StepSelector):
        masks = selector.choose(keep, scores, dead, lost=lost)
    else:
        masks = selector.choose(keep, scores, dead)
    if not selector.meets(masks, keep):
        raise SlopeError(unreachable(keep, selector, selector.estimate.share(masks, selector.unit)))
    return Mask(
        masks, Criterion(getattr(scores, "kind", "custom"), selector.unit, keep={selector.unit: keep})
    )


def check_choice(
    net: nn.Module,
    keep: float,
    unit: str,
    scores: Mapping[str, Tensor] | None = None,
    round_to: int | None = None,
    loss: Loss | None = None,
) -> None:
    """Raise what :func:`choose_channels` would raise before any work.

    Raises:
        SlopeError, UnknownNameError, ArgumentError: See :func:`choose_channels`.
    """
    check_budget(keep, unit, round_to)
    if loss is not None and unit != "latency" and round_to in (None, 1):
        raise ArgumentError(
            f"a loss says what blocks of channels are worth; for unit={unit!r} one channel goes at a time: give a "
            "round_to, such as 8, or no loss"
        )
    found = check_slopes(net)
    if scores is not None:
        check_scores(found, scores)
    if getattr(scores, "per", ""):
        raise SlopeError(
            f"the scores are divided by {getattr(scores, 'per', '')} already; pass them as they were before"
        )


def selector_for(estimate: CostEstimate, unit: str, round_to: int | None = None) -> Selector | StepSelector:
    """What chooses channels for a unit: in steps if there are steps. All widths are multiples of 1, as of None."""
    round_to = None if round_to == 1 else round_to
    if unit == "latency" or round_to is not None:
        return StepSelector(estimate, unit, round_to)
    return Selector(estimate, unit)


class Selector:
    """Chooses channels of one network, for one unit, as often as it is asked.

    Args:
        estimate: Of the network; with a table for the unit ``latency``.
        unit: One of ``core.criteria.UNITS``.
    """

    def __init__(self, estimate: CostEstimate, unit: str) -> None:
        self.estimate, self.unit = estimate, unit

    def choose(
        self,
        share: float,
        scores: Mapping[str, Tensor],
        dead: Mapping[str, Tensor],
        saved: Mapping[str, float] | None = None,
        *,
        fill: bool = True,
    ) -> dict[str, Tensor]:
        """Masks of what goes so that at most ``share`` is left, or as little as can be; ``dead`` included.

        Args:
            share: Of the unit, 0 to 1.
            scores: By name, shape (channels,), higher matters more; not divided by a cost.
            dead: What is gone already, by name; every activation.
            saved: What one channel of each activation saves, if it is known; counted if None.
            fill: Let what fits into the share come back, see :meth:`filled`.
        """
        masks = with_more(dead, [])
        vital: set[str] = set()  # activations whose last channel is a last way through
        while not self.meets(masks, share):
            if saved is None:
                saved = self.estimate.saved_per_channel(masks, self.unit)
            chosen = self._round(share, per_cost(scores, saved, self.unit), masks, vital)
            if not chosen:
                break
            masks, saved = with_more(masks, chosen), None
        return self.filled(share, scores, dead, masks) if fill else masks

    def filled(
        self,
        share: float,
        scores: Mapping[str, Tensor],
        dead: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """Masks without those for which there is room, highest score first.

        Args:
            share: As for :meth:`choose`.
            scores: Likewise.
            dead: What stays gone.
            masks: What is to go; nothing comes back if about the share, or more, is left with it.
        """
        masks = with_more(masks, [])
        if share - self.estimate.share(masks, self.unit) < ROOM:
            return masks  # to look costs one count of the network for each activation
        gone = [
            (float(scores[name][index]), name, index)
            for name, mask in masks.items()
            for index in (mask & ~dead[name].to(mask.device)).nonzero().flatten().tolist()
        ]
        too_large: set[str] = set()  # another channel of the same activation costs as much
        for _, name, index in sorted(gone, reverse=True):
            if name in too_large:
                continue
            masks[name][index] = False
            if not self.meets(masks, share):
                masks[name][index] = True
                too_large.add(name)
        return masks

    def meets(self, dead: Mapping[str, Tensor], share: float) -> bool:
        """Whether at most ``share`` is left with those gone."""
        return self.estimate.fits(dead, share, self.unit)

    def least(self, dead: Mapping[str, Tensor], enough: float) -> float:
        """Smallest share that can be left, whatever the scores; no need to look further than ``enough``."""
        one_each = {name: mask | (mask.logical_not().cumsum(0) > 1) for name, mask in dead.items()}
        if self.meets(one_each, enough):
            return min(enough, self.estimate.share(one_each, self.unit))
        alike = {name: torch.ones(len(mask)) for name, mask in dead.items()}
        return self.estimate.share(self.choose(0.0, alike, dead), self.unit)

    def _round(
        self, share: float, scores: Mapping[str, Tensor], dead: Mapping[str, Tensor], vital: set[str]
    ) -> list[Channel]:
        """The first channels of the order that meet the share, without those that are a last way through."""
        order = self._order(scores, dead, vital)
        while True:
            count = self.estimate.removals_needed(
                share, self.unit, lambda n: with_more(dead, order[:n]), len(order)
            )
            if not count or self.estimate.connected(with_more(dead, order[:count])):
                return order[:count]
            # Fewer that go never cut what more leave connected: bisect for the one that cuts, and spare it.
            cut = bisect_left(
                range(count),
                True,
                key=lambda n: not self.estimate.connected(with_more(dead, order[: n + 1])),
            )
            del order[cut]

    def _order(
        self, scores: Mapping[str, Tensor], dead: Mapping[str, Tensor], vital: set[str]
    ) -> list[Channel]:
        """Channels that may go in this round, lowest score first."""
        entries = []
        for name, values in ((name, values.cpu()) for name, values in scores.items()):
            living = (~dead[name]).nonzero().flatten().tolist()
            if (
                len(living) == 1
                and name not in vital
                and not self.estimate.connected(with_more(dead, [(name, living[0])]))
            ):
                vital.add(name)
            if len(living) > 1 or name in vital:
                living.remove(max(living, key=lambda index: float(values[index])))
            entries += [(float(values[index]), name, index) for index in living]
        return [(name, index) for _, name, index in sorted(entries)]


def with_more(dead: Mapping[str, Tensor], more: list[Channel]) -> dict[str, Tensor]:
    """Masks with further channels gone, as copies."""
    masks = {name: mask.clone() for name, mask in dead.items()}
    for name, index in more:
        masks[name][index] = True
    return masks


def check_budget(keep: float, unit: str, round_to: int | None = None) -> None:
    """Raise unless a budget is a share of a unit that there is, in steps that there can be.

    Raises:
        UnknownNameError: If there is no such unit.
        ArgumentError: If the steps are no positive integer.
        SlopeError: If the share is not above 0 and at most 1.
    """
    if unit not in UNITS:
        raise UnknownNameError("unit of the budget", unit, UNITS)
    if not 0 < need_number(keep, "keep") <= 1:
        raise SlopeError(f"keep must be above 0 and at most 1 (0.5 keeps half), got {keep}")
    if round_to is not None and (type(round_to) is not int or round_to < 1):
        raise ArgumentError(
            f"round_to must be a positive integer, such as 8 or 16, or None, got {round_to!r}"
        )


def too_fast(keep: float) -> str:
    """Beginning of a message about a share of the time that cannot be had."""
    return f"the network cannot come down to {keep:g} of its time, a speed-up of {1 / keep:.3g}"


def unreachable(keep: float, selector: Selector | StepSelector, least: float) -> str:
    """Message about a budget that cannot be met, with the least that can be had."""
    unit, least = selector.unit, math.ceil(least * 1e4) / 1e4
    if unit == "latency":
        whole = selector.estimate.whole(unit)
        return (
            f"{too_fast(keep)}: the fastest that can be reached is {least:g} of it, {least * whole:.3g} of "
            f"{whole:.3g} ms, a speed-up of {math.floor(100 / least) / 100:g}; keep at least that much"
        )
    steps = "" if isinstance(selector, Selector) else f", in steps of {selector.round_to},"
    return (
        f"at most {keep:g} of the {unit} cannot be had{steps}: with one {'step' if steps else 'channel'} left of every "
        f"layer that the output needs, {least:g} of them remain; keep at least that much"
    )
