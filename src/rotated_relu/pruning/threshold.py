r"""Search the threshold zeta: slopes with :math:`|a| < \zeta` are set to 0 and their filters dropped.

Which rule picks zeta. The paper takes a zeta at which a validation score "does not fall or falls
negligibly". A score over a finite validation set is noisy, so neither obvious reading is safe: stopping
before the *first* candidate that misses the floor lets one unlucky image end the search, and taking the
*largest* candidate that reaches the floor lets one lucky network far beyond the cliff win. Here a candidate
counts only if it reaches the floor **and the evaluated candidate just below it does too**; the largest such
candidate wins. One dip is stepped over, one lucky peak is ignored. (Each candidate is a network of its own,
so a dip below it is no argument against it; it is the isolated pass that is more likely luck than merit.)

How few evaluations suffice. Only the order of the slopes' magnitudes matters, so candidates lie between two
neighbouring magnitudes and are spaced by *how many filters they kill*, not by value. A coarse pass over that
order shows the whole curve, the cliff included; the rest of the evaluations bisect at its edge.

Source: Nayak and Kalyani, TMLR 2024, Section 4 (the thresholding; the search is ours).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from torch import Tensor, nn

from ..core.arguments import checked, need_callable, need_number
from ..core.counting import count_macs, count_parameters
from ..core.criteria import COUNTED_UNITS, Criterion
from ..core.errors import CompactionError, NothingRemovedWarning, SlopeError, ThresholdError, UnknownNameError
from ..nn.slopes import slopes
from .candidates import between, magnitudes_of, spread
from .candidates import checked as checked_candidates
from .mask import Mask, criterion_by, masked, threshold_mask, zero_mask
from .removal import remove_channels

Evaluate = Callable[[nn.Module], float]
Cost = Callable[[nn.Module, float], Mapping[str, float]]

COARSE_SHARE = 2 / 3  # of the evaluations; the rest refine the edge


@dataclass(frozen=True)
class SweepPoint:
    """One evaluated threshold.

    Attributes:
        threshold: zeta.
        score: What ``evaluate`` returned with every ``|a| < zeta`` set to 0.
        alive: Slopes that are not 0 there.
        cost: What ``cost`` returned, in its own units; empty if none was asked for, or if nothing of the
            network would be left.
    """

    threshold: float
    score: float
    alive: int
    cost: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Threshold:
    """A threshold and how it was found; plain data, ``to_dict`` for JSON.

    Attributes:
        value: The chosen zeta; 0.0 if no slope can be dropped.
        score: Validation score at ``value``.
        baseline_score: Validation score with all slopes as trained.
        alive: Slopes left alive.
        total: All slopes of the network.
        tolerance: Allowed fall of the score, in the score's unit (None in a search for a budget).
        budget: Fractions to keep that were asked for (None in a search for a score).
        kept: Fractions of each cost kept at ``value`` (empty without a cost).
        sweep: Every evaluated threshold, ascending.
        criterion: What kind of score the threshold is compared with, divided by what, and the budget; plain data too.
        mask: Which channels go at ``value``; for ``rr.compact(net, example_inputs, mask=found.mask)``. Not in
            ``to_dict``.
    """

    value: float
    score: float
    baseline_score: float
    alive: int
    total: int
    tolerance: float | None
    budget: dict[str, float] | None
    kept: dict[str, float]
    sweep: tuple[SweepPoint, ...] = field(repr=False)
    criterion: Criterion
    mask: Mask = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the same as dictionaries and lists, for JSON."""
        plain = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "mask"}
        return {
            **plain,
            "sweep": [asdict(point) for point in self.sweep],
            "criterion": self.criterion.to_dict(),
        }


