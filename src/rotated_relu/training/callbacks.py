"""What a run writes while it trains: metrics, slope histograms, checkpoints."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from ..rotate import slopes
from ..run import Run, explained, read_metrics, replacing
from .module import Classifier

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"


class MetricsFile(Callback):
    """Appends the epoch's row to ``metrics.csv``, whole file at a time, so that it is never half-written."""

    def __init__(self, run: Run, say: Callable[[str], None] | None = None) -> None:
        self.run = run
        self.say = say
        self.started = time.monotonic()

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Start the clock."""
        self.started = time.monotonic()

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Write the row; rows of a later epoch, from before a resume, are dropped."""
        assert isinstance(module, Classifier)
        row = module.epoch_row() | {"seconds": round(time.monotonic() - self.started, 2)}
        path = self.run.file("metrics")
        rows = read_metrics(path) if path.is_file() else []
        rows = [*(old for old in rows if old["epoch"] < row["epoch"]), row]
        with replacing(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
            for one in rows:
                writer.writerow({key: _number(value) for key, value in one.items()})
        if self.say is not None:
            self.say(_line(row, trainer.max_epochs or 0))


def _number(value: float) -> str:
    return f"{value:.8g}"


def _line(row: dict[str, float], epochs: int) -> str:
    text = f"epoch {row['epoch'] + 1:.0f}/{epochs}"
    if "train_loss" in row:
        text += f"  loss {row['train_loss']:.4f}  train {row['train_accuracy']:.2f} %"
    if "validation_accuracy" in row:
        text += f"  validation {row['validation_accuracy']:.2f} %"
    if "alive_at_0.01" in row:
        text += f"  alive {row['alive_at_0.01']:.0f}"
    return f"{text}  {row['seconds']:.1f} s"


class TensorBoardLog(Callback):
    """Writes the epoch's row as scalars and the slopes of each activation as a histogram into ``tb/``."""

    def __init__(self, run: Run) -> None:
        self.folder = run.path / "tb"

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Log scalars and histograms."""
        from torch.utils.tensorboard import SummaryWriter

        assert isinstance(module, Classifier)
        row = module.epoch_row()
        epoch = int(row.pop("epoch"))
        with explained(self.folder), SummaryWriter(str(self.folder)) as writer:
            for key, value in row.items():
                writer.add_scalar(key, value, epoch)
            for name, slope in slopes(module.net).items():
                writer.add_histogram(f"slopes/{name}", slope.detach().float().cpu(), epoch)


class Checkpoints(Callback):
    """Keeps the checkpoints of the last two finished epochs; each is complete under its final name."""

    def __init__(self, run: Run) -> None:
        self.folder = run.checkpoints

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Write beside, keep the last as the previous one, rename."""
        last, previous = self.folder / LAST, self.folder / PREVIOUS
        with explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(last) as beside:
            trainer.save_checkpoint(beside)
            if last.is_file():
                os.replace(last, previous)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the state of torch's generators, which dropout draws from."""
        checkpoint["rng"] = torch.get_rng_state()
        if torch.cuda.is_available():
            checkpoint["cuda_rng"] = torch.cuda.get_rng_state()

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore them."""
        torch.set_rng_state(checkpoint["rng"].cpu())
        if torch.cuda.is_available() and "cuda_rng" in checkpoint:
            torch.cuda.set_rng_state(checkpoint["cuda_rng"].cpu())
