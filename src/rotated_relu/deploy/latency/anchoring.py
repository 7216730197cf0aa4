"""A table that is right about two networks: the one it was measured for, and the one that it chooses for a budget.

Layers that are measured one by one are scaled by the time of the network as a whole (:mod:`.whole`). What they then say
of a smaller one is off by some percent, and by more where a choice was made by them: that looks for widths whose times
are low, errors among them. So the network that is chosen is timed in turn with the original, the times of narrower
layers are bent until the table says of both what was measured, and the choice is made again.

The first correction makes the table right about the network that was timed; another one is chosen by it, and where a
step of the widths too many or too few made that one miss the budget, further corrections lie between the two.

Requires: a table of this machine. Ensures: the table's estimate of the original stays; what it chooses was measured and
takes the budgeted share within ``TOLERANCE``, or is the best of ``TRIES`` networks: the slowest that is fast enough, or
one that misses it by less than ``NEAR``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from scipy.optimize import brentq
from torch import Tensor, nn

from ...core.errors import ExportError, SlopeError
from ...core.modules import Call, Inputs, as_inputs
from ...pruning.estimate import CostEstimate
from ...pruning.importance import random_scores
from ...pruning.latency.grid import LatencyGrid
from ...pruning.latency.model import LatencyModel, captured, plain_copy
from ...pruning.latency.operations import find_operations
from ...pruning.latency.table import LatencyTable
from ...pruning.leaving_out import Loss, loss_increases
from ...pruning.mask import Mask, zero_mask
from ...pruning.removal import remove_channels
from ...pruning.select import check_choice, mask_for
from ...pruning.steps.selector import Level, StepSelector
from ..engines import engine_named
from .measuring import Bench
from .store import Store
from .whole import as_a_whole, digest_of, program_of

TOLERANCE = 0.02  # of the share: what a timing in turn repeats to
TRIES = 5  # networks that are timed, at most
POWERS = 0.04, 2.5  # further off a table is not bent
LEAST = 0.4  # that is taken as a power
NEAR = 0.1  # of the share: what misses it by less is as near as its steps, and the machine, allow

Widths = Sequence[tuple[int, int]]


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
        SlopeError: If ``keep`` is less than can be had, by the table as it was measured or bent, or what it chooses
            takes over a tenth more.
        CertificateError, CompactionError: If what was chosen cannot be removed.
    """
    check_choice(net, keep, "latency", scores, round_to)
    choices = _Choices(net, as_inputs(example_inputs), table, keep, scores, round_to, cache, loss)
    tries: list[_Try] = []
    power = 1.0
    while len(tries) < TRIES:
        try:
            found = choices.by(power)
        except SlopeError:
            if any(one.meets(keep) for one in tries):
                break  # bent so far, the table says that the budget cannot be met: it has been
            raise
        if found.share is None:
            return found.table, found.mask
        tries.append(found)
        if abs(found.share / keep - 1) <= TOLERANCE:
            break
        power = _between(tries, keep) or choices.fitted(found)
    best = _best(tries, keep)
    if best.share is not None and best.share > (1 + NEAR) * keep:
        raise SlopeError(_out_of_reach(keep, min(map(_share, tries)), table))
    return best.table, best.mask


def _out_of_reach(keep: float, least: float, table: LatencyTable) -> str:
    return (
        f"the network cannot come down to {keep:g} of its time, a speed-up of {1 / keep:.3g}: by the times of its "
        f"layers it could, but timed as a whole ({table}) the fastest that was found takes {least:.3g} of it, a "
        f"speed-up of {1 / least:.3g}; ask for no more than that, or give a table to choose by it untimed"
    )


