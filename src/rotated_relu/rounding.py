"""Choose how far to round widths by timing the candidates, because fewer MACs are not always less time.

Engines compute channels in blocks (8 or 16 floats to a vector register), so that 19 channels can take as long as 32.
Keeping a dead channel is exact; whether it pays depends on processor and engine. So: compact with each candidate, time
all of them in onnxruntime in turn, keep the fastest.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from .compact import Compacted, compact
from .errors import CompactionError, NothingRemovedWarning
from .export import to_onnx
from .graph import Inputs
from .latency import compare_latency
from .onnx_session import session_runner

CANDIDATES = (1, 8, 16)
WORTH = 0.03  # a larger rounding has to be this much faster, or the smaller network wins


@dataclass(frozen=True)
class Fastest:
    """Outcome of :func:`compact_fastest`.

    Attributes:
        result: The compaction that was fastest.
        round_to: Its rounding.
        milliseconds: For each candidate the median time of one call, in ms, per timing input.
    """

    result: Compacted
    round_to: int
    milliseconds: dict[int, list[float]]


def compact_fastest(
    net: nn.Module,
    example_inputs: Inputs,
    threshold: float = 0.1,
    candidates: Sequence[int] = CANDIDATES,
    *,
    timing_inputs: Sequence[Inputs] = (),
    rounds: int = 15,
    threads: int | None = None,
) -> Fastest:
    """Compact with each rounding and keep the one that onnxruntime runs fastest on this machine.

    Args:
        net: A rotated network; see :func:`rotated_relu.compact`.
        example_inputs: For compaction; a batch of 1 is enough.
        threshold: zeta, in units of slope.
        candidates: Values of ``round_to`` to try.
        timing_inputs: Inputs to time, such as a batch of 1 and a large one; all count alike. ``example_inputs`` if
            there are none.
        rounds: Interleaved timing rounds.
        threads: Of onnxruntime; torch's setting if None.

    Raises:
        CompactionError: If there is no candidate; and what :func:`rotated_relu.compact` raises.
    """
    if not candidates:
        raise CompactionError("compact_fastest needs at least one candidate for round_to, such as (1, 8, 16)")
    results = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NothingRemovedWarning)  # a large rounding may well keep everything
        for round_to in sorted(set(candidates)):
            results[round_to] = compact(net, example_inputs, threshold, round_to)
    files = {round_to: to_onnx(result.model, example_inputs)[0] for round_to, result in results.items()}
    milliseconds: dict[int, list[float]] = {round_to: [] for round_to in results}
    for inputs in timing_inputs or [example_inputs]:
        runners = {str(r): session_runner(content, inputs, threads) for r, content in files.items()}
        medians = compare_latency(runners, rounds).medians_ms
        for round_to in results:
            milliseconds[round_to].append(medians[str(round_to)])
    chosen = choose(milliseconds)
    return Fastest(results[chosen], chosen, milliseconds)


def choose(milliseconds: dict[int, list[float]]) -> int:
    """The candidate with the lowest geometric mean time; a smaller rounding wins within 3 %."""
    score = {r: sum(math.log(ms) for ms in times) / len(times) for r, times in milliseconds.items()}
    best = min(score.values())
    return min(r for r, value in score.items() if value <= best - math.log(1 - WORTH))
