"""What a comparison says after equal training, over several seeds: means, deviations, and savings in between.

Plain data in, plain data out. A *target* is the share of the multiply-accumulates that was to be saved, by a level or
by the budget of a training; a budget of milliseconds aims at a speed-up instead. Here nothing is picked by accuracy:
every network that trained on counts.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..report.timed_rows import speedup_in, timed_in
from .methods import OURS, counts_time

Rows = Sequence[Mapping[str, Any]]
Reference = Mapping[int, Mapping[str, float]]
Gain = Callable[[Mapping[str, Any]], float | None]
SPLITS = ("validation", "test")
LOSS = 0.5  # points of accuracy at which savings are read off


@dataclass(frozen=True)
class Spread:
    """A figure over seeds.

    Attributes:
        mean: Over the seeds.
        deviation: Standard deviation of a sample; None with one seed.
        count: How many seeds.
    """

    mean: float
    deviation: float | None
    count: int


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), deviation, len(values))


def pooled_standard_error(one: Spread, other: Spread) -> float | None:
    """Of the difference of two means, both samples with the same variance; None if that cannot be told."""
    freedom = one.count + other.count - 2
    if freedom < 1:
        return None
    parts = [(sample.count - 1) * (sample.deviation or 0.0) ** 2 for sample in (one, other)]
    return math.sqrt(sum(parts) / freedom * (1 / one.count + 1 / other.count))


def accuracy_after(row: Mapping[str, Any], split: str) -> float | None:
    """Of a network that trained on, in percent; None if it did not, or those images have not been read."""
    found: float | None = row.get(f"finetuned_{split}")
    return found


def reference_accuracy(plain: Mapping[str, float], split: str) -> float | None:
    """Of the plain network after as many epochs as the others had; as it was brought where nothing was trained on."""
    return plain.get(f"finetuned_{split}", plain.get(split))


def target_of(row: Mapping[str, Any]) -> float:
    """What share was to be saved; 0 where a training without a budget decided, or one of milliseconds."""
    aimed = 0.0 if counts_time(row["method"]) else 1 - float(row["keep"])
    return round(max(aimed, float(row["level"])), 4)


def speedup_of(row: Mapping[str, Any]) -> float:
    """How many times as fast the network was to be; 0 where that is not what was asked for."""
    return round(1 / float(row["keep"]), 4) if counts_time(row["method"]) else 0.0


def equal_training(rows: Rows, reference: Reference, split: str) -> list[dict[str, Any]]:
    """One entry per target and method, the targets ascending, those of speed last.

    Args:
        rows: Of the comparison.
        reference: Seed to the accuracies of the plain network.
        split: ``validation`` or ``test``.

    Returns:
        Each with ``target``, a share, or ``speedup``, as many times as fast; ``method``, ``label``, ``ours``, the
        spreads ``saved``, ``parameters``, ``accuracy`` and ``loss`` (points below the plain network of the same seed),
        ``speedups`` per engine and batch size, and
        for ours ``difference`` to the best rival in points with its ``standard_error``, if one has the same target.
    """
    found = []
    for speedup, target in sorted({(speedup_of(row), target_of(row)) for row in rows} - {(0.0, 0.0)}):
        asked = [row for row in rows if (speedup_of(row), target_of(row)) == (speedup, target)]
        entries = [
            entry
            for method in dict.fromkeys(row["method"] for row in rows)
            if (entry := _entry(_of(asked, method, split), reference, split)) is not None
        ]
        rivals = [entry for entry in entries if not entry["ours"]]
        best = max(rivals, key=lambda entry: entry["accuracy"].mean, default=None)
        for entry in entries:
            entry |= {"speedup": speedup} if speedup else {"target": target}
            if entry["ours"] and best is not None:
                entry["best_rival"] = best["label"]
                entry["difference"] = entry["accuracy"].mean - best["accuracy"].mean
                entry["standard_error"] = pooled_standard_error(entry["accuracy"], best["accuracy"])
        found += [{key: _plain(value) for key, value in entry.items()} for entry in entries]
    return found


def _plain(value: Any) -> Any:
    return vars(value) if isinstance(value, Spread) else value


def _of(rows: Rows, method: str, split: str) -> list[Mapping[str, Any]]:
    """Of one target the network of each seed; of several the one whose training came closest to it by itself."""
    chosen: dict[int, Mapping[str, Any]] = {}
    for row in sorted(rows, key=lambda row: float(row["level"]), reverse=True):
        if row["method"] == method and accuracy_after(row, split) is not None:
            chosen[row["seed"]] = row
    return list(chosen.values())


def _entry(rows: Rows, reference: Reference, split: str) -> dict[str, Any] | None:
    if not rows:
        return None
    losses = [
        plain - accuracy
        for row in rows
        if (plain := reference_accuracy(reference[row["seed"]], split)) is not None
        and (accuracy := accuracy_after(row, split)) is not None
    ]
    return {
        "method": rows[0]["method"],
        "label": rows[0]["label"],
        "ours": rows[0]["method"] in OURS,
        "saved": spread([row["macs_saved"] for row in rows]),
        "parameters": spread([row["parameters_saved"] for row in rows]),
        "accuracy": spread([row[f"finetuned_{split}"] for row in rows]),
        "loss": spread(losses) if losses else None,
        "speedups": _speedups(rows),
    }


def _speedups(rows: Rows) -> list[dict[str, Any]]:
    """Over the seeds, for each engine and batch size that was measured."""
    found: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        for timed in row.get("latency", []):
            found.setdefault((timed["engine"], timed["batch_size"]), []).append(timed["speedup"])
    return [
        {"engine": engine, "batch_size": size, **vars(spread(values))}
        for (engine, size), values in found.items()
    ]


def macs_saved(row: Mapping[str, Any]) -> float | None:
    """Share of the multiply-accumulates."""
    return float(row["macs_saved"])


def frontier(
    rows: Rows, plain: float, split: str, gain: Gain = macs_saved, nothing: float = 0.0
) -> list[tuple[float, float]]:
    """Gains and losses of one method and seed, both ascending, from no gain at no loss.

    A network that gains more and loses less than another takes its place.

    Args:
        rows: Of the method and seed.
        plain: Accuracy of the plain network, in percent.
        split: ``validation`` or ``test``.
        gain: Reads what a network gains.
        nothing: What the plain network gains.
    """
    points = sorted(
        (gained, plain - accuracy)
        for row in rows
        if (accuracy := accuracy_after(row, split)) is not None and (gained := gain(row) or nothing) > nothing
    )
    least, found = math.inf, []
    for saved, loss in reversed(points):
        least = min(least, loss)
        found.append((saved, least))
    return [(nothing, min(0.0, least)), *reversed(found)]


def gain_at_loss(points: Sequence[tuple[float, float]], loss: float) -> tuple[float, bool]:
    """The gain at a loss, linear between the points of a frontier, and whether the frontier ends before that loss."""
    for (gained, lost), (more, worse) in itertools.pairwise(points):
        if worse > loss:
            return gained + (more - gained) * (loss - lost) / (worse - lost), False
    return points[-1][0], len(points) > 1


def faster_at_loss(rows: Rows, reference: Reference, split: str) -> list[dict[str, Any]]:
    """How many times as fast as the plain network each method is at a loss, in each engine, at each batch size.

    Returns:
        As :func:`interpolated`, with ``engine`` and ``batch_size``, and the spread ``speedup`` in place of ``saved``.
    """
    found = []
    for engine, size in timed_in(rows):
        for entry in interpolated(rows, reference, split, gain=speedup_in(engine, size), nothing=1.0):
            speedup = entry.pop("saved")
            found.append({"engine": engine, "batch_size": size, **entry, "speedup": speedup})
    return found


def interpolated(
    rows: Rows,
    reference: Reference,
    split: str,
    loss: float = LOSS,
    gain: Gain = macs_saved,
    nothing: float = 0.0,
) -> list[dict[str, Any]]:
    """What each method saves at a loss after equal training: the mean over the seeds and its deviation.

    Args:
        rows: Of the comparison.
        reference: Seed to the accuracies of the plain network.
        split: ``validation`` or ``test``.
        loss: Points of accuracy.
        gain: Reads what is saved.
        nothing: What the plain network saves.

    Returns:
        For each method ``method``, ``label``, ``ours``, ``loss``, the spread ``saved``, and ``at_least``: whether a
        frontier ended before it lost so much.
    """
    found = []
    for method in dict.fromkeys(row["method"] for row in rows):
        read = []
        for seed, accuracies in reference.items():
            plain = reference_accuracy(accuracies, split)
            own = [row for row in rows if row["method"] == method and row["seed"] == seed]
            own = [row for row in own if accuracy_after(row, split) is not None and gain(row) is not None]
            if plain is not None and own:
                read.append(gain_at_loss(frontier(own, plain, split, gain, nothing), loss))
        if read:
            label = next(row["label"] for row in rows if row["method"] == method)
            saved, ended = zip(*read, strict=True)
            entry = {"method": method, "label": label, "ours": method in OURS, "loss": loss}
            found.append({**entry, "saved": vars(spread(saved)), "at_least": any(ended)})
    return found
