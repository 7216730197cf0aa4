"""Whether the machine was busy with other work while it timed networks."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

BUSY = 1.5  # upper over lower quartile of times; on a machine of one's own it is 1.0 to 1.1


def unsteadiness(latency: Iterable[Mapping[str, Any]]) -> float:
    """How much the machine's speed changed while several networks were timed in turn.

    Args:
        latency: Per batch size ``milliseconds``: per network, times of one call, in ms.

    Returns:
        The upper quartile over the lower one of those times that are spread most; 1 for fewer than four of them.
    """
    all_times = (times for part in latency for times in part.get("milliseconds", {}).values())
    quartiles = [statistics.quantiles(times, n=4) for times in all_times if len(times) >= 4]
    return max((upper / lower for lower, _, upper in quartiles if lower > 0), default=1.0)


def busy(unsteadiness: float) -> str:
    """A warning that milliseconds were taken on a busy machine; empty if they were not."""
    if unsteadiness < BUSY:
        return ""
    return (
        f"The machine was busy: the middle half of one network's times spans a factor of {unsteadiness:.1f}. "
        "Speed-ups are taken within each round and hold better than milliseconds; measure again when it is quiet."
    )
