"""How each method spends its epochs: the same total for all.

From scratch, every network trains for ``base.epochs`` and what was pruned trains on for ``finetune_epochs``. With
weights that were brought, a method has ``base.epochs`` in all: one that needs a training of its own before it prunes
spends the first part of them on it, the others train the pruned network for all of them.

DepGraph's schedule is the exception that its authors published: it goes on from the trained network, one half of the
epochs with Torch-Pruning's penalty, the other half pruned, each from a learning rate of 0.01 in steps.
Source: Torch-Pruning's ``benchmarks/main.py``, method ``group_sl``: 100 and 100 epochs, steps after 60 and 80 of them,
penalty 5e-4 in place of weight decay in the first half, weight decay 5e-4 in the second.
"""

from __future__ import annotations

import dataclasses

from ...training import Config, OptimizerConfig, ScheduleConfig
from ..shrinking.settings import phases
from ..stages.finetune import finetune_config
from .methods import BUDGETS, DENSE, DEPGRAPH, Method, training_config
from .settings import Settings

PUBLISHED_LR, PUBLISHED_BATCH, PUBLISHED_DECAY = 0.01, 128, 5e-4
# What the published penalty does to a parameter, in the unit of the other strengths: 5e-4 * 0.01 / (1 - 0.9) per step,
# 390 steps in each of 60 + 20 / 10 + 20 / 100 epochs.
PUBLISHED_SHRINKAGE = 1.21


def first_part(
    settings: Settings,
    training: str,
    *,
    seed: int,
    strength: float = 0.0,
    keep: float = 1.0,
    table: str | None = None,
) -> Config | None:
    """How a network trains before it is pruned; None if it is pruned as it was brought.

    Args:
        settings: Of the comparison.
        training: Which training, see :func:`.methods.training_config`.
        seed: Of weights, order and augmentation.
        strength: Of its penalty, as a total shrinkage.
        keep: Share of the multiply-accumulates, or of the milliseconds, that its budget aims at.
        table: File of the times that a budget of milliseconds counts by.
    """
    base = dataclasses.replace(settings.base, seed=seed)
    if training == DEPGRAPH:
        return _published(base, _halves(settings)[0], regularized=True)
    whole = training_config(base, training, strength=strength, keep=keep, table=table)
    if settings.weights is None:
        return whole
    if training == DENSE:
        return None
    choosing, _ = phases(base, keep, budget={"unit": BUDGETS.get(training, "macs"), "table": table})
    budget = choosing.budget if training in BUDGETS else whole.budget
    return dataclasses.replace(whole, epochs=choosing.epochs, schedule=choosing.schedule, budget=budget)


def second_part(settings: Settings, method: Method, seed: int) -> Config:
    """How a pruned network trains on: nothing is penalized, and slopes that stand in for plain activations stay 1."""
    base = training_config(dataclasses.replace(settings.base, seed=seed), method.training)
    if method.training == DEPGRAPH:
        config = _published(base, _halves(settings)[1], regularized=False)
    elif settings.weights is None:
        config = finetune_config(base, settings.finetune_epochs, settings.finetune_lr * base.optimizer.lr)
    elif method.training == DENSE:
        config = base
    else:
        config = phases(base, 1.0)[1] or base
    stands_in = method.has_stand_ins
    return dataclasses.replace(
        config,
        model=dataclasses.replace(base.model, rotated=True) if stands_in else base.model,
        trains="weights" if stands_in else "all",
        penalized="slopes",
        compile=False,  # every network has another shape: compiling takes longer than it saves
    )


def total_epochs(settings: Settings) -> int:
    """Of every method, from where it starts."""
    return settings.base.epochs + (0 if settings.weights else settings.finetune_epochs)


def shortened(settings: Settings) -> Settings:
    """The same, with first parts of ``tuning_epochs``."""
    epochs = settings.tuning_epochs * (2 if settings.weights else 1)  # the first part is half of them
    return dataclasses.replace(settings, base=dataclasses.replace(settings.base, epochs=epochs))


def _halves(settings: Settings) -> tuple[int, int]:
    """Of the epochs that come after the trained network."""
    left = settings.base.epochs if settings.weights else settings.finetune_epochs
    return left // 2, left - left // 2


def _published(base: Config, epochs: int, *, regularized: bool) -> Config:
    return dataclasses.replace(
        base,
        model=dataclasses.replace(base.model, rotated=False),
        epochs=epochs,
        optimizer=OptimizerConfig(
            lr=PUBLISHED_LR * base.batch_size / PUBLISHED_BATCH,
            weight_decay=0.0 if regularized else PUBLISHED_DECAY,
        ),
        schedule=ScheduleConfig("steps"),
        slope_l1=0.0,
        total_shrinkage=0.0,
        budget=dataclasses.replace(base.budget, keep=1.0),
        trains="all",
    )
