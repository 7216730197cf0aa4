"""What one comparison does: plain data with checks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ...core.errors import MissingPackageError
from ...core.extras import needs
from ...training import Config, ConfigError
from .methods import BUDGET_MS, DEFAULT_METHODS, PACKAGES, SKIPPABLE, TUNED, Method, chosen, counts_time

LEVELS = tuple(round(0.05 * step, 2) for step in range(1, 17))
FINETUNED_LEVELS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
STRENGTHS = (2.0, 6.0, 18.0)


@dataclass(frozen=True)
class Weights:
    """A trained network that all methods begin with.

    Attributes:
        place: A file, by its absolute path, or the name of published weights.
        renames: Module names in the file to those in the network.
    """

    place: str
    renames: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """A comparison.

    Attributes:
        base: How all networks train; with ``weights``, its epochs are those of every method in all.
        weights: What all methods begin with; None trains each network from scratch.
        methods: Names of the methods, see :data:`rotated_relu.experiments.comparison.methods.METHODS`.
        seeds: Each method runs once per seed.
        levels: Shares of the multiply-accumulates to be saved.
        finetuned_levels: Those of them at which the pruned network trains on.
        finetune_epochs: For how long.
        finetune_lr: Largest learning rate of it, as a share of the training's.
        strengths: Total shrinkages among which that of each penalty is chosen, and beyond them if the best one is at
            the edge; one alone is taken as it is.
        tune_epochs: Length of the short runs that choose it; an eighth of the training if None.
        keep: Shares of the multiply-accumulates that the budgets aim at, one training for each.
        speedups: How many times faster the budgets of milliseconds aim at, one training for each, in the first of the
            engines at the first of the batch sizes; their method need not be among ``methods``.
        latency_repeats: Interleaved rounds of the latency measurement; 0 leaves it out.
        engines: In which latencies are measured.
        batch_sizes: Images per run there.
    """

    base: Config
    weights: Weights | None = None
    methods: tuple[str, ...] = DEFAULT_METHODS
    seeds: tuple[int, ...] = (0,)
    levels: tuple[float, ...] = LEVELS
    finetuned_levels: tuple[float, ...] = FINETUNED_LEVELS
    finetune_epochs: int = 3
    finetune_lr: float = 0.1
    strengths: tuple[float, ...] = STRENGTHS
    tune_epochs: int | None = None
    keep: tuple[float, ...] = (0.55,)
    speedups: tuple[float, ...] = ()
    latency_repeats: int = 30
    engines: tuple[str, ...] = ("onnxruntime",)
    batch_sizes: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        chosen(self.methods)
        asked = bool(self.speedups) or BUDGET_MS not in self.methods
        _need(asked, "speedups", f"at least one for {BUDGET_MS}")
        _need(all(1 < value < math.inf for value in self.speedups), "speedups", "above 1")
        for name in ("methods", "seeds", "levels", "strengths", "keep", "engines", "batch_sizes"):
            _need(bool(getattr(self, name)), name, "at least one")
        for name in ("levels", "finetuned_levels", "keep"):
            _need(all(0 < value < 1 for value in getattr(self, name)), name, "shares between 0 and 1")
        _need(all(value > 0 for value in self.strengths), "strengths", "above 0")
        _need(self.finetune_epochs > 0 and self.tuning_epochs > 0, "epochs", "above 0")
        _need(all(size > 0 for size in self.batch_sizes), "batch_sizes", "above 0")
        _need(
            self.weights is None or self.base.epochs > 1,
            "epochs",
            "at least 2 with weights: before and after pruning",
        )
        _need(
            "depgraph" not in self.methods or self._after > 1,
            "epochs",
            "at least 2 after training for depgraph",
        )

    @property
    def _after(self) -> int:
        """Epochs that are left when there is a trained network."""
        return self.finetune_epochs if self.weights is None else self.base.epochs

    @property
    def tuning_epochs(self) -> int:
        """Length of the short runs that choose a strength."""
        return max(1, round(self.base.epochs / 8)) if self.tune_epochs is None else self.tune_epochs

    @property
    def chosen(self) -> list[Method]:
        """The methods whose packages are installed."""
        return [method for method in self._asked_for if method.name not in self.skipped]

    @property
    def _asked_for(self) -> list[Method]:
        return chosen((*self.methods, BUDGET_MS) if self.speedups else self.methods)

    @cached_property
    def skipped(self) -> dict[str, str]:
        """Methods that are left out, and why: the package behind them is not installed.

        Raises:
            MissingPackageError: If it is Torch-Pruning, which installs everywhere.
        """
        found = {}
        for method in self._asked_for:
            try:
                needs(*PACKAGES.get(method.tool or "", ()))
            except MissingPackageError as error:
                if method.tool not in SKIPPABLE:
                    raise
                found[method.name] = str(error)
        return found

    @property
    def all_levels(self) -> list[float]:
        """Every level, ascending."""
        return sorted({*self.levels, *self.finetuned_levels})

    def keeps(self, training: str) -> tuple[float, ...]:
        """The budgets of a training, as shares of what they count; 1 for one without."""
        if counts_time(training):
            return tuple(1 / speedup for speedup in self.speedups)
        return self.keep if training == "budget" else (1.0,)

    @property
    def tuned(self) -> list[str]:
        """Trainings whose strength has to be chosen."""
        wanted = {method.training for method in self.chosen}
        return [training for training in TUNED if training in wanted and len(self.strengths) > 1]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as JSON holds it."""
        data = {name.name: getattr(self, name.name) for name in dataclasses.fields(self)}
        weights = None if self.weights is None else dataclasses.asdict(self.weights)
        return {**data, "base": self.base.identity(), "weights": weights, "tune_epochs": self.tuning_epochs}


def _need(holds: bool, name: str, wanted: str) -> None:
    if not holds:
        raise ConfigError(f"{name} of a comparison must be {wanted}")
