"""A table that is right about two networks: the one it was measured for, and the one that it chooses for a budget.

Layers that are measured one by one are scaled by the time of the network as a whole (:mod:`.whole`). What they then say
of a smaller one is off by some percent, and by more where a choice was made by them: that looks for widths whose times
are low, errors among them. So the network that is chosen is timed in turn with the original, the times of narrower
layers are bent (:mod:`.bending`) until the table says of both what was measured, and the choice is made again.

The first network gives the power, and with it what is better than what; from the second on the budget is approached by
what is paid always.

Requires: a table of this machine. Ensures: the table's estimate of the original stays; what it chooses was measured and
takes the budgeted share within ``TOLERANCE``, or is the best of at most ``TRIES`` networks: the slowest that is fast
enough, or one that misses it by less than ``NEAR``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import ExportError, SlopeError
from ...core.modules import Call, Inputs, as_inputs
from ...pruning.estimate import CostEstimate
from ...pruning.importance import random_scores
from ...pruning.latency.model import LatencyModel, captured, plain_copy
from ...pruning.latency.operations import find_operations
from ...pruning.latency.table import LatencyTable
from ...pruning.leaving_out import Loss, loss_increases
from ...pruning.mask import Mask, zero_mask
from ...pruning.removal import remove_channels
from ...pruning.select import check_choice, mask_for, too_fast
from ...pruning.steps.selector import Level, StepSelector
from ..engines import engine_named
from .bending import Bend, bent_by, fitted
from .measuring import Bench
from .store import Store
from .whole import digest_of, program_of

TOLERANCE = 0.02  # of the share: what a timing in turn repeats to
TRIES = 8  # networks that are chosen, at most
NEAR = 0.1  # of the share: what misses it by less is as near as its steps, and the machine, allow


def anchored(
    net: nn.Module,
    example_inputs: Inputs,
    table: LatencyTable,
    *,
    keep: float,
    scores: Mapping[str, Tensor] | None = None,
    round_to: int | None = None,
    cache: str | os.PathLike[str] | None = None,
    loss: Loss | None = None,
) -> tuple[LatencyTable, Mask]:
    """Time what a table chooses for a budget, and bend the table by it.

    Args:
        net: A rotated network; it is only read.
        example_inputs: As in :func:`rotated_relu.rotate`.
        table: Of the network, by :func:`.calibrate.calibrate`.
        keep: Share of the milliseconds that may be left, above 0 and below 1.
        scores: Of the channels, by name; random ones if None, for a training whose choice nobody knows yet.
        round_to: As of :func:`rotated_relu.select_channels`.
        cache: Where what is timed is kept, as of :func:`.calibrate.calibrate`.
        loss: As of :func:`rotated_relu.select_channels`.

    Returns:
        The table, and what it chooses.

    Raises:
        SlopeError: If ``keep`` is less than can be had, by the table as it was measured, or all that was chosen takes
            over a tenth more.
        CertificateError, CompactionError: If what was chosen cannot be removed.
    """
    check_choice(net, keep, "latency", scores, round_to)
    choices = _Choices(net, as_inputs(example_inputs), table, keep, scores, round_to, cache, loss)
    tries = _tried(choices, keep)
    best = _best(tries, keep)
    if best.share is not None and not best.near(keep):
        raise SlopeError(_out_of_reach(keep, _share(best), table))
    return best.table, best.mask


def _tried(choices: _Choices, keep: float) -> list[_Try]:
    """Networks that were chosen and timed, until one takes what it may, or the table is as right as it gets.

    Raises:
        SlopeError: If the budget cannot be met by the table as it was measured.
    """
    tries = [choices.by(Bend())]
    if tries[0].share is None:
        return tries
    bend = _next(tries, keep, choices)
    for _ in range(TRIES - 1):
        if abs(_share(tries[-1]) / keep - 1) <= TOLERANCE or any(bend.near(one.bend) for one in tries):
            break
        try:
            tries.append(choices.by(bend))
        except SlopeError:
            # Bent so far, the table does not have the budget any more.
            bend = bend.towards(tries[-1].bend, 0.5)
            continue
        bend = _next(tries, keep, choices)
    return tries


def _out_of_reach(keep: float, least: float, table: LatencyTable) -> str:
    return (
        f"{too_fast(keep)}: by the times of its layers it could, but timed as a whole ({table}) the fastest that was "
        f"found takes {least:.3g} of it, a speed-up of {1 / least:.3g}; ask for no more than that, or give a table to "
        "choose by it untimed"
    )


@dataclass(frozen=True)
class _Try:
    """A network that was timed.

    Attributes:
        bend: Of the table by which it was chosen.
        share: What it takes of the original's time; None if it cannot be exported.
        estimated: What the bent table says of it.
        table: The bent table.
        mask: What the table chose.
    """

    bend: Bend
    share: float | None
    estimated: float
    table: LatencyTable
    mask: Mask

    def meets(self, keep: float) -> bool:
        """Whether at most that share is left, as far as can be measured."""
        return _share(self) <= keep * (1 + TOLERANCE)

    def near(self, keep: float) -> bool:
        """Whether it is as near to that share as steps and the machine allow, or below it."""
        return _share(self) <= keep * (1 + NEAR)


class _Choices:
    """What a network's table chooses for a budget, with the times of narrower layers bent by a power."""

    def __init__(
        self,
        net: nn.Module,
        inputs: Call,
        table: LatencyTable,
        keep: float,
        scores: Mapping[str, Tensor] | None,
        round_to: int | None,
        cache: str | os.PathLike[str] | None,
        loss: Loss | None,
    ) -> None:
        self.net, self.loss = net, loss
        self.lost: dict[Level, float] = {}
        self.keep = keep
        self.scores, self.dead = random_scores(net) if scores is None else scores, zero_mask(net)
        self.estimate = CostEstimate(net, inputs, table)
        assert self.estimate.latency is not None
        self.measured: LatencyModel = self.estimate.latency
        self.selector = StepSelector(self.estimate, "latency", None if round_to == 1 else round_to)
        self.shares = _Shares(net, inputs, self.measured, cache)
        self.whole = self._widths({})

    def by(self, bend: Bend) -> _Try:
        """Choose, and time what is chosen.

        Raises:
            SlopeError: If the budget cannot be met by that table.
        """
        table = bent_by(self.measured, self.whole, bend)
        self.selector.use_table(table)
        mask = mask_for(self.selector, self.keep, self.scores, self.dead, self._lost())
        return _Try(bend, self.shares.of(mask), self.estimate.share(mask, "latency"), table, mask)

    def _widths(self, mask: Mapping[str, Tensor]) -> list[tuple[int, int]]:
        return self.measured.widths(self.estimate.liveness(mask))

    def _lost(self) -> Mapping[Level, float] | None:
        """What is lost at each level; a table that was bent may have others, which are measured then."""
        if self.loss is None:
            return None
        levels = self.selector.levels(self.scores, self.dead)
        more = [one for one in levels if one[0] not in self.lost]
        if more:
            self.lost |= loss_increases(self.net, self.loss, more)
        return self.lost

    def fitted(self, found: _Try) -> Bend:
        """The bend by which the table would have said what was measured."""
        return fitted(self.measured, self._widths(found.mask), self.whole, _share(found))


