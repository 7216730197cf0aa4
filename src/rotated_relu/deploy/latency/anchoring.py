"""A table that is right about two networks: the one it was measured for, and the one that it chooses for a budget.

Layers that are measured one by one are scaled by the time of the network as a whole (:mod:`.whole`). What they then say
of a smaller one is off by some percent, and by more where a choice was made by them: that looks for widths whose times
are low, errors among them. So the network that is chosen is timed in turn with the original, the times of narrower
layers are bent until the table says of both what was measured, and the choice is made again.

Requires: a table of this machine. Ensures: the table's estimate of the original stays; its share that the chosen
network takes is within ``TOLERANCE`` of what was measured, or ``TRIES`` networks were timed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from scipy.optimize import brentq
from torch import Tensor, nn

from ...core.errors import ExportError
from ...core.modules import Inputs, as_inputs
from ...nn.slopes import slopes
from ...pruning.estimate import CostEstimate
from ...pruning.latency.grid import LatencyGrid
from ...pruning.latency.model import LatencyModel, captured, plain_copy
from ...pruning.latency.operations import find_operations
from ...pruning.latency.table import LatencyTable
from ...pruning.mask import Mask
from ...pruning.removal import remove_channels
from ...pruning.select import choose_channels
from ..engines import engine_named
from .measuring import Bench
from .store import Store
from .whole import as_a_whole, digest_of, program_of

TOLERANCE = 0.02  # of the share: what a timing in turn repeats to
TRIES = 3  # networks that are timed
POWERS = 0.4, 2.5  # further off a table is not bent

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
) -> tuple[LatencyTable, Mask]:
    """Time what a table chooses for a budget, and bend the table by it.

    Args:
        net: A rotated network; it is only read.
        example_inputs: As in :func:`rotated_relu.rotate`.
        table: Of the network, by :func:`.calibrate.calibrate`.
        keep: Share of the milliseconds that may be left, above 0 and below 1.
        scores: As of :func:`rotated_relu.select_channels`.
        round_to: As there.
        cache: Where what is timed is kept, as of :func:`.calibrate.calibrate`.

    Returns:
        The table, and what it chooses.

    Raises:
        SlopeError: If ``keep`` is less than can be had, by the table as it was measured or bent.
        CertificateError, CompactionError: If what was chosen cannot be removed.
    """
    estimate, shares = CostEstimate(net, example_inputs, table), _Shares(net, example_inputs, table, cache)
    assert estimate.latency is not None
    first = estimate.latency
    whole = first.widths(estimate.liveness({}))
    for tried in range(1, TRIES + 1):
        mask = choose_channels(
            net, example_inputs, keep=keep, unit="latency", scores=scores, table=table, round_to=round_to
        )
        part = first.widths(estimate.liveness(mask))
        share = shares.of(mask)
        expected = share_of(LatencyModel(first.operations, table), part, whole)
        if share is None or tried == TRIES or abs(share / expected - 1) <= TOLERANCE:
            break
        table = bent_to(first, part, whole, share)
    return table, mask


def random_scores(net: nn.Module) -> dict[str, Tensor]:
    """Scores for a choice that is yet to be learned: by name, between 0 and 1, the same ones for the same network."""
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(slope.numel(), generator=generator) for name, slope in slopes(net).items()}


def share_of(model: LatencyModel, part: Widths, whole: Widths) -> float:
    """Time with some widths over that with others."""
    return model.total(part) / model.total(whole)


def bent_to(model: LatencyModel, part: Widths, whole: Widths, share: float) -> LatencyTable:
    """A table that says of some widths that they take a share of the time of the whole network, which stays as it is.

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
        power = low
    elif too_long(high) >= 0:
        power = high
    else:
        power = float(brentq(too_long, low, high, xtol=1e-3))
    return as_a_whole(bent(model.table, power), model.operations, model.total(whole))


def bent(table: LatencyTable, power: float) -> LatencyTable:
    """A table in which a layer takes its longest time times a power of its share of that."""
    return replace(table, entries={geometry: _bent(grid, power) for geometry, grid in table.entries.items()})


def _bent(grid: LatencyGrid, power: float) -> LatencyGrid:
    longest = max(map(max, grid.milliseconds))
    if not longest:
        return grid
    rows = (tuple(longest * (time / longest) ** power for time in row) for row in grid.milliseconds)
    return replace(grid, milliseconds=tuple(rows))


class _Shares:
    """Shares of a network's time that what masks leave takes, each timed once and kept."""

    def __init__(
        self,
        net: nn.Module,
        example_inputs: Inputs,
        table: LatencyTable,
        cache: str | os.PathLike[str] | None,
    ) -> None:
        self.net, self.inputs = net, as_inputs(example_inputs)
        self.bench = Bench(engine_named(table.engine), table.threads, table.batch_size)
        self.store = Store.open(replace(table, call_ms=0.0, entries={}, reference_ms=0.0, networks={}), cache)
        self.digest = self._digest(net)

    def of(self, mask: Mapping[str, Tensor]) -> float | None:
        """Measured time with the channels of a mask removed over that of the network; None if it cannot be exported."""
        small = remove_channels(self.net, self.inputs, mask).model
        known, digest = self.store.table.networks, self._digest(small)
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

    def _digest(self, net: nn.Module) -> str:
        return digest_of(find_operations(*captured(net, self.inputs)))
