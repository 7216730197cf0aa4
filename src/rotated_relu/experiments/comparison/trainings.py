"""The trainings of a comparison, and the short ones that tune them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ...core.formatting import plural
from ...core.run_directory import Run, read_json, write_json
from ...training import Config, evaluate_model, fit
from .methods import DENSE, training_config
from .rank import ranked
from .task import Task

TUNING_LEVELS = (0.2, 0.3, 0.4, 0.5)


@dataclass(frozen=True)
class Training:
    """One network that is trained in full; as a string the name of its directory.

    Attributes:
        name: Which training, see :func:`rotated_relu.experiments.comparison.methods.training_config`.
        seed: Of weights, order and augmentation.
        keep: What a budget aims at; 1 for the others.
    """

    name: str
    seed: int
    keep: float = 1.0

    def __str__(self) -> str:
        return f"{self.name}{f'-keep{self.keep:g}' if self.keep < 1 else ''}-seed{self.seed}"


class Trainings:
    """Trains each network once, and reads it again after that.

    Args:
        task: The comparison.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self._plain: dict[int, nn.Module] = {}  # every pruned network is held against it

    def train(self) -> None:
        """Tune the strengths, then train every network in full."""
        for name in self.task.settings.tuned:
            self.strength(name)
        for training in self.all():
            self.trained(training)

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

    def config(self, training: Training) -> Config:
        """The settings of one full training."""
        base = dataclasses.replace(self.task.settings.base, seed=training.seed)
        strength = self.strength(training.name)
        return training_config(base, training.name, strength=strength, keep=training.keep)

    def trained(self, training: Training) -> nn.Module:
        """The trained network, trained now if it has not been."""
        return self._fitted(self.config(training), Path("trainings") / str(training))

    def _fitted(self, config: Config, name: Path) -> nn.Module:
        task, path = self.task, self.task.path / name
        if not Run(path).has("weights"):
            task.say(f"training {name}, {plural(config.epochs, 'epoch')}")
        return fit(config, path, images=task.images, progress=task.progress, device=task.device).net

    def strength(self, training: str) -> float:
        """The total shrinkage of a training's L1: the one whose short run keeps most when it is pruned.

        Compared by the mean validation accuracy over pruned networks that save 20, 30, 40 and 50 % of the
        multiply-accumulates, before fine-tuning, first seed.
        """
        if training not in self.task.settings.tuned:
            return self.task.settings.strengths[0]
        path = self.task.path / "tuning" / f"{training}.json"
        if path.is_file():
            return float(read_json(path)["chosen"])
        scores = {
            strength: self._tuning_score(training, strength) for strength in self.task.settings.strengths
        }
        best = max(scores, key=scores.__getitem__)
        write_json(path, {"chosen": best, "validation_accuracy": {f"{k:g}": v for k, v in scores.items()}})
        self.task.say(
            f"{training}: total shrinkage {best:g} of {', '.join(f'{k:g}: {v:.2f} %' for k, v in scores.items())}"
        )
        return best

    def _tuning_score(self, training: str, strength: float) -> float:
        base = dataclasses.replace(
            self.task.settings.base, seed=self.task.settings.seeds[0], epochs=self.task.settings.tune_epochs
        )
        config = training_config(base, training, strength=strength)
        net = self._fitted(config, Path("tuning") / f"{training}-{strength:g}")
        pruner = ranked(self.task, net, config, "norm" if training == "slimming" else "slope")
        found = [pruner.at(level) for level in TUNING_LEVELS]
        chance = 100 / self.task.images.num_classes
        scores = [chance if small is None else self.task.validated(small) for small in found]
        return sum(scores) / len(scores)

    def accuracies(self) -> dict[str, dict[str, float]]:
        """Of the networks as trained, as far as known: ``{name: {"validation": percent, "test": percent}}``."""
        path = self.task.path / "trained.json"
        known: dict[str, dict[str, float]] = read_json(path) if path.is_file() else {}
        return known

    def reference(self) -> dict[int, dict[str, float]]:
        """Those of the plain network, by seed."""
        found = self.accuracies()
        return {seed: found[str(Training(DENSE, seed))] for seed in self.task.settings.seeds}

    def evaluate(self, split: str) -> None:
        """Add the accuracies of all networks on ``validation`` or ``test`` to what is known."""
        known = self.accuracies()
        for training in self.all():
            found = known.setdefault(str(training), {})
            if split not in found:
                found[split] = evaluate_model(self.trained(training), getattr(self.task.images, split))
                write_json(self.task.path / "trained.json", known)
