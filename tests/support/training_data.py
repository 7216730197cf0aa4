"""A few synthetic images and a small run on them."""

import dataclasses

import torch

from rotated_relu.training import (
    BudgetConfig,
    Config,
    DataConfig,
    KeepConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
)
from rotated_relu.training.data.splits import ImageData, Split


def made_images(count=96, size=6):
    """Three classes: the brightest third of the picture says which."""
    generator = torch.Generator().manual_seed(0)

    def split(number):
        labels = torch.arange(number) % 3
        images = torch.randint(0, 100, (number, 1, size, size), dtype=torch.uint8, generator=generator)
        for label in range(3):
            rows = slice(label * size // 3, (label + 1) * size // 3)
            images[labels == label, :, rows] += 100
        return Split(images, labels, (0.4,), (0.2,))

    return ImageData(split(count), split(30), split(30), ("top", "middle", "bottom"), {"name": "made"})


IMAGES = made_images()
CONFIG = Config(
    model=ModelConfig("fcnn", options={"hidden": 8}),
    data=DataConfig("made", flip=False, crop_padding=0),
    optimizer=OptimizerConfig(lr=0.05, weight_decay=1e-4),
    schedule=ScheduleConfig("one-cycle", warmup=0.3),
    epochs=3,
    batch_size=16,
    fast=False,  # capturing the network takes longer than training it
)
CONV = dataclasses.replace(
    CONFIG, model=ModelConfig("demo_resnet"), data=DataConfig("made", flip=True, crop_padding=1), epochs=1
)
# Everything that has a state: augmentation, dropout, momentum, penalty, budget, average, accumulation.
RICH = dataclasses.replace(
    CONFIG,
    model=ModelConfig("wrn_16_4", options={"dropout": 0.3}),
    data=DataConfig("made", flip=True, crop_padding=1),
    slope_l1=1e-3,
    slope_l1_ramp=(0.2, 0.6),
    penalty_form="proximal",
    budget=BudgetConfig(0.7, end=0.6, window=0.2),
    precision="32",
    fast=True,
    ema=0.9,
    accumulate=2,
    batch_size=24,
    epochs=2,
    keep=KeepConfig(minutes=0.0),
)