@dataclass(frozen=True)
class _Try:
    """A network that was timed.

    Attributes:
        power: By which power of the times it was chosen.
        share: What it takes of the original's time; None if it cannot be exported.
        table: The bent table.
        mask: What the table chose.
    """

    power: float
    share: float | None
    table: LatencyTable
    mask: Mask

    def meets(self, keep: float) -> bool:
        """Whether at most that share is left, as far as can be measured."""
        return self.share is not None and self.share <= keep * (1 + TOLERANCE)


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
        self.whole = self.measured.widths(self.estimate.liveness({}))

    def by(self, power: float) -> _Try:
        """Choose, and time what is chosen.

        Raises:
            SlopeError: If the budget cannot be met by that table.
        """
        table = self.measured.table if power == 1 else bent_by(self.measured, self.whole, power)
        self.selector.use_table(table)
        mask = mask_for(self.selector, self.keep, self.scores, self.dead, self._lost())
        return _Try(power, self.shares.of(mask), table, mask)

    def _lost(self) -> Mapping[Level, float] | None:
        """What is lost at each level; a table that was bent may have others, which are measured then."""
        if self.loss is None:
            return None
        levels = self.selector.levels(self.scores, self.dead)
        more = [one for one in levels if one[0] not in self.lost]
        if more:
            self.lost |= loss_increases(self.net, self.loss, more)
        return self.lost

    def fitted(self, found: _Try) -> float:
        """The power by which the table would have said what was measured."""
        assert found.share is not None
        part = self.measured.widths(self.estimate.liveness(found.mask))
        return fitted_power(self.measured, part, self.whole, found.share)


def _between(tries: Sequence[_Try], keep: float) -> float | None:
    """A power between one that left too much and one that left too little; None as long as one of them is missing."""
    known = [(one.share, one.power) for one in tries if one.share is not None]
    slow = min((one for one in known if one[0] > keep), default=None)
    fast = max((one for one in known if one[0] <= keep), default=None)
    if slow is None or fast is None:
        return None
    part = math.log(slow[0] / keep) / math.log(slow[0] / fast[0])
    return slow[1] + part * (fast[1] - slow[1])


def _best(tries: Sequence[_Try], keep: float) -> _Try:
    """The slowest that is fast enough, or the fastest."""
    enough = [one for one in tries if one.meets(keep)]
    return max(enough, key=_share) if enough else min(tries, key=_share)


def _share(found: _Try) -> float:
    return 1.0 if found.share is None else found.share


def share_of(model: LatencyModel, part: Widths, whole: Widths) -> float:
    """Time with some widths over that with others."""
    return model.total(part) / model.total(whole)


def fitted_power(model: LatencyModel, part: Widths, whole: Widths, share: float) -> float:
    """The power by which a table says of some widths that they take a share of the time of the whole network.

    Args:
        model: The network's operations and a table.
        part: Input and output channels of each operation, as what was chosen leaves them.
        whole: Those of the network.
        share: Measured, above 0; what cannot be had with ``POWERS`` is approached.
    """

    def too_long(power: float) -> float:
        return share_of(LatencyModel(model.operations, bent(model.table, power)), part, whole) - share

    low, high = POWERS
    if too_long(low) <= 0:
        return low
    if too_long(high) >= 0:
        return high
    return float(brentq(too_long, low, high, xtol=1e-3))


def bent_by(model: LatencyModel, whole: Widths, power: float) -> LatencyTable:
    """A model's table, bent, with its estimate of the whole network as it was; arguments as of :func:`fitted_power`."""
    return as_a_whole(bent(model.table, power), model.operations, model.total(whole))


def bent(table: LatencyTable, power: float) -> LatencyTable:
    """A table in which a layer takes its longest time times a power of its share of that.

    A power says nothing of layers that are gone. So what a power of ``LEAST`` does not explain is taken to be paid
    whatever goes: of that power's times the part ``power / LEAST``, and for the rest the longest. Of a branch that is
    gone something stays, and engines that run modules call its layers still.
    """
    return replace(table, entries={geometry: _bent(grid, power) for geometry, grid in table.entries.items()})


def _bent(grid: LatencyGrid, power: float) -> LatencyGrid:
    longest = grid.longest_ms
    if not longest:
        return grid
    part = min(1.0, power / LEAST)
    always = (1 - part) * longest
    exponent = max(power, LEAST)
    return grid.mapped(lambda time: always + part * longest * (time / longest) ** exponent, always)


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
        inputs = plain_copy(self.net, self.inputs)[1].of_size(self.bench.batch_size)
        part, whole = (
            program_of(self.bench.engine, plain_copy(net, self.inputs)[0].eval(), inputs)
            for net in (small, self.net)
        )
        return self.bench.share(part, whole, inputs)