@checked()
def find_threshold(
    net: nn.Module,
    evaluate: Evaluate,
    *,
    tolerance: float = 0.0,
    budget: Mapping[str, float] | None = None,
    cost: Cost | None = None,
    example_inputs: Any = None,
    candidates: Sequence[float] | None = None,
    scores: Mapping[str, Tensor] | None = None,
    max_evaluations: int = 24,
    known: Sequence[SweepPoint] = (),
    evaluated: Callable[[SweepPoint], None] | None = None,
) -> Threshold:
    """Find the largest threshold that keeps the score, or the smallest that meets a budget.

    The network's slopes are changed during the search and are restored bit for bit before this returns or
    raises.

    Args:
        net: A network with slopes.
        evaluate: ``evaluate(net) -> score`` on *validation* data, higher is better. Must not change the
            weights.
        tolerance: How far the score may fall below that at threshold 0, in the score's unit (0.2 for 0.2
            points if ``evaluate`` returns percent). Not used with a budget.
        budget: Fractions to keep, for example ``{"macs": 0.5}``; several must all be met. Names:
            ``channels`` (slopes left alive), ``macs`` and ``parameters`` (of the compacted network, needs
            ``example_inputs``), or whatever ``cost`` returns.
        cost: ``cost(net, threshold) -> {name: amount}``, called while the channels below the threshold are 0.
            It may raise :class:`SlopeError` or :class:`CompactionError` where nothing of the network would
            be left. With a cost and no budget the costs are recorded in the sweep.
        example_inputs: As in :func:`rotated_relu.rotate`, for the built-in ``macs`` and ``parameters``.
        candidates: Thresholds to try instead of those derived from the slopes.
        scores: Rank the channels by these instead of by ``|a|``: name of each slope to a score per channel, see
            :mod:`rotated_relu.pruning.importance`. The threshold is in their unit then, and no zeta: what is to go is
            in ``found.mask``.
        max_evaluations: Upper bound on calls of ``evaluate``. Explicit candidates are all tried; a budget
            takes about log2(number of slopes) calls.
        known: Points of a search that was stopped, on this network with these options; not evaluated again.
        evaluated: Called with every point once it is known, to keep it for a search that goes on.

    Returns:
        The threshold, the mask, the score, and the sweep. See the module's text for the rule.

    Raises:
        SlopeError: If the network has no slopes, or some are not finite; names the activation.
        ThresholdError: If a score is not a finite number, a candidate kills every slope, or the budget
            cannot be met.
        UnknownNameError: If the budget names an unknown cost.

    Example::

        >>> found = rr.find_threshold(net, lambda n: accuracy(n, validation), tolerance=0.2)
        >>> result = rr.compact(net, example_inputs, mask=found.mask)
    """
    need_callable(evaluate, "evaluate")
    magnitudes = magnitudes_of(net, scores)
    _check_options(tolerance, budget, max_evaluations)
    zetas = between(magnitudes) if candidates is None else checked_candidates(candidates, magnitudes)
    if budget is not None and cost is None:
        cost = _builtin_cost(budget, example_inputs)
    search = _Search(net, evaluate, cost, zetas, max_evaluations, scores)
    search.known = {point.threshold: point for point in known}
    search.evaluated = evaluated
    if budget is not None:
        return search.for_budget(dict(budget))
    return search.for_score(tolerance, try_all=candidates is not None)


def compaction_cost(example_inputs: Any, round_to: int = 1) -> Cost:
    """Return a cost function: MACs and parameters of the network that compaction would leave.

    Args:
        example_inputs: As in :func:`rotated_relu.rotate`; the MACs are those of these inputs.
        round_to: As in :func:`rotated_relu.compact`.
    """

    def cost(net: nn.Module, threshold: float) -> dict[str, float]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NothingRemovedWarning)
            # The slopes below the threshold, or below a score, are 0 already.
            small = remove_channels(net, example_inputs, zero_mask(net), round_to).model
        return {
            "macs": float(sum(count_macs(small, example_inputs).values())),
            "parameters": float(count_parameters(small)),
        }

    return cost


