"""Fair timing of two or more callables: interleaved rounds, medians, and the median of per-round ratios."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..core.arguments import checked
from ..core.errors import ArgumentError

LONGEST_SAMPLE_MS = 60_000.0
Runnable = Callable[[], object]


@dataclass(frozen=True)
class LatencyComparison:
    """Interleaved timings.

    Attributes:
        milliseconds: Per name, the time of one call in each round, in ms; all lists have one entry per round.
    """

    milliseconds: dict[str, list[float]]

    @property
    def medians_ms(self) -> dict[str, float]:
        """Median time of one call per name, in ms."""
        return {name: statistics.median(times) for name, times in self.milliseconds.items()}

    def ratios(self, name: str, over: str) -> list[float]:
        """How many times faster ``name`` was than ``over`` in each round.

        Each ratio compares neighbours in time, so a slow minute of the machine changes both and cancels.
        """
        pairs = zip(self.milliseconds[over], self.milliseconds[name], strict=True)
        return [slow / fast for slow, fast in pairs]

    def speedup(self, name: str, over: str) -> float:
        """How many times faster ``name`` is than ``over``: the median of :meth:`ratios`."""
        return statistics.median(self.ratios(name, over))

    def to_dict(self) -> dict[str, dict[str, list[float]] | dict[str, float]]:
        """Timings and medians as plain data."""
        return {"milliseconds": self.milliseconds, "medians_ms": self.medians_ms}


@checked()
def compare_latency(
    runnables: Mapping[str, Runnable],
    repeats: int = 30,
    warmup: int = 5,
    min_sample_ms: float = 2.0,
) -> LatencyComparison:
    """Time callables in turn (A B B A A B ...), so that drift of the machine hits all of them alike.

    Every second round runs backwards: who comes next finds the caches as the one before left them.

    Args:
        runnables: Name to a callable without arguments, which returns when its work is done.
        repeats: Rounds; each gives one time per name.
        warmup: Untimed calls of each before the first round.
        min_sample_ms: A faster callable is called several times per round, and the time divided.

    Raises:
        ArgumentError: If there is nothing to time, ``repeats`` is below 1, or ``min_sample_ms`` is more than a minute.
    """
    if not runnables or repeats < 1:
        raise ArgumentError(
            f"compare_latency needs at least one callable and one round, got {len(runnables)}, {repeats}"
        )
    if not 0 <= min_sample_ms <= LONGEST_SAMPLE_MS:
        raise ArgumentError(f"min_sample_ms must be between 0 and {LONGEST_SAMPLE_MS:g}, got {min_sample_ms}")
    calls = {name: _calls_per_sample(run, warmup, min_sample_ms) for name, run in runnables.items()}
    milliseconds: dict[str, list[float]] = {name: [] for name in runnables}
    names = list(runnables)
    for turn in range(repeats):
        for name in names[:: 1 if turn % 2 == 0 else -1]:
            milliseconds[name].append(_time_ms(runnables[name], calls[name]))
    return LatencyComparison(milliseconds)


def _calls_per_sample(run: Runnable, warmup: int, min_sample_ms: float) -> int:
    for _ in range(warmup):
        run()
    # The fastest of three: a call that was interrupted would make all samples too short.
    fastest = min(_time_ms(run, 1) for _ in range(3))
    return max(1, math.ceil(min_sample_ms / max(fastest, 1e-3)))


def _time_ms(run: Runnable, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) * 1000 / calls
