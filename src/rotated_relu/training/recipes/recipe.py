"""What a recipe carries besides its settings, and the two variants that each published row has."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

from ..config import Config

L1 = 1e-4  # on the slopes, as published
STEPS = (500, 700)  # epochs of the two steps, as published
STEP_THRESHOLD = 0.03  # after the first step, as published
RETRAIN_SHARE = 0.05  # of the epochs, for a compacted network whose weights are trained already


@dataclass(frozen=True)
class Cost:
    """About what a training takes; see docs/recipes.md for how it was estimated.

    Attributes:
        core_hours: On CPU cores with bf16 instructions.
        gpu_hours: On one data-centre GPU; None where a GPU is not worth it.
    """

    core_hours: float
    gpu_hours: float | None = None

    def times(self, factor: float) -> Cost:
        """The cost of so many times the work."""
        return Cost(factor * self.core_hours, None if self.gpu_hours is None else factor * self.gpu_hours)

    def words(self) -> str:
        """``40 core-hours, 2 GPU-hours``."""
        parts = [_amount(self.core_hours, "core")]
        if self.gpu_hours is not None:
            parts.append(_amount(self.gpu_hours, "GPU"))
        return ", ".join(parts)


def _amount(hours: float, of: str) -> str:
    number, unit = (round(hours), "hour") if hours >= 1 else (max(1, round(60 * hours)), "minute")
    return f"{number:,} {of}-{unit}{'' if number == 1 else 's'}"


@dataclass(frozen=True)
class Published:
    """What the paper says about a row; None where our source does not have it.

    Attributes:
        threshold: zeta.
        memory_saved: Percent of the weights, in the paper's count.
        flops_saved: Percent of the FLOPs, in the paper's count.
        note: What else is to be known, as a sentence.
    """

    threshold: float | None = None
    memory_saved: float | None = None
    flops_saved: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Recipe:
    """A named training with what it costs and what the paper reports for it.

    Attributes:
        build: Returns the settings of the whole training; its name is the recipe's, the first line of its docstring
            says what it is for.
        cost: Of the rotated network's training, over all epochs.
        published: The paper's figures.
        two_step: Slopes train first, on random weights, then the weights of what is left.
    """

    build: Callable[[], Config]
    cost: Cost
    published: Published = field(default_factory=Published)
    two_step: bool = False

    @property
    def name(self) -> str:
        """The name."""
        return self.build.__name__

    @property
    def about(self) -> str:
        """One line: what it is for."""
        return (self.build.__doc__ or "").strip().splitlines()[0]

    def first(self, whole: Config) -> Config:
        """The training before compaction: the whole one, or the first of two steps.

        Args:
            whole: Settings over all epochs: those of ``build``, perhaps changed.
        """
        if not self.two_step:
            return whole
        epochs = max(1, round(whole.epochs * STEPS[0] / sum(STEPS)))
        return dataclasses.replace(whole, trains="slopes", epochs=epochs)

    def retrain_epochs(self, whole: Config) -> int:
        """Epochs for the compacted network: what the first step leaves, as published 7 of 12, or a twentieth more."""
        if self.two_step:
            return max(1, whole.epochs - self.first(whole).epochs)
        return max(1, round(RETRAIN_SHARE * whole.epochs))


def with_l1(recipe: Recipe, published: Published | None = None) -> Recipe:
    """The recipe plus the published penalty on the slopes, named ``NAME_l1``."""

    def build() -> Config:
        return dataclasses.replace(recipe.build(), slope_l1=L1)

    _name(build, f"{recipe.name}_l1", f"{recipe.about} With an L1 of {L1:g} on the slopes.")
    return Recipe(build, recipe.cost, published or Published())


def in_two_steps(recipe: Recipe) -> Recipe:
    """The recipe with the slopes as a coarse feature extractor: slopes first, then weights; ``NAME_two_step``."""

    def build() -> Config:
        return recipe.build()

    _name(build, f"{recipe.name}_two_step", f"{recipe.about} Slopes first, then the surviving weights.")
    return Recipe(build, recipe.cost, Published(threshold=STEP_THRESHOLD), two_step=True)


def _name(build: Callable[[], Config], name: str, about: str) -> None:
    build.__name__, build.__doc__ = name, about
