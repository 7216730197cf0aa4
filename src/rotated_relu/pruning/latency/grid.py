"""Measured times over input and output widths, and the staircase between them."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

from ...core.errors import LatencyError


@dataclass(frozen=True)
class LatencyGrid:
    """Times of one layer geometry.

    Engines compute in blocks of channels: all widths of a block cost what the full block does. So a width is rounded up
    to a multiple of the step, or to the next measured width where that is less, and only between those the time is
    interpolated, linearly along both axes.

    Attributes:
        inputs: Measured numbers of input channels, ascending; a single one if the time does not depend on them.
        outputs: Measured numbers of output channels, likewise.
        milliseconds: Time of one call for each input width (rows) and output width (columns), in ms.
        input_step: Input channels that the engine computes at once.
        output_step: Output channels that the engine computes at once.
        absent_ms: Time with no channel of either, in ms: 0 where the layer is no part of the program then; modules of
            layers that are gone are called still.

    Raises:
        LatencyError: If widths do not ascend from 1, times are missing or not finite, or a step is below 1.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    milliseconds: tuple[tuple[float, ...], ...]
    input_step: int = 1
    output_step: int = 1
    absent_ms: float = 0.0

    def __post_init__(self) -> None:
        for name, widths in (("inputs", self.inputs), ("outputs", self.outputs)):
            if not widths or widths[0] < 1 or any(one >= other for one, other in pairwise(widths)):
                raise LatencyError(
                    f"the {name} of a grid must be widths that ascend from 1, got {list(widths)}"
                )
        lengths = [len(row) for row in self.milliseconds]
        if lengths != [len(self.outputs)] * len(self.inputs):
            raise LatencyError(
                f"a grid of {len(self.inputs)} x {len(self.outputs)} widths needs as many times, got rows of {lengths}"
            )
        every = [self.absent_ms, *(time for row in self.milliseconds for time in row)]
        if not all(math.isfinite(time) and time >= 0 for time in every):
            raise LatencyError("the times of a grid must be finite numbers of milliseconds, 0 or more")
        if min(self.input_step, self.output_step) < 1:
            raise LatencyError(f"steps must be at least 1, got {self.input_step} and {self.output_step}")

    def at(self, inputs: int, outputs: int) -> float:
        """Time with so many channels, in ms; :attr:`absent_ms` with none of either: then the layer is gone.

        Raises:
            LatencyError: If a width is beyond what was measured.
        """
        if inputs == 0 or outputs == 0:
            return self.absent_ms
        self._check(inputs, outputs)
        row, down = _place(self.inputs, paid(inputs, self.inputs, self.input_step))
        column, right = _place(self.outputs, paid(outputs, self.outputs, self.output_step))
        upper = _between(self.milliseconds[row], column, right)
        return (
            upper
            if not down
            else upper + down * (_between(self.milliseconds[row + 1], column, right) - upper)
        )

    def _check(self, inputs: int, outputs: int) -> None:
        for name, width, measured in (("input", inputs, self.inputs), ("output", outputs, self.outputs)):
            if width > measured[-1]:
                raise LatencyError(
                    f"{width} {name} channels are beyond the table, which ends at {measured[-1]}"
                )

    @property
    def longest_ms(self) -> float:
        """Time with all channels that were measured, in ms."""
        return max(map(max, self.milliseconds))

    def mapped(self, time: Callable[[float], float]) -> LatencyGrid:
        """With every time replaced, that of no channel at all included."""
        rows = tuple(tuple(map(time, row)) for row in self.milliseconds)
        return replace(self, milliseconds=rows, absent_ms=time(self.absent_ms))

    def steps(self) -> tuple[list[int], list[int]]:
        """Input widths and output widths at which the time may fall, ascending: the last of each block."""
        return stairs(self.inputs, self.input_step), stairs(self.outputs, self.output_step)


def paid(width: int, measured: tuple[int, ...], step: int) -> int:
    """The width whose time is paid for another: the end of its block."""
    if len(measured) == 1:
        return measured[0]  # one time for all widths
    rounded = -(-width // step) * step
    following = bisect_left(measured, width)
    return min(rounded, measured[following]) if following < len(measured) else rounded


def stairs(measured: tuple[int, ...], step: int) -> list[int]:
    """Ends of all blocks up to the largest measured width."""
    if len(measured) == 1:
        return list(measured)
    ends = {paid(width, measured, step) for width in range(1, measured[-1] + 1)}
    return sorted(max(end, measured[0]) for end in ends)


def _place(measured: tuple[int, ...], width: int) -> tuple[int, float]:
    """Index of the measured width at or below another, and how far that is on the way to the next."""
    index = bisect_left(measured, width)
    if measured[index] == width or index == 0:
        return index, 0.0
    below = measured[index - 1]
    return index - 1, (width - below) / (measured[index] - below)


def _between(times: tuple[float, ...], index: int, share: float) -> float:
    return times[index] if not share else times[index] + share * (times[index + 1] - times[index])
