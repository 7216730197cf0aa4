"""The trainings of a comparison, and the short ones that tune them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ...core.plain_data import typed
from ...core.progress import in_turn
from ...core.run_directory import Run, as_written, read_json, write_json
from ...training import Config, build_model, evaluate_model, fit
from ..stages.calibrate import TableChoice
from .coupled import CoupledGroups
from .epochs import PUBLISHED_SHRINKAGE, first_part, shortened
from .fitting import trained_on
from .methods import DENSE, DEPGRAPH, METHODS, counts_time, training_config
from .prune import Pruner
from .rank import ranked, with_slopes
from .task import Task
from .tuning import tuned

GROUP_SPARSE = "group_sparse"
GROUP_TRAININGS = (GROUP_SPARSE, DEPGRAPH)  # Torch-Pruning's penalty acts on the network that trains
TUNING_LEVELS = (0.2, 0.3, 0.4, 0.5)


@dataclass(frozen=True)
class Training:
    """One network that is trained in full; as a string the name of its directory.

    Attributes:
        name: Which training, see :func:`rotated_relu.experiments.comparison.epochs.first_part`.
        seed: Of weights, order and augmentation.
        keep: What a budget aims at; 1 for the others.
    """

    name: str
    seed: int
    keep: float = 1.0

    @property
    def title(self) -> str:
        """For people: ``Network Slimming``; several methods may prune one training."""
        which = goals(self.name, self.keep, self.seed)
        labels = [method.label for method in METHODS.values() if method.training == self.name]
        label = "ReLU" if self.name == DENSE or not labels else labels[0]
        return label + (f" ({', '.join(which)})" if which else "")

    def __str__(self) -> str:
        return f"{self.name}{f'-keep{self.keep:g}' if self.keep < 1 else ''}-seed{self.seed}"


def goals(training: str, keep: float, seed: int) -> list[str]:
    """What tells trainings of one kind apart, for people: ``["budget 50 %", "seed 1"]``, ``["2 times as fast"]``."""
    budget = f"{1 / keep:.3g} times as fast" if counts_time(training) else f"budget {100 * keep:g} %"
    return [*([budget] if keep < 1 else []), *([f"seed {seed}"] if seed else [])]


def tuning_in(path: Path) -> dict[str, Any]:
    """What a file of ``tuning/`` says.

    Raises:
        RunError: If it says something else.
    """
    found: dict[str, Any] = read_json(path, dict[str, Any])
    with as_written(path):
        typed(float, found["chosen"], "chosen")
        typed(dict[str, float], found["validation_accuracy"], "validation_accuracy")
    return found


class Trainings:
    """Trains each network once, and reads it again after that.

    Args:
        task: The comparison.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self._plain: dict[int, nn.Module] = {}  # every pruned network is held against it

    def train(self) -> None:
        """Tune the strengths, then train every network in full; speed-ups that cannot be had are refused before.

        Raises:
            SlopeError: If a speed-up cannot be had; says what can.
        """
        for training in self.all():
            if counts_time(training.name):
                self._times(training)
        for name in self.task.settings.tuned:
            self.strength(name)
        for training in in_turn("training", list(self.all()), self._words):
            self.trained(training)

    def _words(self, training: Training) -> str:
        if Run(self.task.path / "trainings" / str(training)).has("weights"):
            return f"{training.title}: found trained"
        return f"training {training.title}"

    def all(self) -> Iterator[Training]:
        """Every network that is trained in full, the plain one first."""
        settings = self.task.settings
        names = dict.fromkeys([DENSE, *(method.training for method in settings.chosen)])
        for seed in settings.seeds:
            for name in names:
                for keep in settings.keeps(name):
                    yield Training(name, seed, keep)

    def plain(self, seed: int) -> nn.Module:
        """The network that all are compared with."""
        if seed not in self._plain:
            self._plain[seed] = self.trained(Training(DENSE, seed))
        return self._plain[seed]

    def config(self, training: Training) -> Config | None:
        """The settings of one full training; None if the network is taken as it was brought."""
        return first_part(
            self.task.settings,
            training.name,
            seed=training.seed,
            strength=self.strength(training.name),
            keep=training.keep,
            table=self._times(training) if counts_time(training.name) else None,
        )

    def _times(self, training: Training) -> str:
        """The file of the times that a budget counts by, which are measured where they have not been."""
        path = self.task.path / "trainings" / f"{training}.latency.json"
        if not path.is_file():
            task, settings = self.task, self.task.settings
            config = training_config(settings.base, training.name)
            net = (
                build_model(config, task.images)
                if settings.weights is None
                else self._start(training, config)
            )
            choice = TableChoice(engine=settings.engines[0], batch_size=settings.batch_sizes[0])
            choice.for_budget(net, task.example_inputs, training.keep, task.say).save(path)
        return str(path.resolve())

    def trained(self, training: Training) -> nn.Module:
        """The trained network, trained now if it has not been."""
        place = Path("trainings") / str(training)
        return self._trained(training, self.config(training), place, self.strength(training.name))

    def _trained(self, training: Training, config: Config | None, name: Path, strength: float) -> nn.Module:
        task, path = self.task, self.task.path / name
        if config is None:
            return copy.deepcopy(task.brought)
        if task.settings.weights is None and training.name not in GROUP_TRAININGS:
            return fit(config, path, images=task.images, progress=task.progress, device=task.device).net
        goes_on = task.settings.weights is not None or training.name == DEPGRAPH
        return trained_on(
            task,
            self._start(training, config),
            config,
            path,
            teacher=self.plain(training.seed) if goes_on else None,
            group_strength={GROUP_SPARSE: strength, DEPGRAPH: PUBLISHED_SHRINKAGE}.get(training.name, 0.0),
        )

    def _start(self, training: Training, config: Config) -> nn.Module:
        """What a training begins with that does not begin with random weights, or is not :func:`fit`'s."""
        task = self.task
        if task.settings.weights is not None:
            net = copy.deepcopy(task.brought)
            return with_slopes(task, net, config) if config.model.rotated else net
        if training.name == DEPGRAPH:
            return copy.deepcopy(self.plain(training.seed))
        return build_model(config, task.images)

    def strength(self, training: str) -> float:
        """The strength of a training's penalty: the one whose short run keeps most when it is pruned.

        Compared by the mean validation accuracy over pruned networks that save 20, 30, 40 and 50 % of the
        multiply-accumulates, before fine-tuning, first seed.
        """
        if training not in self.task.settings.tuned:
            return self.task.settings.strengths[0]
        path = self.task.path / "tuning" / f"{training}.json"
        if path.is_file():
            return float(tuning_in(path)["chosen"])
        found = tuned(self.task.settings.strengths, lambda strength: self._tuning_score(training, strength))
        write_json(path, found.to_dict())
        self.task.say(f"{training}: total shrinkage {found}")
        return found.chosen

    def tuning(self) -> dict[str, Any]:
        """What the short runs gave, by training."""
        paths = {name: self.task.path / "tuning" / f"{name}.json" for name in self.task.settings.tuned}
        return {name: tuning_in(path) for name, path in paths.items() if path.is_file()}

    def _tuning_score(self, name: str, strength: float) -> float:
        self.task.say(f"tuning {Training(name, 0).title}, total shrinkage {strength:g}")
        seed = self.task.settings.seeds[0]
        config = first_part(shortened(self.task.settings), name, seed=seed, strength=strength)
        assert config is not None
        place = Path("tuning") / f"{name}-{strength:g}"
        net = self._trained(Training(name, seed), config, place, strength)
        pruner: Pruner
        if name == GROUP_SPARSE:
            pruner = CoupledGroups(net, METHODS[name], self.task.example_inputs)
        else:
            pruner = ranked(self.task, net, config, "norm" if name == "slimming" else "slope")
        found = [pruner.at(level) for level in TUNING_LEVELS]
        chance = 100 / self.task.images.num_classes
        scores = [chance if small is None else self.task.validated(small) for small in found]
        return sum(scores) / len(scores)

    def accuracies(self) -> dict[str, dict[str, float]]:
        """Of the networks as trained, as far as known: ``{name: {"validation": percent, "test": percent}}``."""
        path = self._known
        known: dict[str, dict[str, float]] = (
            read_json(path, dict[str, dict[str, float]]) if path.is_file() else {}
        )
        return known

    @property
    def _known(self) -> Path:
        return self.task.path / "trained.json"

    @property
    def has_reference(self) -> bool:
        """Whether something is known of the plain networks; it is found anew where the file is gone."""
        return {str(Training(DENSE, seed)) for seed in self.task.settings.seeds} <= self.accuracies().keys()

    def reference(self) -> dict[int, dict[str, float]]:
        """Those of the plain network, by seed."""
        found = self.accuracies()
        with as_written(self._known):
            return {seed: found[str(Training(DENSE, seed))] for seed in self.task.settings.seeds}

    def note(self, training: Training, values: dict[str, float]) -> None:
        """Add accuracies of a network to what is known."""
        known = self.accuracies()
        known.setdefault(str(training), {}).update(values)
        write_json(self._known, known)

    def evaluate(self, split: str) -> None:
        """Add the accuracies of all networks on ``validation`` or ``test`` to what is known."""
        for training in self.all():
            if split not in self.accuracies().get(str(training), {}):
                accuracy = evaluate_model(self.trained(training), getattr(self.task.images, split))
                self.note(training, {split: accuracy})