class _Search:
    """The evaluated part of an ascending list of thresholds, the first of which is 0."""

    def __init__(
        self,
        net: nn.Module,
        evaluate: Evaluate,
        cost: Cost | None,
        zetas: list[float],
        max_evaluations: int,
        scores: Mapping[str, Tensor] | None,
    ) -> None:
        self.net, self.evaluate, self.cost, self.scores = net, evaluate, cost, scores
        self.zetas, self.max_evaluations = zetas, max_evaluations
        self.visited: dict[int, SweepPoint] = {}
        self.known: dict[float, SweepPoint] = {}
        self.evaluated: Callable[[SweepPoint], None] | None = None
        self.total = sum(slope.numel() for slope in slopes(net).values())

    def visit(self, index: int) -> SweepPoint:
        if index not in self.visited:
            zeta = self.zetas[index]
            self.visited[index] = self.known.get(zeta) or self._evaluated(zeta)
            if self.evaluated is not None:
                self.evaluated(self.visited[index])
        return self.visited[index]

    def _evaluated(self, zeta: float) -> SweepPoint:
        with masked(self.net, threshold_mask(self.net, zeta, self.scores)) as alive:
            cost = self._cost(zeta, alive)
            score = _as_score(self.evaluate(self.net), zeta)
        return SweepPoint(zeta, score, alive, cost)

    def _cost(self, zeta: float, alive: int) -> dict[str, float]:
        if self.cost is None:
            return {}
        try:
            # Slopes that a score sent to 0 say nothing about the size of the others.
            costs = self.cost(self.net, zeta if self.scores is None else 0.0)
            return {"channels": float(alive), **{k: float(v) for k, v in costs.items()}}
        except (SlopeError, CompactionError):
            # At threshold 0 nothing has been dropped yet, so the fault lies elsewhere.
            if zeta == 0:
                raise
            return {}

    def is_dead(self, point: SweepPoint) -> bool:
        return self.cost is not None and not point.cost

    def for_score(self, tolerance: float, try_all: bool) -> Threshold:
        last = len(self.zetas) - 1
        coarse = last if try_all else max(1, int(COARSE_SHARE * (self.max_evaluations - 1)))
        for index in spread(last, coarse):
            self.visit(index)
        floor = self.visited[0].score - tolerance
        best = self._best(floor)
        while not try_all and len(self.visited) < self.max_evaluations:
            above = min((i for i in self.visited if i > best), default=best)
            if above - best < 2:
                break
            self.visit((best + above) // 2)
            best = self._best(floor)
        return self._result(best, tolerance=tolerance, budget=None)

    def _best(self, floor: float) -> int:
        """Largest evaluated index that passes together with the evaluated index just below it."""
        best, below_passes = 0, True
        for index in sorted(self.visited):
            point = self.visited[index]
            passes = point.score >= floor and not self.is_dead(point)
            if passes and below_passes:
                best = index
            below_passes = passes
        return best

    def for_budget(self, budget: dict[str, float]) -> Threshold:
        """Bisect for the smallest threshold that meets every budget: costs never rise with zeta."""
        _check_names(budget, self.visit(0).cost)
        low, high = 0, len(self.zetas) - 1
        if self._within(self.visited[0], budget):
            return self._result(0, tolerance=None, budget=budget)
        while high - low > 1:
            middle = (low + high) // 2
            point = self.visit(middle)
            if self.is_dead(point) or self._within(point, budget):
                high = middle
            else:
                low = middle
        point = self.visit(high)
        if self.is_dead(point) or not self._within(point, budget):
            raise ThresholdError(self._unreachable(budget))
        return self._result(high, tolerance=None, budget=budget)

    def _fractions(self, point: SweepPoint) -> dict[str, float]:
        whole = self.visited[0].cost
        return {name: amount / whole[name] if whole[name] else 0.0 for name, amount in point.cost.items()}

    def _within(self, point: SweepPoint, budget: dict[str, float]) -> bool:
        fractions = self._fractions(point)
        return all(fractions[name] <= limit for name, limit in budget.items())

    def _unreachable(self, budget: dict[str, float]) -> str:
        smallest = max((p for p in self.visited.values() if not self.is_dead(p)), key=lambda p: p.threshold)
        wanted = ", ".join(f"{limit:g} of the {name}" for name, limit in budget.items())
        reached = self._fractions(smallest)
        least = ", ".join(f"{reached[name]:.3g} of the {name}" for name in budget)
        return (
            f"no threshold keeps at most {wanted}: at {smallest.threshold:.4g} still {least}, "
            "and a larger one leaves no working network; allow more, or train with a stronger regularizer on the "
            "slopes"
        )

    def _result(self, best: int, tolerance: float | None, budget: dict[str, float] | None) -> Threshold:
        chosen = self.visited[best]
        mask = threshold_mask(self.net, chosen.threshold, self.scores)
        criterion = replace(criterion_by(self.scores, chosen.threshold), keep=budget or {})
        return Threshold(
            value=chosen.threshold,
            score=chosen.score,
            baseline_score=self.visited[0].score,
            alive=chosen.alive,
            total=self.total,
            tolerance=tolerance,
            budget=budget,
            kept=self._fractions(chosen),
            sweep=tuple(self.visited[index] for index in sorted(self.visited)),
            criterion=criterion,
            mask=replace(mask, criterion=criterion),
        )


def _check_options(tolerance: float, budget: Mapping[str, float] | None, max_evaluations: int) -> None:
    if not tolerance >= 0 or math.isinf(tolerance):
        raise ThresholdError(f"tolerance must be 0 or more, in the unit of the score, got {tolerance}")
    if max_evaluations < 3:
        raise ThresholdError(f"max_evaluations must be at least 3, got {max_evaluations}")
    if budget is None:
        return
    if not budget:
        raise ThresholdError(f"the budget names no cost; known: {', '.join(COUNTED_UNITS)}")
    for name, limit in budget.items():
        if not 0 < need_number(limit, f"budget {name!r}") <= 1:
            raise ThresholdError(
                f"budget {name!r} is the fraction to keep, above 0 and at most 1, got {limit!r}"
            )


def _builtin_cost(budget: Mapping[str, float], example_inputs: Any) -> Cost:
    _check_names(budget, COUNTED_UNITS)
    if set(budget) == {"channels"}:
        return lambda net, threshold: {}
    if example_inputs is None:
        raise ThresholdError(f"a budget on {', '.join(budget)} needs example_inputs, to count on the network")
    return compaction_cost(example_inputs)


def _check_names(budget: Mapping[str, float], known: Any) -> None:
    for name in budget:
        if name not in known:
            raise UnknownNameError("budget", name, known)


def _as_score(score: Any, zeta: float) -> float:
    try:
        value = float(score)
    except (TypeError, ValueError) as error:
        raise ThresholdError(f"evaluate must return a number, got {type(score).__name__}") from error
    if not math.isfinite(value):
        raise ThresholdError(
            f"evaluate returned {value} at threshold {zeta:.4g}; "
            "it must return a finite score, higher is better"
        )
    return value
