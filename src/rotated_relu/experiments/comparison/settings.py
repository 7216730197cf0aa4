"""What one comparison does: plain data with checks."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ...training import Config, ConfigError
from .methods import METHODS, TUNED, Method, chosen

LEVELS = tuple(round(0.05 * step, 2) for step in range(1, 17))
FINETUNED_LEVELS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
STRENGTHS = (2.0, 6.0, 18.0)


@dataclass(frozen=True)
class Settings:
    """A comparison.

    Attributes:
        base: How all networks train.
        methods: Names of the methods, see :data:`rotated_relu.experiments.comparison.methods.METHODS`.
        seeds: Each method runs once per seed.
        levels: Shares of the multiply-accumulates to be saved.
        finetuned_levels: Those of them at which the pruned network trains on.
        finetune_epochs: For how long.
        finetune_lr: Largest learning rate of it, as a share of the training's.
        strengths: Total shrinkages among which that of each L1 penalty is chosen; one alone is taken as it is.
        tune_epochs: Length of the short runs that choose it.
        keep: Shares of the multiply-accumulates that the budgets aim at, one training for each.
        latency_repeats: Interleaved rounds of the latency measurement, onnxruntime, one image; 0 leaves it out.
    """

    base: Config
    methods: tuple[str, ...] = tuple(METHODS)
    seeds: tuple[int, ...] = (0,)
    levels: tuple[float, ...] = LEVELS
    finetuned_levels: tuple[float, ...] = FINETUNED_LEVELS
    finetune_epochs: int = 3
    finetune_lr: float = 0.1
    strengths: tuple[float, ...] = STRENGTHS
    tune_epochs: int = 5
    keep: tuple[float, ...] = (0.55,)
    latency_repeats: int = 30

    def __post_init__(self) -> None:
        chosen(self.methods)
        for name in ("methods", "seeds", "levels", "strengths", "keep"):
            _need(bool(getattr(self, name)), name, "at least one")
        for name in ("levels", "finetuned_levels", "keep"):
            _need(all(0 < value < 1 for value in getattr(self, name)), name, "shares between 0 and 1")
        _need(all(value > 0 for value in self.strengths), "strengths", "above 0")
        _need(self.finetune_epochs > 0 and self.tune_epochs > 0, "epochs", "above 0")

    @property
    def chosen(self) -> list[Method]:
        """The methods."""
        return chosen(self.methods)

    @property
    def all_levels(self) -> list[float]:
        """Every level, ascending."""
        return sorted({*self.levels, *self.finetuned_levels})

    def keeps(self, training: str) -> tuple[float, ...]:
        """The budgets of a training; 1 for one without."""
        return self.keep if training == "budget" else (1.0,)

    @property
    def tuned(self) -> list[str]:
        """Trainings whose strength has to be chosen."""
        wanted = {method.training for method in self.chosen}
        return [training for training in TUNED if training in wanted and len(self.strengths) > 1]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as JSON holds it."""
        data = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**data, "base": self.base.identity()}


def _need(holds: bool, name: str, wanted: str) -> None:
    if not holds:
        raise ConfigError(f"{name} of a comparison must be {wanted}")
