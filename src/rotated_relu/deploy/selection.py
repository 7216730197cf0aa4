"""Decide by timings which candidate is fastest, and believe it only if it is faster twice.

Timings are noisy: the fastest of several candidates is often the luckiest, and a choice by the lowest median can turn
out slower than what was there before. So everything is judged by *paired* times, the ratios within rounds in which all
candidates run in turn, in three stages:

1. a screening of a few rounds, which leaves a shortlist of three,
2. a comparison of many rounds, of the shortlist with the reference and with each other,
3. a confirmation of the fastest against the reference.

Each of them sets the engines up anew, since two set-ups of one network differ in where their memory lies and on which
cores they run.

Faster means: by a sign test (one-sided, 95 %), in a clear majority of rounds by a margin. Whatever is not confirmed
leaves the reference in place. Nothing here runs a clock: who calls passes a function that does.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .timing import LatencyComparison

CONFIDENCE = 0.95
MARGIN = 0.02  # what is chosen is at least this much faster over all inputs
FLOOR = 0.97  # and surely not slower than this at any of them,
NOISE = 0.01  # nor slower by more than this in the median
SCREENING_ROUNDS = 3
SHORTLIST = 3
SAMPLE_MS = 5.0  # what runs faster than that is called several times per round
FEWEST_ROUNDS = 8  # the fewest in which one disturbed round does not decide
SECONDS = 3.0  # per input, for the comparison and again for the confirmation

Timer = Callable[[Sequence[str], Sequence[int]], list[LatencyComparison]]


@dataclass(frozen=True)
class Selection:
    """Outcome of :func:`select_fastest`.

    Attributes:
        chosen: The fastest candidate, or the reference if none was faster twice.
        speedup: How many times faster than the reference, per input: the median ratio of the confirmation, which
            the choice has not seen. Ones for the reference itself.
        milliseconds: For each candidate the median time of one call, in ms, per input.
    """

    chosen: str
    speedup: list[float]
    milliseconds: dict[str, list[float]]


def select_fastest(
    timer: Timer, names: Sequence[str], inputs: int = 1, original: str | None = None, rounds: int = 15
) -> Selection:
    """Find the fastest of some candidates.

    Args:
        timer: Called with names and rounds per input; sets everything up anew, and returns one comparison per input.
        names: The candidates, simpler ones first; a later one has to be faster beyond doubt than those before.
        inputs: How many inputs there are; all count alike.
        original: The one of them that the chosen one may not be slower than at any input. If None, the first is the
            reference, and only the geometric mean over the inputs counts.
        rounds: Of the comparison and the confirmation, see :func:`enough_rounds`.

    Raises:
        ValueError: If there are no candidates.
    """
    if not names or original not in (None, *names):
        raise ValueError(
            f"select_fastest needs candidates, the original among them, got {list(names)}, {original!r}"
        )
    reference = names[0] if original is None else original
    screening = timer(names, [SCREENING_ROUNDS] * inputs)
    milliseconds = {name: [timed.medians_ms[name] for timed in screening] for name in names}
    shortlist = [name for name in names if name == reference or name in _shortlist(screening, reference)]
    kept = Selection(reference, [1.0] * inputs, milliseconds)
    if len(shortlist) == 1:
        return kept
    compared = timer(shortlist, [enough_rounds(timed, shortlist, rounds) for timed in screening])
    milliseconds |= {name: [timed.medians_ms[name] for timed in compared] for name in shortlist}
    best = surely_fastest(compared, shortlist, original)
    if best == reference:
        return kept
    pair = [reference, best]
    confirmed = timer(pair, [enough_rounds(timed, pair, rounds) for timed in screening])
    if surely_fastest(confirmed, pair, original) == reference:
        return kept
    return Selection(best, [timed.speedup(best, reference) for timed in confirmed], milliseconds)


def surely_fastest(
    times: Sequence[LatencyComparison], names: Sequence[str], original: str | None = None
) -> str:
    """The last of the candidates, in order, that is surely faster than the best before it.

    With an original, only those take part that beat it, and it is returned if there are none.
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
    5 the smallest. 0 if there are fewer: too few to be sure of anything.
    """
    count = len(ratios)
    rank, chance = 0, 0.5**count
    while chance <= 1 - CONFIDENCE:
        rank += 1
        chance += math.comb(count, rank) / 2**count
    return sorted(ratios)[rank - 1] if rank else 0.0


def enough_rounds(screening: LatencyComparison, names: Sequence[str], rounds: int) -> int:
    """Rounds for :data:`SECONDS` seconds: three times ``rounds`` at the most, and no fewer than 8 (or ``rounds``)."""
    one_round_ms = sum(max(SAMPLE_MS, screening.medians_ms[name]) for name in names)
    return max(min(FEWEST_ROUNDS, rounds), min(3 * rounds, int(1000 * SECONDS / one_round_ms)))


def _shortlist(screening: Sequence[LatencyComparison], reference: str) -> list[str]:
    """The candidates in front of all others, by the geometric mean of their speed-ups."""
    others = [name for name in screening[0].milliseconds if name != reference]
    gains = {name: math.prod(timed.speedup(name, reference) for timed in screening) for name in others}
    return sorted(others, key=gains.__getitem__, reverse=True)[:SHORTLIST]
