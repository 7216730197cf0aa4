"""Learning rate and penalty strength as functions of the position in the run, in [0, 1]."""

from __future__ import annotations

import dataclasses
import math

from ..config import Config, ScheduleConfig

STEPS = (0.6, 0.8)  # as Torch-Pruning's benchmark trains: 60 and 80 of 100 epochs


def learning_rate_factor(schedule: ScheduleConfig, position: float) -> float:
    """Learning rate at ``position`` of this training, as a share of the largest one.

    A linear rise from ``start_factor`` to 1 over the first ``warmup`` of the run, then constant, steps down, or a
    cosine to 0.
    """
    first, last = schedule.part
    position = first + (last - first) * position
    if position < schedule.warmup:
        return schedule.start_factor + (1 - schedule.start_factor) * position / schedule.warmup
    if schedule.name == "constant":
        return 1.0
    if schedule.name == "steps":
        return float(0.1 ** sum(position >= place for place in STEPS))
    fall = min(1.0, (position - schedule.warmup) / (1 - schedule.warmup))
    return 0.5 * (1 + math.cos(math.pi * fall))


def penalty_strength(config: Config, position: float) -> float:
    """Strength of the L1 penalty at ``position``: 0 before the ramp, ``slope_l1`` after it, linear within."""
    start, end = config.slope_l1_ramp
    if position >= end:
        return config.slope_l1
    return config.slope_l1 * max(0.0, (position - start) / (end - start))


def total_shrinkage(config: Config, steps: int) -> float:
    """How far the penalty moves a slope that the loss does not hold, over a run of ``steps`` steps of SGD.

    The sum over the steps of strength times learning rate, divided by (1 - momentum) under SGD. Initial slopes lie
    within [0.70, 1.43] of zero, so a total below that cannot kill a channel.
    """
    total = 0.0
    for step in range(steps):
        position = step / steps
        total += penalty_strength(config, position) * learning_rate_factor(config.schedule, position)
    return total * config.optimizer.lr * momentum_factor(config)


def momentum_factor(config: Config) -> float:
    """How much further a constant gradient moves a parameter than without momentum: 1 / (1 - m) under SGD."""
    return 1 / (1 - config.optimizer.momentum) if config.optimizer.name == "sgd" else 1.0


def in_strength(config: Config, steps: int) -> Config:
    """The same configuration, ``total_shrinkage`` as the ``slope_l1`` that moves a slope so far in ``steps``."""
    if not config.total_shrinkage:
        return config
    of_one = total_shrinkage(dataclasses.replace(config, total_shrinkage=0.0, slope_l1=1.0), steps)
    return dataclasses.replace(config, total_shrinkage=0.0, slope_l1=config.total_shrinkage / of_one)
