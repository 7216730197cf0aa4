"""What a comparison says: tidy rows, and how much each method saves at a given loss of accuracy."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.run_directory import replacing

LOSSES = (0.0, 0.5, 1.0)  # points of accuracy
STAGES = ("before", "after")  # fine-tuning
COLUMNS = (
    "method", "label", "seed", "keep", "level", "macs_saved", "parameters_saved", "validation", "test",
    "finetune_epochs", "finetuned_validation", "finetuned_test",
)  # fmt: skip


@dataclass(frozen=True)
class Saved:
    """How much a method saves at a given loss, over the seeds.

    Attributes:
        macs: Share of the multiply-accumulates saved, mean over the seeds; 0 where no pruned network is good enough.
        spread: Largest minus smallest over the seeds.
        parameters: Share of the parameters, mean.
        test_loss: Points that the chosen networks lose on the test images, mean; None if the test images have not been
            read or nothing was good enough.
        seeds: How many there are.
    """

    macs: float
    spread: float
    parameters: float
    test_loss: float | None
    seeds: int


def saved_at(
    rows: Sequence[dict[str, Any]],
    reference: dict[int, dict[str, float]],
    method: str,
    loss: float,
    stage: str,
) -> Saved:
    """The largest saving among a method's networks whose *validation* accuracy is at most ``loss`` points lower.

    Args:
        rows: Of the comparison.
        reference: Seed to ``{"validation": percent, "test": percent}`` of the plain network, and the same after as many
            epochs as the others had in all, ``finetuned_validation`` and ``finetuned_test``.
        method: Its name.
        loss: Points of accuracy.
        stage: ``before`` fine-tuning, or ``after`` it: of the networks that were fine-tuned. A fine-tuning that lowers
            the validation accuracy is dropped, as anybody would.
    """
    best = []
    for seed, plain in reference.items():
        plain = _accuracies(plain, stage) or plain  # trained for as long as the others
        own = [row for row in rows if row["method"] == method and row["seed"] == seed]
        known = [(row, found) for row in own if (found := _accuracies(row, stage)) is not None]
        good = [(row, found) for row, found in known if found["validation"] >= plain["validation"] - loss]
        row, found = max(good, key=lambda pair: float(pair[0]["macs_saved"]), default=({}, {}))
        tested = "test" in found and "test" in plain
        best.append(
            (
                row.get("macs_saved", 0.0),
                row.get("parameters_saved", 0.0),
                plain["test"] - found["test"] if tested else None,
            )
        )
    macs = [entry[0] for entry in best]
    losses = [entry[2] for entry in best if entry[2] is not None]
    return Saved(
        macs=statistics.mean(macs),
        spread=max(macs) - min(macs),
        parameters=statistics.mean(entry[1] for entry in best),
        test_loss=statistics.mean(losses) if losses else None,
        seeds=len(macs),
    )


def _accuracies(row: Mapping[str, Any], stage: str) -> dict[str, float] | None:
    """Of one pruned network, by split; None if it does not belong to the stage."""
    splits = ("validation", "test")
    before = {split: row[split] for split in splits if split in row}
    if stage == "before":
        return before
    after = {split: row[f"finetuned_{split}"] for split in splits if f"finetuned_{split}" in row}
    return max(before, after, key=lambda found: found["validation"]) if after else None


def table(rows: Sequence[dict[str, Any]], reference: dict[int, dict[str, float]]) -> list[dict[str, Any]]:
    """One entry per method, stage and loss, as plain data."""
    labels = {row["method"]: row["label"] for row in rows}
    return [
        {
            "method": method,
            "label": label,
            "stage": stage,
            "loss": loss,
            **vars(saved_at(rows, reference, method, loss, stage)),
        }
        for method, label in labels.items()
        for stage in STAGES
        for loss in LOSSES
    ]


def write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """One line per pruned network; cells that are not known yet stay empty. Latencies have columns of their own.

    Raises:
        RunError: If the file cannot be written.
    """
    with replacing(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        timed = [_timings(row) for row in rows]
        columns = [*COLUMNS, *dict.fromkeys(name for found in timed for name in found)]
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, **found} for row, found in zip(rows, timed, strict=True))


def _timings(row: Mapping[str, Any]) -> dict[str, float]:
    """The latencies of a network, a column for each engine and batch size."""
    return {
        f"{timed['engine']}_batch{timed['batch_size']}_{what}": timed[what]
        for timed in row.get("latency", [])
        for what in ("ms", "plain_ms", "speedup")
    }
