"""At which widths a layer is measured: where the staircase of its time has its edges, sparser the wider it gets.

Decides only, as plain data; nothing here runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ...pruning.latency.geometry import LayerGeometry
from ...pruning.latency.operations import WEIGHTED, TimedOperation

STEPS = (4, 8, 16, 32)  # block sizes that are told apart
FINE = 8  # blocks up to which every power of two and what lies half way between are measured
ALIKE = 1.25  # of two block sizes that explain the times as well as this, the larger is taken
TWO_SIDED = ("conv", "transposed", "shortcut", "linear", "matmul")  # kinds whose time depends on both widths


@dataclass(frozen=True)
class Range:
    """How wide a geometry is in a network.

    Attributes:
        inputs: Most input channels of all layers with it.
        outputs: Most output channels.
        fewest_inputs: Input channels of the narrowest of them, such as 3 of a first layer.
        fewest_outputs: Output channels likewise.
    """

    inputs: int
    outputs: int
    fewest_inputs: int
    fewest_outputs: int

    def joined(self, other: Range) -> Range:
        """What covers both."""
        return Range(
            max(self.inputs, other.inputs),
            max(self.outputs, other.outputs),
            min(self.fewest_inputs, other.fewest_inputs),
            min(self.fewest_outputs, other.fewest_outputs),
        )


@dataclass(frozen=True)
class Steps:
    """Channels that an engine computes at once, per class of operations.

    Attributes:
        inputs: Of what a dense layer reads.
        outputs: Of what any layer writes.
    """

    inputs: int = 1
    outputs: int = 1


def ranges(operations: Iterable[TimedOperation], *, exported: bool) -> dict[LayerGeometry, Range]:
    """The geometries of a network and how wide each gets.

    Args:
        operations: Of the network.
        exported: Whether the engine gets graphs, in which norms and slopes are folded.
    """
    found: dict[LayerGeometry, Range] = {}
    for operation in operations:
        widths = operation.inputs, operation.outputs
        parts = [(operation.geometry, widths)]
        if operation.remainder is not None:
            parts.append((operation.remainder, (widths[1], widths[1])))
        for part, (inputs, outputs) in parts:
            geometry = part.exported() if exported else part
            one = Range(inputs, outputs, inputs, outputs)
            found[geometry] = one.joined(found.get(geometry, one))
    return found


def two_sided(geometry: LayerGeometry) -> bool:
    """Whether the time depends on inputs and outputs apart; else they go together."""
    return geometry.kind in TWO_SIDED and not geometry.group


def axes(
    geometry: LayerGeometry, widest: Range, steps: Steps, *, corners: bool = False
) -> tuple[list[int], list[int]]:
    """Input and output widths to measure; of an operation on which inputs and outputs go together, outputs alone.

    Args:
        geometry: What is measured.
        widest: Widths to cover.
        steps: Of the engine, for operations of this class.
        corners: The narrowest and the widest alone.
    """
    if two_sided(geometry):
        inputs = axis(widest.inputs, steps.inputs, widest.fewest_inputs, corners=corners)
        return inputs, axis(widest.outputs, steps.outputs, widest.fewest_outputs, corners=corners)
    step = steps.outputs
    if geometry.group:  # whole groups
        step = -(-step // geometry.group[1]) * geometry.group[1]
    return [widest.inputs], axis(widest.outputs, step, widest.fewest_outputs, corners=corners)


def axis(widest: int, step: int, fewest: int, *, corners: bool = False) -> list[int]:
    """Widths up to one: ends of blocks, at doubling distances.

    From 9 blocks on, what lies half way between two powers of two is left out, apart from the three quarters of the
    widest itself, where most of what is pruned lies: between two ends of blocks the time is close to straight.

    Args:
        widest: The last of them.
        step: Channels of a block.
        fewest: Channels of the narrowest layer: less than a block may be a case of its own, as the 3 of an image are.
        corners: The narrowest and the widest alone.
    """
    blocks = max(1, widest // step)
    counts = {2**power for power in range(blocks.bit_length())}
    if blocks <= FINE:
        counts |= {3 * 2**power for power in range(blocks.bit_length())}
    counts = {count for count in counts if count <= blocks} | {max(1, round(0.75 * blocks))}
    widths = {count * step for count in counts if count * step < widest} | {widest}
    widths |= {fewest} if fewest < step else set()
    return sorted({min(widths), widest} if corners else widths)


def covers(measured: Sequence[int], wanted: Sequence[int], step: int) -> bool:
    """Whether measured widths, of another network perhaps, are as good as those that are wanted.

    They are if they reach as far, have the narrowest where that is less than a block, and are nowhere further apart
    than by a doubling.
    """
    close = all(other <= max(2 * one, (one // step + 1) * step) for one, other in pairwise(measured))
    narrow = wanted[0] in measured or wanted[0] >= step
    return close and narrow and measured[-1] >= wanted[-1]


def actual_inputs(geometry: LayerGeometry, inputs: int, outputs: int) -> int:
    """Channels that a layer reads when it is measured with these widths: what goes together follows the outputs."""
    if two_sided(geometry):
        return inputs
    if geometry.group:
        return outputs // geometry.group[1] * geometry.group[0]
    return outputs


def absent_widths(geometry: LayerGeometry) -> tuple[int, int]:
    """Input and output channels that a module has of which compaction left nothing: one, or one group.

    A dense layer reads none then: it returns zeros.
    """
    outputs = geometry.group[1] if geometry.group else 1
    if geometry.kind in WEIGHTED and not geometry.group:
        return 0, outputs
    return actual_inputs(geometry, 1, outputs), outputs


def fit_step(widths: Sequence[int], times: Sequence[float]) -> int:
    """The block size that explains times over widths best: a straight line in the number of blocks.

    Of those that do about equally well the largest is taken.
    """
    residuals = {step: _residual([-(-width // step) for width in widths], times) for step in STEPS}
    best = min(residuals.values())
    return max(step for step in STEPS if residuals[step] <= ALIKE * best + 1e-12)


def _residual(blocks: Sequence[int], times: Sequence[float]) -> float:
    """Sum of squares that a line through (blocks, times) leaves."""
    count = len(times)
    x, y = sum(blocks) / count, sum(times) / count
    spread = sum((block - x) ** 2 for block in blocks)
    slope = (
        sum((block - x) * (time - y) for block, time in zip(blocks, times, strict=True)) / spread
        if spread
        else 0.0
    )
    return sum((time - y - slope * (block - x)) ** 2 for block, time in zip(blocks, times, strict=True))
