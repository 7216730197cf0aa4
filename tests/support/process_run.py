"""Run by ``torchrun``: ``process_run.py RUN NET STRATEGY``: 20 steps of the small run; first process writes them.

NET is ``fcnn`` (no batch norm) or ``resnet`` (with).
"""

import dataclasses
import sys

import torch

torch.set_num_threads(1)

from rotated_relu.training import BudgetConfig, DataConfig, ModelConfig, ScaleConfig, fit  # noqa: E402
from rotated_relu.training.engine.loop import Loop  # noqa: E402
from support.training_data import CONFIG, made_images  # noqa: E402

NETS = {"fcnn": ModelConfig("fcnn", options={"hidden": 8}), "resnet": ModelConfig("demo_resnet")}
# 96 images in batches of 24: four steps an epoch; 30 validation images in batches of 8 are uneven shares for two.
IMAGES = made_images()


def config_for(net, strategy="ddp"):
    return dataclasses.replace(
        CONFIG,
        model=NETS[net],
        data=DataConfig("made", flip=True, crop_padding=1),
        precision="32" if strategy == "fsdp" else "64",  # Fabric's FSDP knows no float64
        batch_size=24,
        fast=net == "resnet",
        epochs=5,
        slope_l1=1e-3,
        budget=BudgetConfig(1.0 if strategy == "fsdp" else 0.7, end=0.6, window=0.2),
        scale=ScaleConfig(strategy=strategy),
    )


def check_agreement(loop):
    """Slopes and batch statistics are the same in all processes."""
    for name, value in loop.stepper.net.state_dict().items():
        first = value.detach().clone()
        torch.distributed.broadcast(first, src=0)
        assert torch.equal(first, value), name


if __name__ == "__main__":
    from rotated_relu.training.engine import step as stepper

    stepper.VALIDATION_BATCH = 8
    run, net, strategy = sys.argv[1:]
    original = Loop.train

    def train(self):
        original(self)
        if strategy == "ddp":
            check_agreement(self)

    Loop.train = train
    fit(config_for(net, strategy), run, images=IMAGES, progress="none", device="cpu")
