"""The pruned networks of a comparison: which there are, and each made when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from .methods import DENSE, METHODS, Method
from .prune import CoupledGroups, Pruner
from .rank import ranked
from .trainings import Training, Trainings


@dataclass(frozen=True)
class Point:
    """One pruned network.

    Attributes:
        method: What pruned it.
        seed: Of the training.
        keep: What the training's budget aimed at; 1 for the other trainings.
        level: Share of the multiply-accumulates that was to be saved; 0 is the trained network without what is dead.
    """

    method: Method
    seed: int
    keep: float
    level: float

    @property
    def training(self) -> Training:
        """What it was pruned from."""
        return Training(self.method.training, self.seed, self.keep)

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{Training(self.method.name, self.seed, self.keep)}-{self.level:g}"


class Points:
    """Every pruned network, method by method, smallest saving first.

    Args:
        trainings: The networks that are pruned.
    """

    def __init__(self, trainings: Trainings) -> None:
        self.trainings, self.task = trainings, trainings.task
        self._key: Any = None
        self._pruner: Pruner | None = None

    def __iter__(self) -> Iterator[Point]:
        settings = self.task.settings
        for seed in settings.seeds:
            for method in settings.chosen:
                for keep in settings.keeps(method.training):
                    start = [0.0] if method.training != DENSE else []
                    for level in start + settings.all_levels:
                        yield Point(method, seed, keep, level)

    def pruned(self, point: Point) -> nn.Module | None:
        """The network of a point before fine-tuning, in eval mode; None if the method cannot get there."""
        key = (point.method, point.training)
        # One is kept: points come method by method, and each takes memory.
        if self._pruner is None or key != self._key:
            self._key, self._pruner = key, self._make(point)
        small = self._pruner.at(point.level)
        return None if small is None else small.eval()

    def _make(self, point: Point) -> Pruner:
        method, task = point.method, self.task
        net = self.trainings.trained(point.training)
        if method.on is not None:
            first = ranked(task, net, self.trainings.config(point.training), METHODS[method.on].rank).at(0.0)
            assert first is not None  # what the training itself sent to zero can always go
            whole = task.macs(self.trainings.plain(point.seed))
            return _Further(CoupledGroups(first, method.rank, task.example_inputs), whole, task.macs(first))
        if method.is_coupled:
            return CoupledGroups(net, method.rank, task.example_inputs)
        return ranked(task, net, self.trainings.config(point.training), method.rank)


class _Further:
    """Prunes a network that is smaller than the whole already; levels are shares of the whole."""

    def __init__(self, pruner: Pruner, whole: int, left: int) -> None:
        self._pruner, self._whole, self._left = pruner, whole, left

    def at(self, level: float) -> nn.Module | None:
        more = 1 - (1 - level) * self._whole / self._left
        return self._pruner.at(more) if 0 < more < 1 else None
