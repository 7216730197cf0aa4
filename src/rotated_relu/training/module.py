"""The Lightning module: loss, optimiser, schedule, penalty and the epoch's totals."""

from __future__ import annotations

import math
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data import flip_and_crop, normalise
from ..errors import DivergedError
from ..penalty import add_l1_subgradient, parameter_groups, shrink, slope_l1
from ..rotate import slopes
from .config import Config, OptimiserConfig
from .schedules import learning_rate_factor, penalty_strength

Batch = tuple[Tensor, Tensor]


class Totals:
    """Loss, correct answers and images seen in one epoch; kept on the device, read once."""

    def __init__(self) -> None:
        self.loss, self.correct, self.count = torch.zeros(()), torch.zeros(()), 0

    def add(self, loss: Tensor, scores: Tensor, labels: Tensor) -> None:
        """Add one batch; ``loss`` is its mean."""
        size = labels.shape[0]
        self.loss = self.loss.to(loss.device) + loss.detach().float() * size
        self.correct = self.correct.to(loss.device) + (scores.detach().argmax(1) == labels).sum()
        self.count += size

    def row(self, prefix: str) -> dict[str, float]:
        """Mean loss and accuracy in percent; empty if nothing was seen."""
        if not self.count:
            return {}
        return {
            f"{prefix}_loss": float(self.loss) / self.count,
            f"{prefix}_accuracy": 100 * float(self.correct) / self.count,
        }


class Classifier(lightning.LightningModule):
    """Trains ``net`` on batches of uint8 images and labels.

    Args:
        net: The network.
        config: The run.
        mean: Of the images, per channel.
        std: Of the images, per channel.
        steps: Optimiser steps of the whole run.
    """

    def __init__(
        self, net: nn.Module, config: Config, mean: tuple[float, ...], std: tuple[float, ...], steps: int
    ) -> None:
        super().__init__()
        self.net = net
        self.config = config
        self.mean, self.std = mean, std
        self.steps = steps
        self.slopes = list(slopes(net).values())
        self.train_totals, self.validation_totals = Totals(), Totals()
        self.augmentation = torch.Generator()

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images to class scores."""
        return self.net(images)  # type: ignore[no-any-return]

    @property
    def position(self) -> float:
        """Share of the run that is done."""
        return self.global_step / self.steps

    def prepare(self, images: Tensor, augment: bool) -> Tensor:
        """Uint8 images (N, C, H, W) to what the network reads."""
        data = self.config.data
        if augment and (data.flip or data.crop_padding):
            images = flip_and_crop(images, data.crop_padding, data.flip, self.augmentation)
        layout = torch.channels_last if self.config.channels_last else torch.contiguous_format
        return normalise(images, self.mean, self.std).contiguous(memory_format=layout)

    def on_train_epoch_start(self) -> None:
        """Seed the augmentation from seed and epoch, so that a resumed run draws what the whole one would."""
        self.train_totals = Totals()
        self.augmentation.manual_seed(epoch_seed(self.config.seed, self.current_epoch) + 1)

    def on_validation_epoch_start(self) -> None:
        """Start counting afresh."""
        self.validation_totals = Totals()

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Cross entropy of one augmented batch.

        Raises:
            DivergedError: If it is not finite; names the first layer whose output is not.
        """
        images, labels = self.prepare(batch[0], augment=True), batch[1]
        scores = self(images)
        loss = F.cross_entropy(scores.float(), labels, label_smoothing=self.config.label_smoothing)
        if not math.isfinite(float(loss.detach())):
            raise DivergedError(
                f"the training loss became {float(loss.detach())} in epoch {self.current_epoch + 1}, step "
                f"{batch_index + 1}; {first_non_finite(self.net, images)}; lower the learning rate (now "
                f"{self.learning_rate:.3g}) or lengthen the warm-up; the last good checkpoint was kept"
            )
        self.train_totals.add(loss, scores, labels)
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Count one validation batch."""
        scores = self(self.prepare(batch[0], augment=False)).float()
        self.validation_totals.add(F.cross_entropy(scores, batch[1]), scores, batch[1])

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Add the penalty's subgradient."""
        if self.config.slope_l1 and self.config.penalty_form == "subgradient":
            add_l1_subgradient(self.slopes, penalty_strength(self.config, self.position))

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_index: int) -> None:
        """Take the proximal step of the penalty, at the rate the optimiser has just used."""
        if self.config.slope_l1 and self.config.penalty_form == "proximal":
            position = (self.global_step - 1) / self.steps
            momentum = self.config.optimiser.momentum if self.config.optimiser.name == "sgd" else 0.0
            rate = self.config.optimiser.lr * learning_rate_factor(self.config.schedule, position)
            shrink(self.slopes, penalty_strength(self.config, position) * rate / (1 - momentum))

    def configure_optimizers(self) -> Any:
        """SGD or Adam, with a learning rate that is set at every step."""
        optimiser = build_optimiser(self.net, self.config.optimiser)
        schedule = self.config.schedule
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: learning_rate_factor(schedule, step / self.steps)
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    @property
    def learning_rate(self) -> float:
        """The optimiser's present learning rate."""
        return float(self.trainer.optimizers[0].param_groups[0]["lr"])

    def epoch_row(self) -> dict[str, float]:
        """The epoch's line in ``metrics.csv``; accuracies in percent."""
        row: dict[str, float] = {"epoch": self.current_epoch}
        row |= self.train_totals.row("train") | self.validation_totals.row("validation")
        row["lr"] = self.learning_rate
        row["penalty"] = penalty_strength(self.config, self.position) * float(slope_l1(self.net).detach())
        if self.slopes:
            sizes = torch.cat([slope.detach().abs().flatten() for slope in self.slopes])
            row |= {f"alive_at_{zeta:g}": int((sizes >= zeta).sum()) for zeta in ALIVE_AT}
        return row


ALIVE_AT = (0.001, 0.01, 0.04, 0.1)


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed of its own for every epoch of every run."""
    return (seed * 1_000_003 + epoch) * 2


def build_optimiser(net: nn.Module, settings: OptimiserConfig) -> torch.optim.Optimizer:
    """The optimiser over all parameters of ``net``; slopes decay or not as the settings say."""
    groups = parameter_groups(net, settings.weight_decay, settings.decay_slopes)
    if settings.name == "adam":
        return torch.optim.Adam(groups, lr=settings.lr)
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.nesterov)


def first_non_finite(net: nn.Module, images: Tensor) -> str:
    """Say which layer first gives a value that is not finite, and whether its weights are at fault."""
    found: list[str] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not found and isinstance(output, Tensor) and not bool(output.isfinite().all()):
                broken = [key for key, value in module.named_parameters() if not bool(value.isfinite().all())]
                found.append(
                    f"{name} ({type(module).__name__})"
                    + (f", whose {broken[0]} is not finite" if broken else "")
                )

        return hook

    leaves = [(name, module) for name, module in net.named_modules() if not list(module.children())]
    handles = [module.register_forward_hook(watch(name)) for name, module in leaves]
    try:
        with torch.no_grad():
            net(images)
    finally:
        for handle in handles:
            handle.remove()
    return f"first layer with a non-finite output: {found[0]}" if found else "every layer's output is finite"
