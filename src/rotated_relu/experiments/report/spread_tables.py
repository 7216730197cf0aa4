"""Tables of a comparison after equal training: means over seeds with their standard deviations, as words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .words import MINUS, NARROW_SPACE

Data = Mapping[str, Any]


def leading_split(data: Data) -> str:
    """Test images where they have been read, else validation images."""
    return "test" if data.get("equal_training", {}).get("test") else "validation"


def with_deviation(found: Data | None, scale: float = 1.0, digits: int = 2, sign: bool = False) -> str:
    """A mean, and after ± its standard deviation where there are several seeds."""
    if found is None:
        return ""
    mean = round(scale * found["mean"], digits) + 0.0  # no -0.00
    text = f"{mean:{'+' if sign else ''}.{digits}f}".replace("-", MINUS)
    if found["deviation"] is None:
        return text
    return f"{text} ± {scale * found['deviation']:.{digits}f}"


def title_of(data: Data, training: str) -> str:
    """What a training is called, by the name of its directory."""
    return str(data.get("titles", {}).get(training, training))


def equal_training_table(data: Data, split: str) -> dict[str, Any]:
    """What each method keeps of its accuracy at each target, after as many epochs as every other."""
    rows = [
        [
            _name(entry),
            str(entry["accuracy"]["count"]),
            with_deviation(entry["saved"], 100, 1),
            with_deviation(entry["accuracy"]),
            with_deviation(None if entry["loss"] is None else _negative(entry["loss"]), sign=True),
            against_best(entry),
        ]
        for entry in data["equal_training"][split]
    ]
    return {
        "id": f"equal-{split}",
        "title": f"After equal training, {split} images",
        "heads": [
            "asked for", "seeds", "MACs saved, %", "accuracy, %", "against ReLU, points", "against the best rival",
        ],
        "rows": rows,
        "caption": (
            "Mean ± standard deviation over the seeds. Every method has had the same epochs in all; the ReLU network "
            + ("is as it was brought" if data.get("brought") else "too")
            + ". Nothing is picked by accuracy. Against the best rival: the difference of the means and its "
            "pooled standard error."
        ),
    }  # fmt: skip


def speed_table(data: Data, split: str) -> dict[str, Any]:
    """How much faster than the plain network each is, in every engine and at every batch size."""
    entries = data["equal_training"][split]
    places = list(
        dict.fromkeys((t["engine"], t["batch_size"]) for e in entries for t in e.get("speedups", []))
    )
    rows = []
    for entry in entries:
        known = {(t["engine"], t["batch_size"]): t for t in entry.get("speedups", [])}
        cells = [with_deviation(known.get(place)) for place in places]
        if any(cells):
            rows.append([_name(entry), *cells])
    return {
        "id": "speed",
        "title": "Times as fast as the ReLU network",
        "heads": ["asked for", *(f"{engine}, batch {size}" for engine, size in places)],
        "rows": rows,
        "caption": (
            "Mean ± standard deviation over the seeds. Measured in turn with the ReLU network, each in the layout of "
            "its graph that runs fastest there."
        ),
    }


def _name(entry: Data) -> str:
    if "speedup" in entry:
        return f"{entry['speedup']:g} times as fast: {entry['label']}"
    return f"{100 * entry['target']:.0f}{NARROW_SPACE}%: {entry['label']}"


def against_best(entry: Data) -> str:
    """Of ours, the difference to the best rival in points, with its standard error."""
    if "difference" not in entry:
        return ""
    text = f"{entry['difference']:+.2f}".replace("-", MINUS)
    error = entry["standard_error"]
    return f"{text} (standard error {error:.2f})" if error is not None else f"{text} (one seed)"


def interpolated_table(data: Data, split: str) -> dict[str, Any]:
    """What each method saves where its frontier has lost so much."""
    entries = data["interpolated"][split]
    loss = entries[0]["loss"] if entries else 0.5
    rows = [
        [
            entry["label"],
            str(entry["saved"]["count"]),
            _gain(entry, "saved", 100, 1),
        ]
        for entry in sorted(entries, key=lambda entry: -float(entry["saved"]["mean"]))
    ]
    return {
        "id": f"interpolated-{split}",
        "title": f"MACs saved at a loss of {loss:g} points, {split} images",
        "heads": ["method", "seeds", "MACs saved, %"],
        "rows": rows,
        "caption": (
            "Read off the line between the networks of each seed, from no saving at no loss; mean ± standard "
            "deviation. At least: a frontier ended before it had lost so much."
        ),
    }


def faster_table(data: Data, split: str) -> dict[str, Any]:
    """How much faster each method is where its frontier has lost so much, in every engine and at every batch size."""
    entries = data.get("faster", {}).get(split, [])
    places = list(dict.fromkeys((entry["engine"], entry["batch_size"]) for entry in entries))
    cells = {(e["label"], e["engine"], e["batch_size"]): _gain(e, "speedup") for e in entries}
    best = {e["label"]: float(e["speedup"]["mean"]) for e in reversed(entries)}
    rows = [
        [label, *(cells.get((label, *place), "") for place in places)]
        for label in sorted(best, key=lambda label: -best[label])
    ]
    loss = entries[0]["loss"] if entries else 0.5
    return {
        "id": f"faster-{split}",
        "title": f"Times as fast as the ReLU network at a loss of {loss:g} points, {split} images",
        "heads": ["method", *(f"{engine}, batch {size}" for engine, size in places)],
        "rows": rows,
        "caption": (
            "Measured speed-ups, read off the line between the networks of each seed, from 1 at no loss. At least: a "
            "frontier ended before it had lost so much."
        ),
    }


def _gain(entry: Data, what: str, scale: float = 1.0, digits: int = 2) -> str:
    return ("at least " if entry["at_least"] else "") + with_deviation(entry[what], scale, digits)


def failures_table(data: Data) -> dict[str, Any]:
    """What could not be done, and why."""
    rows = [
        [
            entry["method"],
            "all" if "levels" not in entry else ", ".join(f"{100 * level:g} %" for level in entry["levels"]),
            entry["reason"],
        ]
        for entry in data["failures"]
    ]
    return {
        "id": "failures",
        "title": "What failed",
        "heads": ["method", "levels", "reason"],
        "rows": rows,
        "caption": "Methods that were left out, and networks that another tool gave an error for.",
    }


def tables(data: Data) -> list[dict[str, Any]]:
    """All of them that have rows."""
    if "equal_training" not in data:
        return []
    split = leading_split(data)
    makers = (equal_training_table, interpolated_table, speed_table, faster_table)
    found = [*(make(data, split) for make in makers), failures_table(data)]
    return [table for table in found if table["rows"]]


def _negative(found: Data) -> dict[str, Any]:
    return {**found, "mean": -found["mean"]}
