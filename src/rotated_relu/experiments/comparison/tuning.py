"""Find the strength of a penalty: a grid that grows until its best value lies strictly inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

MOST_ADDED = 4  # to either side together: 81 times the range of a grid that goes up threefold


@dataclass(frozen=True)
class Tuned:
    """Outcome of :func:`tuned`.

    Attributes:
        chosen: The best value.
        scores: Of every value that was tried, ascending.
        added: Those that were not in the grid as given.
    """

    chosen: float
    scores: dict[float, float]
    added: tuple[float, ...]

    @property
    def is_inside(self) -> bool:
        """Whether smaller and larger values were tried, and are not better."""
        return min(self.scores) < self.chosen < max(self.scores)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as JSON holds it."""
        return {
            "chosen": self.chosen,
            "inside": self.is_inside,
            "validation_accuracy": {f"{value:g}": score for value, score in self.scores.items()},
            "added": list(self.added),
        }

    def __str__(self) -> str:
        tried = ", ".join(f"{value:g}: {score:.2f} %" for value, score in self.scores.items())
        edge = "" if self.is_inside else f"; still at the edge after {len(self.added)} more values"
        return f"{self.chosen:g} of {tried}{edge}"


def tuned(grid: Sequence[float], score: Callable[[float], float], most: int = MOST_ADDED) -> Tuned:
    """Try every value of a grid, and more beyond the edge at which the best one lies.

    Args:
        grid: At least two positive values; beyond an edge it goes on in the ratio of the two values there.
        score: The larger the better; of equals the smallest value is taken.
        most: How many values may be added.
    """
    given = sorted(set(grid))
    scores = {value: score(value) for value in given}
    added: list[float] = []
    while len(added) < most:
        values = sorted(scores)
        best = _best(scores)
        if values[0] < best < values[-1]:
            break
        edge, neighbour = (values[0], values[1]) if best == values[0] else (values[-1], values[-2])
        beyond = float(f"{edge * edge / neighbour:.6g}")
        added.append(beyond)
        scores[beyond] = score(beyond)
    return Tuned(_best(scores), dict(sorted(scores.items())), tuple(added))


def _best(scores: dict[float, float]) -> float:
    return max(sorted(scores), key=scores.__getitem__)
