"""The pruned networks of a comparison: which there are, and each made when it is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...training import Config
from ...training.evaluation import sample_batches
from .coupled import CoupledGroups
from .exported import ExportedGraph
from .fastnas import CALIBRATION_BATCHES, FastNas
from .methods import DENSE, METHODS, Method, counts_time, training_config
from .prune import Guarded, Pruner
from .rank import ranked, with_slopes
from .trainings import Training, Trainings, goals

SEARCH_IMAGES = 1000  # by which a search scores a network


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
    def title(self) -> str:
        """For people: ``Network Slimming at 50 %``."""
        which = goals(self.method.training, self.keep, self.seed)
        size = f"at {100 * self.level:g} %" if self.level else "as trained"
        return f"{self.method.label} {size}" + (f" ({', '.join(which)})" if which else "")

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
                    # What a training sends to zero by itself is a size of its own.
                    start = [0.0] if method.training != DENSE and method.tool is None else []
                    # A budget of milliseconds has the sizes of its speed-ups, whatever computations those leave.
                    levels = [] if counts_time(method.training) else settings.all_levels
                    for level in start + levels:
                        yield Point(method, seed, keep, level)

    def pruned(self, point: Point) -> nn.Module | None:
        """The network of a point before fine-tuning, in eval mode; None if the method cannot get there."""
        small = self._pruner_of(point).at(point.level)
        return None if small is None else small.eval()

    def failure(self, point: Point) -> str | None:
        """Why the tool behind a method gave no network, right after :meth:`pruned`; None if it raised nothing."""
        pruner = self._pruner_of(point)
        return pruner.failure if isinstance(pruner, Guarded) else None

    def _pruner_of(self, point: Point) -> Pruner:
        key = (point.method, point.training)
        # One is kept: points come method by method, and each takes memory.
        if self._pruner is None or key != self._key:
            self._key, self._pruner = key, self._made(point)
        return self._pruner

    def _made(self, point: Point) -> Pruner:
        method, task = point.method, self.task
        net, config = self.trainings.trained(point.training), self._config(point)
        if method.on is not None:
            first = ranked(task, net, config, METHODS[method.on].rank).at(0.0)
            assert first is not None  # what the training itself sent to zero can always go
            whole, left = task.macs(self.trainings.plain(point.seed)), task.macs(first)
            return Guarded(lambda: _Further(CoupledGroups(first, method, task.example_inputs), whole, left))
        if method.tool == "torch_pruning":
            return Guarded(lambda: CoupledGroups(net, method, task.example_inputs))
        if method.tool == "onnxsim":
            return Guarded(lambda: ExportedGraph(with_slopes(task, net, config), task.example_inputs))
        if method.tool == "modelopt":
            return Guarded(lambda: self._fastnas(net, config, point))
        return ranked(task, net, config, method.rank)

    def _config(self, point: Point) -> Config:
        """How the network was trained; one that was brought counts as trained like the others."""
        base = dataclasses.replace(self.task.settings.base, seed=point.seed)
        return self.trainings.config(point.training) or training_config(base, point.method.training)

    def _fastnas(self, net: nn.Module, config: Config, point: Point) -> FastNas:
        task = self.task
        inputs, divisor = task.example_inputs, point.method.round_to or 1
        path = task.path / "points" / f"{point.training}-fastnas"
        return FastNas(net, inputs, divisor, lambda: self._batches(config), self._score, path)

    def _batches(self, config: Config) -> Iterator[Tensor]:
        for batch, _ in sample_batches(self.task.images.train, config, CALIBRATION_BATCHES):
            yield batch

    def _score(self, net: nn.Module) -> float:
        """Percent of some validation images: a search scores hundreds of networks."""
        split = self.task.images.validation
        few = torch.arange(min(SEARCH_IMAGES, len(split)))
        with torch.inference_mode():
            chosen = net(split.normalised(few)).argmax(1)
        return 100 * float((chosen == split.labels[few]).float().mean())


class _Further:
    """Prunes a network that is smaller than the whole already; levels are shares of the whole."""

    def __init__(self, pruner: Pruner, whole: int, left: int) -> None:
        self._pruner, self._whole, self._left = pruner, whole, left

    def at(self, level: float) -> nn.Module | None:
        more = 1 - (1 - level) * self._whole / self._left
        return self._pruner.at(more) if 0 < more < 1 else None
