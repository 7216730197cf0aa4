"""A network's latency table: what is not known yet is measured, and kept for the next time.

Requires: a network that can be captured, an engine that is installed. Ensures: a table that has every operation of the
network up to its full widths, and whose estimate of the network is what that was measured to take; whatever happens,
the file of the cache holds all that was measured before, whole.

Measured in two passes, so that a limit of time leaves a coarse table rather than half of one: the narrowest and the
widest layer of every geometry, then what lies between, the geometries that cost most first.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import nn

from ...core.arguments import checked, need_count, need_number
from ...core.environment import device_name
from ...core.errors import ArgumentError
from ...core.modules import Call, Inputs, as_inputs
from ...core.progress import Task, showing, task
from ...pruning.latency.geometry import LayerGeometry
from ...pruning.latency.grid import LatencyGrid
from ...pruning.latency.model import captured, plain_copy
from ...pruning.latency.operations import find_operations
from ...pruning.latency.table import LatencyTable
from ...pruning.select import check_choice
from ..engines import engine_named
from .anchoring import anchored
from .measuring import Bench, Layer
from .probe import multiplications
from .store import Store
from .whole import as_a_whole, digest_of, whole_ms
from .widths import Range, Steps, absent_widths, actual_inputs, axes, covers, fit_step, ranges, two_sided

MINUTES = 5.0
PRECISIONS = ("fp32",)
LINE = range(20, 65, 4)  # widths at which the steps of an engine are looked for
CLASSES = {
    "dense": LayerGeometry("conv", (14, 14), (3, 3), (1, 1), (1, 1), (1, 1)),
    "depthwise": LayerGeometry("conv", (28, 28), (3, 3), (1, 1), (1, 1), (1, 1), group=(1, 1)),
    "linear": LayerGeometry("linear", (64,)),
}

REPEATS = 2  # of what is out of proportion
FALLS, RISES = 1.15, 1.3
NOISE_MS = 0.003

Pair = tuple[int, int]  # input and output channels


@checked("batch_size", "threads", "minutes")
def calibrate(
    net: nn.Module,
    example_inputs: Inputs,
    *,
    engine: str = "onnxruntime",
    batch_size: int | None = None,
    threads: int | None = None,
    precision: str = "fp32",
    minutes: float = MINUTES,
    keep: float | None = None,
    cache: str | os.PathLike[str] | None = None,
    progress: str = "none",
) -> LatencyTable:
    """Measure what the layers of a network cost in an engine on this machine, over all widths they can have.

    What was measured before is read from a file in the user's cache directory, one for each engine, version, processor,
    number of threads, batch size and precision; networks share what they have in common. Stopped at any point, it goes
    on from there.

    Args:
        net: The network with its full widths, rotated or not (it must be for ``keep``); it is only read.
        example_inputs: As in :func:`rotated_relu.rotate`, batch first.
        engine: ``onnxruntime``, ``openvino``, ``torch``, ``torch.compile``, or one that was registered.
        batch_size: Examples per call that the times are for; as many as the example inputs have if None.
        threads: Of the engine; torch's setting if None.
        precision: ``fp32``.
        minutes: Time that may be spent, above 0. A table that needs more of it is coarser, and finer the next time.
        keep: Share of the milliseconds, above 0 and at most 1, that channels are to be chosen for, as by a
            ``rr.SlopeBudget``. A network that the table chooses for it, by random scores, is timed as a whole then,
            and the table corrected by it: see :mod:`rotated_relu.deploy.latency.anchoring`.
        cache: Folder of the tables instead of the user's cache directory.
        progress: ``none``, ``bar``, ``lines``, or ``auto``: a bar in a terminal, else lines.

    Returns:
        The table, for ``select_channels(..., unit="latency", table=table)``, with what this network needs.

    Raises:
        UnknownNameError: If there is no such engine or progress.
        MissingPackageError: If its packages are not installed.
        ArgumentError: If a number is out of range.
        SlopeError: If ``keep`` is out of range or less than can be had, or there are no slopes to choose by.
        CaptureError: If the network cannot be captured.
        LatencyError: If the network has operations that cannot be measured, or the cache cannot be written.

    Example::

        >>> table = rr.calibrate(net, images[:1], engine="onnxruntime", batch_size=64)
        >>> mask = rr.select_channels(net, images[:1], keep=0.5, unit="latency", table=table)
    """
    found = engine_named(engine)
    inputs = as_inputs(example_inputs)
    batch_size = inputs.batch_size if batch_size is None else batch_size
    threads = torch.get_num_threads() if threads is None else threads
    _check(batch_size, threads, precision, minutes)
    if keep is not None:
        check_choice(net, keep, "latency")
    operations = find_operations(*captured(net, inputs))
    wanted = ranges(operations, exported=found.kind == "graph")
    empty = LatencyTable(
        found.name, found.version(), device_name(torch.device("cpu")), threads, batch_size, precision
    )
    store = Store.open(empty, cache)
    bench = Bench(found, threads, batch_size, store.table.reference_ms)
    work = _Calibration(bench, store, time.monotonic() + 60 * minutes)
    # Whoever calls this within a verb shows progress already.
    with contextlib.nullcontext() if progress == "none" else showing(progress):
        table = work.run(wanted)
        table = as_a_whole(table, operations, _whole(store, bench, net, inputs, digest_of(operations)))
        if keep in (None, 1):
            return table
        return anchored(net, inputs, table, keep=keep, cache=cache)[0]


def _whole(store: Store, bench: Bench, net: nn.Module, inputs: Call, digest: str) -> float:
    """Time of the network, from the store if it was measured before."""
    if digest not in store.table.networks:
        with task("timing the network as a whole", 1) as work:
            plain, examples = plain_copy(net, inputs)
            store.keep_network(digest, whole_ms(bench, plain.eval(), examples.of_size(bench.batch_size)))
            work.advance(1)
    return store.table.networks[digest]


@dataclass
class _Calibration:
    """One run; see the module's text."""

    bench: Bench
    store: Store
    deadline: float
    steps: dict[str, Steps] = field(default_factory=dict)

    def run(self, wanted: dict[LayerGeometry, Range]) -> LatencyTable:
        """Measure what is missing."""
        if any(not self._covers(geometry, widest) for geometry, widest in wanted.items()):
            if not (self.store.table.call_ms and self.store.table.reference_ms):
                self.store.keep_call(self.bench.call_ms, self.bench.reference_ms)
            jobs = list(self._jobs(wanted))
            planned = {(job.geometry, pair) for job in jobs for pair in job.pairs}
            total = sum(pair not in self._known_points(geometry) for geometry, pair in planned)
            with task(f"measuring layers in {self.bench.engine.name}", total) as work:
                for job in jobs:
                    if job.needed or time.monotonic() < self.deadline:
                        self._measure(job, work)
        entries = {geometry: self.store.table.entries[geometry] for geometry in wanted}
        return replace(self.store.table, entries=entries, networks={})

    def _covers(self, geometry: LayerGeometry, widest: Range) -> bool:
        grid = self.store.table.entries.get(geometry)
        if grid is None:
            return False
        inputs, outputs = axes(geometry, widest, Steps(grid.input_step, grid.output_step))
        rows = covers(grid.inputs, inputs, grid.input_step) or (
            not two_sided(geometry) and grid.inputs >= tuple(inputs)
        )
        return rows and covers(grid.outputs, outputs, grid.output_step)

    def _jobs(self, wanted: dict[LayerGeometry, Range]) -> Iterator[_Job]:
        missing = [geometry for geometry, widest in wanted.items() if not self._covers(geometry, widest)]
        cost = {geometry: multiplications(geometry, *_widest(wanted[geometry]), 1) for geometry in missing}
        for corners in (True, False):
            for geometry in sorted(missing, key=lambda one: -cost[one]):
                steps = self._steps(geometry)
                inputs, outputs = axes(geometry, wanted[geometry], steps, corners=corners)
                yield _Job(geometry, inputs, outputs, steps, corners)

    def _steps(self, geometry: LayerGeometry) -> Steps:
        kind = class_of(geometry)
        if kind not in self.steps:
            self.steps[kind] = self._known_steps(kind) or self._found_steps(kind)
        return self.steps[kind]

    def _known_steps(self, kind: str) -> Steps | None:
        """Those of another geometry of the class, so that one table has one staircase per class."""
        for geometry, grid in self.store.table.entries.items():
            if class_of(geometry) == kind:
                return Steps(grid.input_step, grid.output_step)
        return None

    def _found_steps(self, kind: str) -> Steps:
        if kind not in CLASSES:
            return Steps()
        geometry = CLASSES[kind]
        if not two_sided(geometry):
            times = self.bench.times([Layer(geometry, width, width) for width in LINE])
            return Steps(1, fit_step(LINE, times))
        times = self.bench.times([Layer(geometry, 64, width) for width in LINE])
        outputs = fit_step(LINE, times)
        times = self.bench.times([Layer(geometry, width, 64) for width in LINE])
        return Steps(fit_step(LINE, times), outputs)

    def _measure(self, job: _Job, work: Task) -> None:
        """Measure a geometry at all widths of a job that are not known, and write its entry."""
        known = self._known_points(job.geometry)
        inputs = sorted({*job.inputs, *(i for i, _ in known)})
        outputs = sorted({*job.outputs, *(o for _, o in known)})
        for row in inputs:
            missing = [(row, o) for o in outputs if (row, o) not in known]
            known |= self._times(job.geometry, missing)
            work.advance(len(missing))
        self._repeat_doubtful(job.geometry, known, inputs, outputs)
        smooth = falling([[known[row, o] for o in outputs] for row in inputs])
        absent = min(self._absent_ms(job.geometry), smooth[0][0])
        grid = LatencyGrid(tuple(inputs), tuple(outputs), smooth, job.steps.inputs, job.steps.outputs, absent)
        self.store.keep(job.geometry, grid)

    def _absent_ms(self, geometry: LayerGeometry) -> float:
        """Time of a geometry of which nothing is left: graphs do not have it then, modules are called with one channel.

        One that adds is not gone then, see :attr:`.operations.TimedOperation.remainder`.
        """
        if self.bench.engine.kind == "graph" or geometry.addition:
            return 0.0
        known = self.store.table.entries.get(geometry)
        if known is not None:
            return known.absent_ms
        return self.bench.times([Layer(geometry, *absent_widths(geometry))])[0]

    def _times(self, geometry: LayerGeometry, pairs: Sequence[Pair]) -> dict[Pair, float]:
        if not pairs:
            return {}
        layers = [Layer(geometry, actual_inputs(geometry, i, o), o) for i, o in pairs]
        return dict(zip(pairs, self.bench.times(layers), strict=True))

    def _repeat_doubtful(
        self, geometry: LayerGeometry, known: dict[Pair, float], inputs: list[int], outputs: list[int]
    ) -> None:
        """Measure again what cannot be, and believe the shorter time: a disturbance only makes it longer."""
        for _ in range(REPEATS):
            pairs = doubtful(known, inputs, outputs)
            if not pairs or time.monotonic() > self.deadline:
                return
            for pair, again in self._times(geometry, pairs).items():
                known[pair] = min(known[pair], again)

    def _known_points(self, geometry: LayerGeometry) -> dict[Pair, float]:
        grid = self.store.table.entries.get(geometry)
        if grid is None:
            return {}
        return {
            (i, o): grid.milliseconds[row][column]
            for row, i in enumerate(grid.inputs)
            for column, o in enumerate(grid.outputs)
        }


