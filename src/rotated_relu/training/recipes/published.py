"""The rows of the paper's settings table, each with its published settings.

Two differences: choices are made on validation images taken out of the training set, and training uses bf16 autocast
(but for the fully connected network).
"""

from __future__ import annotations

import dataclasses

from ..config import Config, DataConfig, ModelConfig, OptimizerConfig, ScheduleConfig
from .recipe import Cost, Published, Recipe

FROM_ALIVE = "Savings follow from the published numbers of filters left alive."


def fcnn_mnist() -> Config:
    """784-500-10 on MNIST."""
    return Config(
        model=ModelConfig("fcnn"),
        data=DataConfig("mnist", validation=0.1, normalisation="none", flip=False, crop_padding=0),
        optimizer=OptimizerConfig("adam", lr=5e-4, weight_decay=0.0),
        schedule=ScheduleConfig("constant"),
        epochs=300,
        batch_size=200,
        precision="32",
        channels_last=False,
    )


def resnet20_cifar10() -> Config:
    """ResNet-20 on CIFAR-10."""
    return _cifar("resnet20", "cifar10")


def resnet20_cifar100() -> Config:
    """ResNet-20 on CIFAR-100."""
    return _cifar("resnet20", "cifar100")


def resnet56_cifar10() -> Config:
    """ResNet-56 on CIFAR-10."""
    return _cifar("resnet56", "cifar10")


def resnet56_cifar100() -> Config:
    """ResNet-56 on CIFAR-100."""
    return _cifar("resnet56", "cifar100")


def preact_resnet110_cifar10() -> Config:
    """Pre-activation ResNet-110 on CIFAR-10, with a warm-up."""
    return _warm("cifar10")


def preact_resnet110_cifar100() -> Config:
    """Pre-activation ResNet-110 on CIFAR-100, with a warm-up."""
    return _warm("cifar100")


def preact_resnet164_cifar10() -> Config:
    """Pre-activation ResNet-164 on CIFAR-10."""
    return _cifar("preact_resnet164", "cifar10")


def preact_resnet164_cifar100() -> Config:
    """Pre-activation ResNet-164 on CIFAR-100."""
    return _cifar("preact_resnet164", "cifar100")


def wrn_40_4_cifar10() -> Config:
    """WRN-40-4 on CIFAR-10."""
    return _wide("cifar10")


def wrn_40_4_cifar100() -> Config:
    """WRN-40-4 on CIFAR-100."""
    return _wide("cifar100")


def wrn_16_4_svhn() -> Config:
    """WRN-16-4 on SVHN, without dropout."""
    return Config(
        model=ModelConfig("wrn_16_4"),
        data=DataConfig("svhn", validation=5000, flip=False, crop_padding=0),
        optimizer=OptimizerConfig(lr=0.01, nesterov=True, weight_decay=5e-4),
        schedule=ScheduleConfig("cosine", warmup=5 / 1000),
        epochs=1000,
    )


def _cifar(model: str, data: str) -> Config:
    return Config(
        model=ModelConfig(model),
        data=DataConfig(data, validation=5000, normalisation="imagenet"),
        optimizer=OptimizerConfig(lr=0.1, weight_decay=1e-4),
        schedule=ScheduleConfig("cosine"),
        epochs=1200,
    )


def _warm(data: str) -> Config:
    warm = ScheduleConfig("cosine", warmup=1 / 1200, start_factor=0.1)
    return dataclasses.replace(_cifar("preact_resnet110", data), schedule=warm)


def _wide(data: str) -> Config:
    return Config(
        model=ModelConfig("wrn_40_4", options={"dropout": 0.3}),
        data=DataConfig(data, validation=5000),
        optimizer=OptimizerConfig(lr=0.1, nesterov=True, weight_decay=5e-4),
        schedule=ScheduleConfig("cosine"),
        epochs=400,
    )


PUBLISHED = (
    Recipe(fcnn_mnist, Cost(0.2), Published(1.0)),
    Recipe(resnet20_cifar10, Cost(40, 2), Published(0.1)),
    Recipe(resnet20_cifar100, Cost(40, 2), Published(0.1)),
    Recipe(resnet56_cifar10, Cost(120, 5), Published(0.04)),
    Recipe(resnet56_cifar100, Cost(120, 5), Published(0.04, 6.7, 31.4, FROM_ALIVE)),
    Recipe(preact_resnet110_cifar10, Cost(250, 10)),
    Recipe(preact_resnet110_cifar100, Cost(250, 10)),
    Recipe(preact_resnet164_cifar10, Cost(240, 20), Published(None, 35.92, 25.97)),
    Recipe(preact_resnet164_cifar100, Cost(240, 20)),
    Recipe(wrn_40_4_cifar10, Cost(430, 4), Published(0.04, 64.3, 52.6)),
    Recipe(wrn_40_4_cifar100, Cost(430, 4), Published(0.04, 19.5, 29.5, FROM_ALIVE)),
    Recipe(wrn_16_4_svhn, Cost(490, 6), Published(0.04, 34.2, 34.3, FROM_ALIVE)),
)
# Figures that are published for a row with L1.
PUBLISHED_L1 = {"preact_resnet164_cifar10": Published(None, 64.67, 52.96)}
