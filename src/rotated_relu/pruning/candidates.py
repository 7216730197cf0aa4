"""The thresholds that a search may try: between neighbouring sizes of slopes, or those that the user names.

Requires: a network with slopes. Ensures: ascending, the first is 0, none kills every slope.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..core.errors import SlopeError, ThresholdError
from ..nn.slopes import check_slopes
from .mask import check_scores


def magnitudes_of(net: nn.Module, scores: Mapping[str, Tensor] | None) -> list[float]:
    """Distinct absolute values (or scores) of the network's slopes that are not 0, ascending."""
    found = check_slopes(net)
    if scores is not None:
        check_scores(found, scores)
    sizes = [slope.detach().abs() if scores is None else scores[name] for name, slope in found.items()]
    alive = torch.cat([(slope.detach() != 0).flatten().cpu() for slope in found.values()])
    if not bool(alive.any()):
        raise SlopeError("every slope is 0: the network is dead already; go back to an earlier checkpoint")
    every = torch.cat([size.flatten().double().cpu() for size in sizes])
    magnitudes: list[float] = torch.unique(every[alive & (every > 0)]).tolist()
    if not magnitudes:
        raise SlopeError("every score is 0: nothing tells the channels apart; score them on other images")
    return magnitudes


def between(magnitudes: list[float]) -> list[float]:
    """0, then one threshold in each gap between neighbouring magnitudes; none that kills everything."""
    gaps = itertools.pairwise(magnitudes)
    return [0.0, *(_shortest_between(low, high) for low, high in gaps)]


def _shortest_between(low: float, high: float) -> float:
    """Number between two magnitudes with the fewest digits: 0.1 reads better than 0.09873."""
    middle = (low + high) / 2
    # Clear of both ends: the comparison with the slopes happens in their own, lower precision.
    margin = (high - low) / 50
    for digits in range(1, 17):
        value = float(f"{middle:.{digits}g}")
        if low + margin < value < high - margin:
            return value
    return middle


def checked(candidates: Sequence[float], magnitudes: list[float]) -> list[float]:
    """0 and the candidates of the user, ascending.

    Raises:
        ThresholdError: If one is negative, not finite, or kills every slope.
    """
    values = sorted({0.0, *map(float, candidates)})
    for value in values:
        if not math.isfinite(value) or value < 0:
            raise ThresholdError(f"thresholds must be finite and not negative, got {value}")
        if value > magnitudes[-1]:
            raise ThresholdError(
                f"threshold {value:g} kills every slope: the largest is {magnitudes[-1]:.4g}; choose less"
            )
    return values


def spread(last: int, count: int) -> list[int]:
    """0, then at most ``count`` indices spread evenly up to ``last``."""
    return sorted({0, *(round(last * step / count) for step in range(1, count + 1))})
