"""Choose channels in the steps in which an engine is paid, or in multiples of a number: whole blocks of them, or none.

1. Channels that can only go together are bundled (:mod:`.coupling`), and it is found once what follows which bundle
   (:mod:`.attribution`, :mod:`.reach`), so that any choice can be priced without a liveness analysis (:mod:`.costs`).
2. The levels of each axis are the numbers of bundles at which some layer's time falls: the ends of the blocks in a
   latency table, or multiples of a number. None left is a level, too, where a way past the axis is left: a residual
   branch goes as a whole.
3. A knapsack (:mod:`.knapsack`) takes what loses least importance for what it saves. A bundle that saves nothing stays.
4. The choice is checked by a full analysis. Where that counts more, the target is lowered by as much and 3 is repeated.

Where a stream has channels that live without a slope of it (a stem whose activation has none), narrowing the rest of
the stream takes a selection behind that stem in the exported graph. Such axes are left alone, and looked at only if
the target cannot be met without.

Requires: a score of every channel. Ensures: as :class:`..select.Selector`, with widths in steps.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from ..estimate import ROUNDING, CostEstimate
from ..latency.table import LatencyTable
from .attribution import Attribution, Place, Width, attribute
from .costs import StepCosts, Term
from .coupling import Axis, Coupling, find_axes
from .knapsack import Knapsack, Levels, State
from .reach import Reach
from .terms import channel_terms, latency_terms, mac_terms, parameter_terms

# Living bundles of an axis, least important first, and what is lost with 0, 1, ... of them left.
Ranked = tuple[list[int], tuple[float, ...]]
Level = tuple[int, int]  # an axis and how many of its bundles are left
MOST_LEVELS = 64  # of one axis; finer ones are thinned out
MOST_MEASURED = 8  # of one axis; in between what is lost follows the scores
CORRECTIONS = 4  # of the target, where whole axes save less than assumed


class StepSelector:
    """Chooses channels of one network in steps, for one unit, as often as it is asked.

    Args:
        estimate: Of the network; with a table for the unit ``latency``.
        unit: One of ``core.criteria.UNITS``.
        round_to: Widths are multiples of it; None takes the steps of the table.
    """

    def __init__(self, estimate: CostEstimate, unit: str, round_to: int | None = None) -> None:
        self.estimate, self.unit, self.round_to = estimate, unit, round_to
        self._sizes = {name: len(slope) for name, slope in estimate.slopes.items()}
        coupling = find_axes(estimate.graph, estimate.net, estimate.slopes)
        self.axes = coupling.axes
        self._attribution = attribute(self.axes, estimate.liveness, self._sizes, _parameters(estimate, unit))
        self._gathering = leaking(coupling, self._attribution, estimate.graph.nodes)
        self._reach = Reach(estimate.graph, self.axes, self._sizes, self._attribution.widths)
        self._price()

    def use_table(self, table: LatencyTable) -> None:
        """Count milliseconds by another table from now on; what follows which bundle is not looked for again.

        Raises:
            ArgumentError, LatencyError: As :meth:`..estimate.CostEstimate.use_table`.
        """
        self.estimate.use_table(table)
        self._price()

    def _price(self) -> None:
        self.costs = StepCosts(self._terms(self._attribution), self._reach)
        self._steps = [self._steps_of(index, self.round_to) for index in range(len(self.axes))]

    def choose(
        self,
        share: float,
        scores: Mapping[str, Tensor],
        dead: Mapping[str, Tensor],
        saved: Mapping[str, float] | None = None,
        *,
        lost: Mapping[Level, float] | None = None,
    ) -> dict[str, Tensor]:
        """As the other selector does; what one channel saves need not be known here.

        Args:
            lost: What is lost at each level of :meth:`levels`, where that was measured. The scores, by which the
                channels of an axis are ordered, are added, to tell apart what it cannot. None goes by them alone.
        """
        masks = self._choose(share, scores, dead, self._gathering, lost)
        if self._gathering and not self.meets(masks, share):
            masks = self._choose(share, scores, dead, frozenset(), lost)
        return masks

    def levels(
        self, scores: Mapping[str, Tensor], dead: Mapping[str, Tensor]
    ) -> Iterator[tuple[Level, dict[str, Tensor]]]:
        """What is to be measured for :meth:`choose`: a few levels of each axis, with the masks of what is gone there.

        Args:
            scores: By name; the least important of an axis go first.
            dead: What is gone already, by name; every activation.
        """
        ranked = [_by_importance(axis, scores, dead) for axis in self.axes]
        whole = [len(bundles) for bundles, _ in ranked]
        for index, most in enumerate(whole):
            for count in self._measured_counts(index, most):
                state = [*whole[:index], count, *whole[index + 1 :]]
                yield (index, count), self._masks(state, ranked, dead)

    @property
    def measurements(self) -> int:
        """How many :meth:`levels` there are while nothing is gone."""
        return sum(len(self._measured_counts(index, len(axis))) for index, axis in enumerate(self.axes))

    def meets(self, dead: Mapping[str, Tensor], share: float) -> bool:
        """Whether at most ``share`` is left with those gone."""
        return self.estimate.fits(dead, share, self.unit)

    def least(self, dead: Mapping[str, Tensor], enough: float) -> float:
        """Smallest share that can be left, whatever the scores; no need to look further than ``enough``."""
        alike = {name: torch.ones(len(mask)) for name, mask in dead.items()}
        for share in (enough, 0.0):
            found = self.estimate.share(self.choose(share, alike, dead), self.unit)
            if found <= enough * (1 + ROUNDING):
                return min(enough, found)
        return found

    def _choose(
        self,
        share: float,
        scores: Mapping[str, Tensor],
        dead: Mapping[str, Tensor],
        untouched: frozenset[int],
        measured: Mapping[Level, float] | None,
    ) -> dict[str, Tensor]:
        ranked = [_by_importance(axis, scores, dead) for axis in self.axes]
        if measured is not None:
            ranked = [self._with_measured(index, one, measured) for index, one in enumerate(ranked)]
        target = wanted = share * self.estimate.whole(self.unit)
        vital: set[int] = set()  # axes that turned out to be a last way through
        corrections = 0
        while True:
            levels = [
                self._levels(index, lost, index in untouched, index in vital)
                for index, (_, lost) in enumerate(ranked)
            ]
            knapsack = Knapsack(levels, self.costs)
            state = knapsack.solve(target)
            masks = self._masks(state, ranked, dead)
            cut = self._cut(state, ranked, dead)
            if cut is not None:
                vital.add(cut)
                continue
            actual = self.estimate.of(masks, self.unit)
            corrections += 1
            met = actual <= wanted * (1 + ROUNDING)
            if met or corrections == CORRECTIONS or not knapsack.meets(state, target):
                return masks
            target *= wanted / actual

    def _cut(self, state: State, ranked: Sequence[Ranked], dead: Mapping[str, Tensor]) -> int | None:
        """The first whole axis without which no way through is left; None if there is one."""
        whole = [axis for axis, count in enumerate(state) if count == 0 and ranked[axis][0]]

        def cuts(number: int) -> bool:
            kept = {axis: len(ranked[axis][0]) for axis in whole[number:]}
            counts = tuple(kept.get(axis, count) for axis, count in enumerate(state))
            return not self.estimate.connected(self._masks(counts, ranked, dead))

        if not whole or not cuts(len(whole)):
            return None
        first = bisect_left(range(1, len(whole) + 1), True, key=cuts)
        return whole[first]

    def _masks(
        self, state: Sequence[int], ranked: Sequence[Ranked], dead: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        masks = {name: mask.cpu().clone() for name, mask in dead.items()}
        for axis, count, (bundles, _) in zip(self.axes, state, ranked, strict=True):
            for index in bundles[: len(bundles) - count]:
                for name, position in axis.bundles[index]:
                    masks[name][position] = True
        return masks

    def _measured_counts(self, index: int, most: int) -> list[int]:
        """The levels of an axis that are measured, descending, while so many of its bundles are left."""
        return _thinned([count for count in self._steps[index] if count < most], MOST_MEASURED)

    def _with_measured(self, index: int, ranked: Ranked, measured: Mapping[Level, float]) -> Ranked:
        """An axis's bundles with what is lost measured added; between two levels it rises as the scores do."""
        bundles, lost = ranked
        more, upper = [0.0] * len(lost), len(bundles)
        for count in self._measured_counts(index, len(bundles)):
            found = max(0.0, measured.get((index, count), 0.0), more[upper])
            for between in range(count, upper):
                more[between] = more[upper] + (found - more[upper]) * _part(lost, count, between, upper)
            upper = count
        return bundles, tuple(one + other for one, other in zip(lost, more, strict=True))

    def _levels(self, index: int, lost: tuple[float, ...], untouched: bool, vital: bool) -> Levels:
        now = len(lost) - 1
        below = [] if untouched else [count for count in self._steps[index] if count < now]
        return Levels((now, *(count for count in below if count or not vital)), lost)

    def _steps_of(self, index: int, round_to: int | None) -> list[int]:
        """Numbers of bundles at which a step ends, descending, 0 included."""
        axis = self.axes[index]
        if round_to is not None:
            each = max(1, round_to // math.gcd(round_to, axis.weight))
            return [*range(len(axis) // each * each, 0, -each), 0]
        ends = {count for term in self.costs.on(index) for count in term.ends(index, len(axis))}
        return [*_thinned(sorted(ends, reverse=True), MOST_LEVELS), 0]

    def _terms(self, attribution: Attribution) -> list[Term]:
        estimate = self.estimate

        def width(place: Place) -> Width:
            found = attribution.widths.get(place)
            return _constant(place, estimate) if found is None else found

        if self.unit == "latency":
            assert estimate.latency is not None
            return list(latency_terms(estimate.latency, width))
        if self.unit == "channels":
            return list(channel_terms(self.axes, sum(self._sizes.values())))
        whole = estimate.liveness({})
        if self.unit == "macs":
            return list(mac_terms(estimate.graph, whole, estimate.states, width))
        return list(parameter_terms(estimate.graph, whole, _parameters(estimate, self.unit) or {}, width))


def _parameters(estimate: CostEstimate, unit: str) -> dict[str, Tensor] | None:
    """The parameters by name, where they are what is counted."""
    if unit != "parameters":
        return None
    return {name: estimate.states[name] for name, _ in estimate.net.named_parameters()}


def leaking(coupling: Coupling, attribution: Attribution, nodes: Sequence[Node]) -> frozenset[int]:
    """Axes with a tensor in which their channels live on when they are gone: what follows would have to select."""
    groups = {
        group: word
        for axis, words in zip(coupling.axes, attribution.codes, strict=True)
        for group, word in zip(axis.groups, words.tolist(), strict=True)
    }
    code = np.zeros(int(coupling.group_of.max(initial=-1)) + 1, np.int64)
    axis_of = np.full(len(code), -1)
    code[list(groups)] = list(groups.values())
    for index, axis in enumerate(coupling.axes):
        axis_of[list(axis.groups)] = index
    found: set[int] = set()
    for node in nodes:
        for dim in range(len(coupling.channels.sizes.get(node, ()))):
            if (node, dim) not in attribution.words:
                continue
            own, shown = coupling.along(node, dim), attribution.words[node, dim]
            lives_on = attribution.alive[node, dim] & ((code[own] & ~shown) != 0)
            found.update(axis_of[own[lives_on]].tolist())
    return frozenset(found)


def _by_importance(axis: Axis, scores: Mapping[str, Tensor], dead: Mapping[str, Tensor]) -> Ranked:
    living = {name: (~dead[name].cpu()).tolist() for name in axis.slopes}
    values = {name: scores[name].cpu().tolist() for name in axis.slopes}
    found = sorted(
        (math.fsum(values[name][position] for name, position in bundle if living[name][position]), index)
        for index, bundle in enumerate(axis.bundles)
        if any(living[name][position] for name, position in bundle)
    )
    lost = [0.0]
    for value, _ in found:
        lost.append(lost[-1] + value)
    return [index for _, index in found], tuple(reversed(lost))


def _constant(place: Place, estimate: CostEstimate) -> Width:
    tensor, dim = place
    size = estimate.states[tensor].shape[dim] if isinstance(tensor, str) else tensor.meta["val"].shape[dim]
    return Width(size, size, {})


def _part(lost: Sequence[float], lower: int, between: int, upper: int) -> float:
    """How far ``between`` lies on the way from ``upper`` to ``lower``, by what the scores say is lost: 0 to 1."""
    whole = lost[lower] - lost[upper]
    if whole > 0:
        return (lost[between] - lost[upper]) / whole
    return (upper - between) / (upper - lower)


def _thinned(counts: list[int], most: int) -> list[int]:
    """At most so many of them, evenly, the first and the last included."""
    if len(counts) <= most:
        return counts
    return [counts[round(k * (len(counts) - 1) / (most - 1))] for k in range(most)]
