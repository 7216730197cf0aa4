"""Named training runs: each recipe is a function that returns a full configuration.

The published rows are those of Nayak and Kalyani, TMLR 2024, with two differences: choices are made on
validation images taken out of the training set, and training uses bf16 autocast. ``_l1`` adds the published
penalty on the slopes. Each docstring says what the recipe is for and about what it costs on one data-centre
GPU unless it says otherwise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from ..errors import UnknownNameError
from .config import Config, DataConfig, ModelConfig, OptimiserConfig, ScheduleConfig

PUBLISHED_L1 = 1e-4


def demo() -> Config:
    """The demo's rotated network on the 5,000 bundled digits; under two minutes on 2 CPU cores."""
    return Config(
        model=ModelConfig("demo_resnet"),
        data=DataConfig("mnist5k", validation=500, flip=False, crop_padding=2),
        optimiser=OptimiserConfig(lr=0.1, weight_decay=5e-4),
        schedule=ScheduleConfig("one-cycle", warmup=0.2),
        epochs=20,
        batch_size=64,
        slope_l1=6.5e-3,
        slope_l1_ramp=(0.0, 0.3),
        penalty_form="proximal",
    )


def resnet20_cifar10_short() -> Config:
    """ResNet-20 on CIFAR-10 in 30 epochs; half an hour on 2 CPU cores."""
    return Config(
        model=ModelConfig("resnet20"),
        data=DataConfig("cifar10", validation=5000, normalisation="imagenet"),
        optimiser=OptimiserConfig(lr=0.15, weight_decay=5e-4),
        schedule=ScheduleConfig("one-cycle", warmup=0.2),
        epochs=30,
    )


def resnet20_cifar10_short_l1() -> Config:
    """The same with an L1 penalty strong enough to kill slopes in 30 epochs; half an hour on 2 CPU cores."""
    return dataclasses.replace(resnet20_cifar10_short(), slope_l1=2e-3, slope_l1_ramp=(0.25, 0.6))


def fcnn_mnist() -> Config:
    """784-500-10 on MNIST as published; minutes. Threshold in the paper: 1.0."""
    return Config(
        model=ModelConfig("fcnn"),
        data=DataConfig("mnist", validation=5000, normalisation="none", flip=False, crop_padding=0),
        optimiser=OptimiserConfig("adam", lr=5e-4, weight_decay=0.0),
        schedule=ScheduleConfig("constant"),
        epochs=300,
        batch_size=200,
        precision="32",
        channels_last=False,
    )


def resnet20_cifar10() -> Config:
    """ResNet-20 on CIFAR-10 as published, 1200 epochs; about 2 hours. Threshold in the paper: 0.1."""
    return _cifar("resnet20", "cifar10")


def resnet20_cifar100() -> Config:
    """ResNet-20 on CIFAR-100 as published, 1200 epochs; about 2 hours. Threshold in the paper: 0.1."""
    return _cifar("resnet20", "cifar100")


def resnet56_cifar10() -> Config:
    """ResNet-56 on CIFAR-10 as published, 1200 epochs; about 5 hours. Threshold in the paper: 0.04."""
    return _cifar("resnet56", "cifar10")


def resnet56_cifar100() -> Config:
    """ResNet-56 on CIFAR-100 as published, 1200 epochs; about 5 hours. Threshold in the paper: 0.04."""
    return _cifar("resnet56", "cifar100")


def preact_resnet110_cifar10() -> Config:
    """Pre-activation ResNet-110 on CIFAR-10 as published, 1200 epochs with a warm-up; about 10 hours."""
    warm = ScheduleConfig("cosine", warmup=1 / 1200, start_factor=0.1)
    return dataclasses.replace(_cifar("preact_resnet110", "cifar10"), schedule=warm)


def preact_resnet164_cifar10() -> Config:
    """Pre-activation ResNet-164 on CIFAR-10 as published, 1200 epochs; about 20 hours."""
    return _cifar("preact_resnet164", "cifar10")


def wrn_40_4_cifar10() -> Config:
    """WRN-40-4 on CIFAR-10 as published, 400 epochs; about 4 hours. Threshold in the paper: 0.04."""
    return _wide_cifar("cifar10")


def wrn_40_4_cifar100() -> Config:
    """WRN-40-4 on CIFAR-100 as published, 400 epochs; about 4 hours. Threshold in the paper: 0.04."""
    return _wide_cifar("cifar100")


def wrn_16_4_svhn() -> Config:
    """WRN-16-4 on SVHN as published, 1000 epochs, no dropout; about 6 hours. Threshold in the paper: 0.04."""
    return Config(
        model=ModelConfig("wrn_16_4"),
        data=DataConfig("svhn", validation=5000, flip=False, crop_padding=0),
        optimiser=OptimiserConfig(lr=0.01, nesterov=True, weight_decay=5e-4),
        schedule=ScheduleConfig("cosine", warmup=5 / 1000),
        epochs=1000,
    )


def _cifar(model: str, data: str) -> Config:
    return Config(
        model=ModelConfig(model),
        data=DataConfig(data, validation=5000, normalisation="imagenet"),
        optimiser=OptimiserConfig(lr=0.1, weight_decay=1e-4),
        schedule=ScheduleConfig("cosine"),
        epochs=1200,
    )


def _wide_cifar(data: str) -> Config:
    return Config(
        model=ModelConfig("wrn_40_4", options={"dropout": 0.3}),
        data=DataConfig(data, validation=5000),
        optimiser=OptimiserConfig(lr=0.1, nesterov=True, weight_decay=5e-4),
        schedule=ScheduleConfig("cosine"),
        epochs=400,
    )


def _with_published_l1(recipe: Callable[[], Config]) -> Callable[[], Config]:
    """A recipe of the same name plus ``_l1``."""

    def build() -> Config:
        return dataclasses.replace(recipe(), slope_l1=PUBLISHED_L1)

    first = (recipe.__doc__ or "").splitlines()[0]
    build.__name__ = f"{recipe.__name__}_l1"
    build.__doc__ = f"L1 of {PUBLISHED_L1:g} on the slopes; {first}"
    return build


_PUBLISHED: tuple[Callable[[], Config], ...] = (
    fcnn_mnist,
    resnet20_cifar10,
    resnet20_cifar100,
    resnet56_cifar10,
    resnet56_cifar100,
    preact_resnet110_cifar10,
    preact_resnet164_cifar10,
    wrn_40_4_cifar10,
    wrn_40_4_cifar100,
    wrn_16_4_svhn,
)

# Name -> function that returns the configuration; the docstring's first line says what for and at what cost.
RECIPES: dict[str, Callable[[], Config]] = {
    recipe.__name__: recipe
    for recipe in (
        demo,
        resnet20_cifar10_short,
        resnet20_cifar10_short_l1,
        *_PUBLISHED,
        *map(_with_published_l1, _PUBLISHED),
    )
}


def names() -> list[str]:
    """Names of all recipes, sorted."""
    return sorted(RECIPES)


def get(name: str) -> Config:
    """The configuration of a recipe.

    Raises:
        UnknownNameError: If there is none of that name; suggests the nearest.
    """
    if name not in RECIPES:
        raise UnknownNameError("recipe", name, RECIPES)
    return RECIPES[name]()


def about(name: str) -> str:
    """One line: what a recipe is for and about what it costs."""
    get(name)
    return (RECIPES[name].__doc__ or "").strip().splitlines()[0]
