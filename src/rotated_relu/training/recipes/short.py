"""Short trainings, not the paper's: settings of ours that show something within minutes."""

from __future__ import annotations

import dataclasses

from ..config import Config, DataConfig, ModelConfig, OptimizerConfig, ScheduleConfig
from .recipe import Cost, Recipe


def demo() -> Config:
    """The demo's rotated network on the 5,000 bundled digits."""
    return Config(
        model=ModelConfig("demo_resnet"),
        data=DataConfig("mnist5k", validation=500, flip=False, crop_padding=2),
        optimizer=OptimizerConfig(lr=0.1, weight_decay=5e-4),
        schedule=ScheduleConfig("one-cycle", warmup=0.2),
        epochs=20,
        batch_size=64,
        slope_l1=6.5e-3,
        slope_l1_ramp=(0.0, 0.3),
        penalty_form="proximal",
    )


def resnet20_cifar10_short() -> Config:
    """ResNet-20 on CIFAR-10 in 30 epochs."""
    return Config(
        model=ModelConfig("resnet20"),
        data=DataConfig("cifar10", validation=5000, normalisation="imagenet"),
        optimizer=OptimizerConfig(lr=0.15, weight_decay=5e-4),
        schedule=ScheduleConfig("one-cycle", warmup=0.2),
        epochs=30,
    )


def resnet20_cifar10_short_l1() -> Config:
    """The same with an L1 penalty strong enough to kill slopes in 30 epochs."""
    return dataclasses.replace(resnet20_cifar10_short(), slope_l1=2e-3, slope_l1_ramp=(0.25, 0.6))


def resnet20_cifar10_compare() -> Config:
    """ResNet-20 with 1x1 shortcuts on CIFAR-10 in 40 epochs: what compare gives every method."""
    return dataclasses.replace(
        resnet20_cifar10_short(), model=ModelConfig("resnet20", options={"projection": True}), epochs=40
    )


SHORT = (
    Recipe(demo, Cost(0.06)),
    Recipe(resnet20_cifar10_short, Cost(1)),
    Recipe(resnet20_cifar10_short_l1, Cost(1)),
    Recipe(resnet20_cifar10_compare, Cost(1.2)),
)
