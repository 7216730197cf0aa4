"""Decide by timings which candidate is fastest, and believe it only if it wins twice.

Timings are noisy: the fastest of several candidates is often the luckiest, and a choice by the lowest median can turn
out slower than what was there before. So everything is judged by *paired* times, the ratios within rounds in which all
candidates run in turn, and a candidate has to win

1. a heat of a few rounds, which leaves the best three,
2. a final of many rounds against the reference and against each other,
3. a confirmation against the reference.

Each of them sets the engines up anew, since two set-ups of one network differ in where their memory lies and on which
cores they run.

To win means: by a sign test (one-sided, 95 %), in a clear majority of rounds by a margin. Whatever is not proved leaves
the reference in place. Nothing here runs a clock: who calls passes a function that does.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .timing import LatencyComparison

CONFIDENCE = 0.95
MARGIN = 0.02  # a winner is at least this much faster over all inputs
FLOOR = 0.97  # and surely not slower than this at any of them,
NOISE = 0.01  # nor slower by more than this in the median
HEAT_ROUNDS = 3
FINALISTS = 3
SAMPLE_MS = 5.0  # what runs faster than that is called several times per round
FEWEST_ROUNDS = 8  # the fewest in which one disturbed round does not decide
SECONDS = 3.0  # per input, for the final and again for the confirmation

Timer = Callable[[Sequence[str], Sequence[int]], list[LatencyComparison]]


@dataclass(frozen=True)
class Verdict:
    """Outcome of :func:`settle`.

    Attributes:
        chosen: The winner, or the reference if nothing was proved faster twice.
        speedup: How many times faster than the reference, per input: the median ratio of the confirmation, which
            the choice has not seen. Ones for the reference itself.
        milliseconds: For each candidate the median time of one call, in ms, per input.
    """

    chosen: str
    speedup: list[float]
    milliseconds: dict[str, list[float]]


def settle(
    timer: Timer, names: Sequence[str], inputs: int = 1, original: str | None = None, rounds: int = 15
) -> Verdict:
    """Find the fastest of some candidates.

    Args:
        timer: Called with names and rounds per input; sets everything up anew, and returns one comparison per input.
        names: The candidates, simpler ones first; a later one has to be proved faster than those before.
        inputs: How many inputs there are; all count alike.
        original: The one of them that no winner may be slower than at any input. If None, the first is the
            reference, and only the geometric mean over the inputs counts.
        rounds: Of the final and the confirmation, see :func:`enough_rounds`.

    Raises:
        ValueError: If there are no candidates.
    """
    if not names or original not in (None, *names):
        raise ValueError(f"settle needs candidates, the original among them, got {list(names)}, {original!r}")
    reference = names[0] if original is None else original
    heats = timer(names, [HEAT_ROUNDS] * inputs)
    milliseconds = {name: [heat.medians_ms[name] for heat in heats] for name in names}
    front = [name for name in names if name == reference or name in _fastest(heats, reference)]
    kept = Verdict(reference, [1.0] * inputs, milliseconds)
    if len(front) == 1:
        return kept
    final = timer(front, [enough_rounds(heat, front, rounds) for heat in heats])
    milliseconds |= {name: [timed.medians_ms[name] for timed in final] for name in front}
    best = winner(final, front, original)
    if best == reference:
        return kept
    pair = [reference, best]
    again = timer(pair, [enough_rounds(heat, pair, rounds) for heat in heats])
    if winner(again, pair, original) == reference:
        return kept
    return Verdict(best, [timed.speedup(best, reference) for timed in again], milliseconds)


def winner(times: Sequence[LatencyComparison], names: Sequence[str], original: str | None = None) -> str:
    """The last of the candidates, in order, that is proved faster than those in front before it.

    With an original, only those take part that beat it, and it wins if there are none.
    """
    best = original
    for name in names:
        if name == original:
            continue
        if original is not None and not (
            never_slower(times, name, original) and faster(times, name, original)
        ):
            continue
        if best in (None, original) or faster(times, name, str(best)):
            best = name
    return str(best)


def faster(times: Sequence[LatencyComparison], name: str, over: str) -> bool:
    """Whether a candidate is surely faster by the margin, in the geometric mean over the inputs."""
    bounds = [lower_bound(timed.ratios(name, over)) for timed in times]
    return math.prod(bounds) >= (1 + MARGIN) ** len(bounds)


def never_slower(times: Sequence[LatencyComparison], name: str, over: str) -> bool:
    """Whether a candidate is as fast at every input, within the noise."""
    ratios = [timed.ratios(name, over) for timed in times]
    return all(lower_bound(one) >= FLOOR and statistics.median(one) >= 1 - NOISE for one in ratios)


def lower_bound(ratios: Sequence[float]) -> float:
    """What the median of the distribution behind some ratios is at least, with 95 % confidence.

    By the sign test, which assumes nothing about the distribution: each ratio lies below its median with probability
    1/2, so the k-th smallest of n is a bound if P(Binomial(n, 1/2) < k) <= 5 %. With 15 ratios that is the 4th, with
    5 the smallest. 0 if there are fewer: nothing can be proved then.
    """
    count = len(ratios)
    rank, chance = 0, 0.5**count
    while chance <= 1 - CONFIDENCE:
        rank += 1
        chance += math.comb(count, rank) / 2**count
    return sorted(ratios)[rank - 1] if rank else 0.0


def enough_rounds(heat: LatencyComparison, names: Sequence[str], rounds: int) -> int:
    """Rounds for :data:`SECONDS` seconds: three times ``rounds`` at the most, and no fewer than 8 (or ``rounds``)."""
    one_round_ms = sum(max(SAMPLE_MS, heat.medians_ms[name]) for name in names)
    return max(min(FEWEST_ROUNDS, rounds), min(3 * rounds, int(1000 * SECONDS / one_round_ms)))


def _fastest(heats: Sequence[LatencyComparison], reference: str) -> list[str]:
    """The candidates in front of all others, by the geometric mean of their speed-ups."""
    rivals = [name for name in heats[0].milliseconds if name != reference]
    gains = {name: math.prod(heat.speedup(name, reference) for heat in heats) for name in rivals}
    return sorted(rivals, key=gains.__getitem__, reverse=True)[:FINALISTS]
