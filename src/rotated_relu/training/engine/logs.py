"""What a run writes for people after every epoch: metrics, timings, TensorBoard, Weights & Biases.

Each is written before the epoch's checkpoint. A run that goes on from a checkpoint drops what was written after it, so
that no epoch appears twice.
"""

from __future__ import annotations

import csv
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ...core.criteria import UNIT_LABELS
from ...core.errors import RunError
from ...core.extras import needs
from ...core.formatting import duration
from ...core.run_directory import Run, explained, read_json, replacing, write_json
from ..config import Config
from .progress import Progress


class Log(Protocol):
    """A place that the epochs' numbers go to."""

    def resume(self, progress: Progress) -> None:
        """Drop everything after ``progress``; called once, first."""

    def epoch(self, progress: Progress, slopes: dict[str, Tensor]) -> None:
        """Write the last row of ``progress``."""

    def close(self) -> None:
        """Nothing more will come."""


def logs_for(run: Run, config: Config, say: Callable[[str], None] | None) -> list[Log]:
    """The logs that a configuration asks for.

    Raises:
        RunError: If a package for one is missing.
    """
    found: list[Log] = [Table(run)]
    if config.log.tensorboard:
        found.append(TensorBoard(run))
    if config.log.wandb is not None:
        found.append(WeightsAndBiases(run, config))
    if say is not None:
        found.append(Lines(say, config))
    return found


class Table:
    """``metrics.csv``, and the seconds apart in ``timings.csv``: the one is the same however often a run is killed."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def resume(self, progress: Progress) -> None:
        """Write the rows that are known; later ones are gone with that."""
        if progress.rows:
            self._write(progress)

    def epoch(self, progress: Progress, slopes: dict[str, Tensor]) -> None:
        """Write all rows: whole files at a time, so that they are never half-written."""
        self._write(progress)

    def close(self) -> None:
        """Nothing is open."""

    def _write(self, progress: Progress) -> None:
        _write_table(self.run.file("metrics"), progress.rows)
        timings = [{"epoch": epoch, "seconds": seconds} for epoch, seconds in enumerate(progress.timings)]
        _write_table(self.run.file("timings"), timings)


def _write_table(path: Path, rows: list[dict[str, float]]) -> None:
    with replacing(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[-1]))
        writer.writeheader()
        for row in rows:
            writer.writerow({key: f"{value:.8g}" for key, value in row.items()})


class Lines:
    """One line per epoch for a person watching."""

    def __init__(self, say: Callable[[str], None], config: Config) -> None:
        self.say, self.config = say, config

    def resume(self, progress: Progress) -> None:
        """Say where the run goes on."""
        if progress.epoch or progress.step:
            self.say(f"going on in epoch {progress.epoch + 1}, after {progress.step} steps of it")

    def epoch(self, progress: Progress, slopes: dict[str, Tensor]) -> None:
        """Say how the epoch went."""
        count = sum(slope.numel() for slope in slopes.values())
        self.say(_line(progress.rows[-1], progress.timings, self.config, count))

    def close(self) -> None:
        """Nothing is open."""


def _line(row: dict[str, float], timings: list[float], config: Config, slopes: int) -> str:
    text = f"epoch {row['epoch'] + 1:.0f}/{config.epochs}"
    if "train_loss" in row:
        text += f"  loss {row['train_loss']:.4f}  train {row['train_accuracy']:.2f} %"
    if "validation_accuracy" in row:
        text += f"  validation {row['validation_accuracy']:.2f} %"
    if "alive_at_0.01" in row:
        text += f"  alive {row['alive_at_0.01']:.0f} of {slopes}"
    unit, keep = config.budget.unit, config.budget.keep
    if f"{unit}_left" in row:
        text += f"  {UNIT_LABELS[unit]} {row[f'{unit}_left']:.1f} %, target {100 * keep:.3g} %"
    text += f"  {timings[-1]:.1f} s"
    left = sum(timings) / len(timings) * (config.epochs - len(timings))
    return f"{text}, {duration(left)} left" if left else text


class TensorBoard:
    """The row as scalars and the slopes of each activation as a histogram, in ``tb/``."""

    def __init__(self, run: Run) -> None:
        self.folder = run.path / "tb"
        self.writer: Any = None

    def resume(self, progress: Progress) -> None:
        """Open a file; TensorBoard hides what older files hold of this epoch and later ones."""
        needs("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        with explained(self.folder):
            self.writer = SummaryWriter(str(self.folder), purge_step=progress.epoch)

    def epoch(self, progress: Progress, slopes: dict[str, Tensor]) -> None:
        """Log scalars and histograms."""
        row = dict(progress.rows[-1])
        epoch = int(row.pop("epoch"))
        with explained(self.folder):
            for key, value in row.items():
                self.writer.add_scalar(key, value, epoch)
            for name, slope in slopes.items():
                self.writer.add_histogram(f"slopes/{name}", slope, epoch)
            self.writer.flush()

    def close(self) -> None:
        """Close the file."""
        if self.writer is not None:
            with explained(self.folder):
                self.writer.close()


class WeightsAndBiases:
    """The row and the slopes, to Weights & Biases; ``WANDB_MODE=offline`` keeps them in ``wandb/``."""

    def __init__(self, run: Run, config: Config) -> None:
        needs("wandb")
        import wandb

        self.wandb, self.run, self.config = wandb, run, config
        self.session: Any = None

    def resume(self, progress: Progress) -> None:
        """Go on with the same W&B run, or begin one; it refuses steps that it has already."""
        path = self.run.file("wandb")
        if not path.is_file():
            write_json(path, {"id": secrets.token_hex(4)})
        known = read_json(path)
        if not isinstance(known, dict) or not isinstance(known.get("id"), str):
            raise RunError(f"{path} does not hold the id of a run; delete it to begin a new one there")
        self.session = self.wandb.init(
            project=self.config.log.wandb,
            id=known["id"],
            resume="allow",
            dir=str(self.run.path),
            name=self.run.path.name,
            config=self.config.to_dict(),
            settings=self.wandb.Settings(console="off", silent=True),
        )

    def epoch(self, progress: Progress, slopes: dict[str, Tensor]) -> None:
        """Log the row and histograms."""
        row = progress.rows[-1]
        histograms = {
            f"slopes/{name}": self.wandb.Histogram(slope.tolist()) for name, slope in slopes.items()
        }
        self.session.log({**row, **histograms}, step=int(row["epoch"]))

    def close(self) -> None:
        """Send what is left."""
        if self.session is not None:
            self.session.finish()
