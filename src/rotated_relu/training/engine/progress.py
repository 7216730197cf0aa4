"""Where a run is, and what it has counted so far: everything that a checkpoint holds besides tensors of the network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


class Totals:
    """Loss, correct answers and images seen; kept on the device, read once."""

    def __init__(self) -> None:
        self.sums = torch.zeros(3)  # loss times images, correct answers, images

    @torch.no_grad()
    def add(self, loss: Tensor, scores: Tensor, labels: Tensor) -> None:
        """Add one batch; ``loss`` is its mean."""
        size = labels.shape[0]
        correct = (scores.argmax(1) == labels).sum()
        # float64 where there is one: float32 stops counting single images at 16 million.
        wide = torch.float32 if loss.device.type == "mps" else torch.float64
        seen = torch.stack(
            [loss.detach().to(wide) * size, correct.to(wide), torch.full_like(correct, size, dtype=wide)]
        )
        self.sums = self.sums.to(seen) + seen

    @staticmethod
    def row(sums: Tensor, prefix: str) -> dict[str, float]:
        """Mean loss and accuracy in percent; empty if nothing was seen."""
        loss, correct, count = sums.tolist()
        return {f"{prefix}_loss": loss / count, f"{prefix}_accuracy": 100 * correct / count} if count else {}


@dataclass
class Progress:
    """Position and counts of a run.

    Attributes:
        epoch: Finished epochs.
        step: Finished steps of the present epoch.
        totals: Of the present epoch's training images.
        seconds: Spent in the present epoch, over all parts of the run.
        rows: One per finished epoch, as in ``metrics.csv``.
        timings: Seconds per finished epoch.
    """

    epoch: int = 0
    step: int = 0
    totals: Totals = field(default_factory=Totals)
    seconds: float = 0.0
    rows: list[dict[str, float]] = field(default_factory=list)
    timings: list[float] = field(default_factory=list)

    def finish_epoch(self, row: dict[str, float]) -> None:
        """Note the row of the present epoch and go on to the next one."""
        self.rows.append(row)
        self.timings.append(round(self.seconds, 2))
        self.epoch, self.step, self.totals, self.seconds = self.epoch + 1, 0, Totals(), 0.0

    def state(self, sums: Tensor) -> dict[str, Any]:
        """Plain data; ``sums`` are the totals of every process, one row each."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "sums": sums.tolist(),
            "seconds": self.seconds,
            "rows": [dict(row) for row in self.rows],
            "timings": list(self.timings),
        }

    def check(self, epochs: int, steps: int) -> None:
        """Refuse a place that no run of so many epochs, of so many steps each, can have come to.

        Raises:
            ValueError: Then; says what is wrong.
        """
        if not 0 <= self.epoch <= epochs or not 0 <= self.step <= steps:
            raise ValueError(
                f"it stands at epoch {self.epoch}, step {self.step} of {epochs} epochs of {steps} steps"
            )
        if not len(self.rows) == len(self.timings) == self.epoch:
            raise ValueError(
                f"it has finished {self.epoch} epochs, but holds the numbers of {len(self.rows)}"
            )

    @classmethod
    def from_state(cls, state: dict[str, Any], rank: int, size: int) -> Progress:
        """The reverse of :meth:`state`; if the number of processes has changed, the first takes over all totals."""
        found = cls(
            epoch=state["epoch"],
            step=state["step"],
            seconds=state["seconds"],
            rows=list(state["rows"]),
            timings=list(state["timings"]),
        )
        sums = torch.tensor(state["sums"], dtype=torch.float64)
        if len(sums) == size:
            found.totals.sums = sums[rank]
        elif rank == 0:
            found.totals.sums = sums.sum(0)
        return found