def _next(tries: Sequence[_Try], keep: float, choices: _Choices) -> Bend:
    """By which table to choose next."""
    first, *bent = tries
    if not bent:
        return choices.fitted(first)
    nearest = min(bent, key=lambda one: abs(math.log(_share(one) / keep)))
    return _between(bent, keep) or nearest.bend.stretched(nearest.estimated, _share(nearest))


def _between(tries: Sequence[_Try], keep: float) -> Bend | None:
    """A bend between the least that was fast enough and the one before it; None as long as one of them is missing.

    Nearer to that which missed the budget by less, but not by much: whole layers go at once, and with them time.
    """
    fast = min((one for one in tries if _share(one) <= keep), key=_always, default=None)
    if fast is None:
        return None
    before = [one for one in tries if _share(one) > keep and _always(one) < _always(fast)]
    slow = max(before, key=_always, default=None)
    if slow is None:
        return None
    part = math.log(_share(slow) / keep) / math.log(_share(slow) / _share(fast))
    return slow.bend.towards(fast.bend, min(max(part, 0.25), 0.75))


def _always(found: _Try) -> float:
    return found.bend.always


def _best(tries: Sequence[_Try], keep: float) -> _Try:
    """The slowest that is fast enough, or the fastest."""
    enough = [one for one in tries if one.meets(keep)]
    return max(enough, key=_share) if enough else min(tries, key=_share)


def _share(found: _Try) -> float:
    return 1.0 if found.share is None else found.share


class _Shares:
    """Shares of a network's time that what masks leave takes, each timed once and kept."""

    def __init__(
        self,
        net: nn.Module,
        inputs: Call,
        model: LatencyModel,
        cache: str | os.PathLike[str] | None,
    ) -> None:
        self.net, self.inputs, table = net, inputs, model.table
        self.bench = Bench(engine_named(table.engine), table.threads, table.batch_size)
        self.store = Store.open(replace(table, call_ms=0.0, entries={}, reference_ms=0.0, networks={}), cache)
        self.digest = digest_of(model.operations)
        self._found: list[tuple[Mask, float | None]] = []

    def of(self, mask: Mask) -> float | None:
        """Measured time with the channels of a mask removed over that of the network; None if it cannot be exported."""
        for other, share in self._found:
            if all(torch.equal(mask[name], gone) for name, gone in other.items()):
                return share
        self._found.append((mask, self._without(mask)))
        return self._found[-1][1]

    def _without(self, mask: Mask) -> float | None:
        small = remove_channels(self.net, self.inputs, mask).model
        known = self.store.table.networks
        digest = digest_of(find_operations(*captured(small, self.inputs)))
        if digest not in known or not known.get(self.digest):
            try:
                found = self._timed(small)
            except ExportError:
                return None
            if not known.get(self.digest):
                return found
            # In milliseconds of the day on which the whole was timed.
            self.store.keep_network(digest, found * known[self.digest])
        return self.store.table.networks[digest] / self.store.table.networks[self.digest]

    def _timed(self, small: nn.Module) -> float:
        return self.bench.share(self._program(small), self._whole, self._examples)

    @cached_property
    def _whole(self) -> Any:
        return self._program(self.net)

    @cached_property
    def _examples(self) -> Call:
        return plain_copy(self.net, self.inputs)[1].of_size(self.bench.batch_size)

    def _program(self, net: nn.Module) -> Any:
        return program_of(self.bench.engine, plain_copy(net, self.inputs)[0].eval(), self._examples)