@dataclass(frozen=True)
class _Job:
    """Widths of one geometry that are measured before its entry is written."""

    geometry: LayerGeometry
    inputs: list[int]
    outputs: list[int]
    steps: Steps
    needed: bool  # whatever the time: without it there is no table

    @property
    def pairs(self) -> list[tuple[int, int]]:
        return [(i, o) for i in self.inputs for o in self.outputs]


def class_of(geometry: LayerGeometry) -> str:
    """Operations that an engine computes in the same blocks."""
    if geometry.kind in ("conv", "transposed", "shortcut"):
        return "depthwise" if geometry.group else "dense"
    if geometry.kind == "linear":
        return "linear"
    return "depthwise" if len(geometry.size) > 1 and geometry.kind not in ("attention", "matmul") else "other"


def doubtful(times: Mapping[Pair, float], inputs: Sequence[int], outputs: Sequence[int]) -> list[Pair]:
    """Widths whose time is out of proportion to that of their neighbours along a row or a column.

    A layer takes about as long as a wider one at most, and not much more than a narrower one for each channel.
    """
    lines = [[(i, o) for o in outputs] for i in inputs] + [[(i, o) for i in inputs] for o in outputs]
    found: dict[Pair, None] = {}
    for line in lines:
        for one, other in pairwise(line):
            wider = (other[0] * other[1]) / (one[0] * one[1])
            if times[one] > FALLS * times[other]:
                found[one] = None
            elif times[other] > RISES * wider * times[one] + NOISE_MS:
                found[other] = None
    return list(found)


def falling(times: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
    """Times none of which is above that of a wider layer: a narrower one can be filled up with zeros."""
    rows = [list(row) for row in times]
    for row in reversed(range(len(rows))):
        for column in reversed(range(len(rows[row]))):
            wider = [rows[row + 1][column]] if row + 1 < len(rows) else []
            wider += [rows[row][column + 1]] if column + 1 < len(rows[row]) else []
            rows[row][column] = min(rows[row][column], *wider) if wider else rows[row][column]
    return tuple(tuple(row) for row in rows)


def _widest(widest: Range) -> tuple[int, int]:
    return widest.inputs, widest.outputs


def _check(batch_size: int, threads: int, precision: str, minutes: float) -> None:
    need_count(batch_size, "batch_size")
    need_count(threads, "threads")
    if precision not in PRECISIONS:
        raise ArgumentError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if not 0 < need_number(minutes, "minutes") < float("inf"):
        raise ArgumentError(f"minutes must be above 0, got {minutes!r}")
