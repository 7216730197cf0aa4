"""Correct a table by what networks that it chose took as a whole.

Two numbers change the times of narrower layers, and leave those of full width as they are: a *power*, by which all of
them rise or fall, and a part that is paid *always*, whatever goes. The first says how much less narrower layers save
than the table has it, and with that which choice is better; the second how far a choice has to go.

Requires: a table of this machine. Ensures: its estimate of the network as it is stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from scipy.optimize import brentq

from ...pruning.latency.grid import LatencyGrid
from ...pruning.latency.model import LatencyModel
from ...pruning.latency.table import LatencyTable
from .whole import as_a_whole

LEAST, MOST = 0.4, 2.5  # powers by which a table is bent; what they do not explain has other reasons
MOST_ALWAYS = 0.9  # of the longest time
ALIKE = 0.005  # of two bends: in power and in part

Widths = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Bend:
    """How times are changed: ``longest * (always + (1 - always) * (time / longest) ** power)`` of each geometry.

    Attributes:
        power: Above 0; below 1 narrower layers take longer than they were measured to.
        always: Part of the longest time that is paid whatever goes, for layers that are gone as well; below 0 they are
            quicker than they were measured to be.
    """

    power: float = 1.0
    always: float = 0.0

    def towards(self, other: Bend, part: float) -> Bend:
        """What lies a part of the way to another."""
        power, always = self.power, self.always
        return Bend(power + part * (other.power - power), always + part * (other.always - always))

    def near(self, other: Bend) -> bool:
        """Whether another says the same, as far as can be measured."""
        return max(abs(self.power - other.power), abs(self.always - other.always)) < ALIKE

    def stretched(self, estimated: float, measured: float) -> Bend:
        """With so much more paid always that a network is estimated to take what it took; the power stays.

        Args:
            estimated: Share of the whole network's time by the table bent by this, below 1.
            measured: Share that it took.
        """
        saved = (1 - self.always) * (1 - measured) / (1 - estimated)
        return replace(self, always=min(MOST_ALWAYS, 1 - saved))


def share_of(model: LatencyModel, part: Widths, whole: Widths) -> float:
    """Time with some widths over that with others."""
    return model.total(part) / model.total(whole)


def fitted(model: LatencyModel, part: Widths, whole: Widths, share: float) -> Bend:
    """The bend by which a table says of some widths that they take a share of the time of the whole network.

    A power alone, as long as it is between ``LEAST`` and ``MOST``. A power says nothing of layers that are gone: so
    what that of ``LEAST`` does not explain is taken to be paid always.

    Args:
        model: The network's operations and a table.
        part: Input and output channels of each operation, as what was chosen leaves them.
        whole: Those of the network.
        share: Measured, above 0; what cannot be had is approached.
    """

    def estimated(bend: Bend) -> float:
        return share_of(LatencyModel(model.operations, bent(model.table, bend)), part, whole)

    low, high = (estimated(Bend(power)) for power in (LEAST, MOST))
    if share <= high:
        return Bend(MOST)
    if share >= low:
        return Bend(LEAST).stretched(low, share) if low < 1 else Bend(LEAST)
    return Bend(float(brentq(lambda power: estimated(Bend(power)) - share, LEAST, MOST, xtol=1e-3)))


def bent_by(model: LatencyModel, whole: Widths, bend: Bend) -> LatencyTable:
    """A model's table, bent, with its estimate of the whole network as it was; arguments as of :func:`fitted`."""
    if bend == Bend():
        return model.table
    return as_a_whole(bent(model.table, bend), model.operations, model.total(whole))


def bent(table: LatencyTable, bend: Bend) -> LatencyTable:
    """A table with the times of all layers bent; see :class:`Bend`."""
    return replace(table, entries={geometry: _bent(grid, bend) for geometry, grid in table.entries.items()})


def _bent(grid: LatencyGrid, bend: Bend) -> LatencyGrid:
    longest = grid.longest_ms
    if not longest:
        return grid

    def time(before: float) -> float:
        share: float = (before / longest) ** bend.power
        return longest * max(0.0, bend.always + (1 - bend.always) * share)

    return grid.mapped(time)
