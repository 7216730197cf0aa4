"""Frontiers of a comparison over several seeds: means with their standard deviations as bars."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .figures.spec import Figure, Spec, axis, line
from .timed_rows import Row, speedup_in, timed_in
from .words import NARROW_SPACE

# Distinct with and without colour vision, on white and on black.
LOOKS = (
    ("var(--rotated)", "circle"), ("#e69f00", "circle-open"), ("#cc79a7", "square"), ("var(--compact)", "diamond"),
    ("var(--finetuned)", "triangle-up"), ("#8f6fd1", "cross"), ("#56b4e9", "x"), ("var(--relu)", "star"),
    ("var(--ink)", "hexagon-open"),
)  # fmt: skip


def looks(methods: Sequence[str]) -> dict[str, tuple[str, str]]:
    """A colour and a symbol for each method; the symbols go on where the colours are used up."""
    symbols = [symbol for _, symbol in LOOKS]
    return {
        method: (LOOKS[number % len(LOOKS)][0], symbols[(number + number // len(LOOKS)) % len(LOOKS)])
        for number, method in enumerate(methods)
    }


def frontiers(data: Mapping[str, Any], split: str) -> list[Figure]:
    """Accuracy after equal training against the multiply-accumulates saved, and against each measured speedup.

    Args:
        data: What ``compare.json`` holds.
        split: ``validation`` or ``test``.
    """
    column = f"finetuned_{split}"
    rows = [row for row in data["rows"] if column in row]
    if not rows:
        return []
    found = [_figure(data, rows, split, "macs", "MACs saved, %", lambda row: 100 * float(row["macs_saved"]))]
    for engine, size in timed_in(rows):
        title = f"times as fast as the ReLU network, {engine}, batch {size}"
        found.append(_figure(data, rows, split, f"{engine}-{size}", title, speedup_in(engine, size)))
    return found


def _figure(
    data: Mapping[str, Any],
    rows: Sequence[Row],
    split: str,
    key: str,
    title: str,
    place: Callable[[Row], float | None],
) -> Figure:
    methods = list(dict.fromkeys(row["method"] for row in rows))
    traces = [
        _trace([row for row in rows if row["method"] == method], split, fill, symbol, place)
        for method, (fill, symbol) in looks(methods).items()
    ]
    traces = [trace for trace in traces if trace["x"]]
    plain = [found.get(f"finetuned_{split}", found.get(split)) for found in data["reference"].values()]
    layout: Spec = {"xaxis": axis(title), "yaxis": axis(f"{split} accuracy, %")}
    heights = [value for trace in traces for value in trace["y"]]
    if None not in plain:
        height = statistics.fmean(plain)
        across = [value for trace in traces for value in trace["x"]]
        ends = [min(0.0 if key == "macs" else 1.0, *across), max(across)]
        traces.append(line(ends, [height, height], "ReLU", "var(--relu)", "%{y:.2f}") | {"mode": "lines"})
        heights.append(height)
    top = max(heights)
    layout["yaxis"] |= {"range": [max(min(heights), top - 8) - 0.5, top + 0.5]}
    seeds = len({row["seed"] for row in rows})
    return Figure(
        f"equal-{split}-{key}",
        f"Accuracy after equal training: {title}",
        f"Means over {seeds} seed{'s' if seeds > 1 else ''}"
        + ("; bars: standard deviation. " if seeds > 1 else ". ")
        + "Every network that trained on, nothing picked; the grey line is the ReLU network after as many epochs.",
        f"{split} accuracy of {len(methods)} methods after equal training, against: {title}.",
        460,
        {"data": traces, "layout": layout},
    )


def _trace(
    rows: Sequence[Row], split: str, fill: str, symbol: str, place: Callable[[Row], float | None]
) -> Spec:
    """One method: a mark per target of training and pruning, at the mean over the seeds."""
    groups: dict[tuple[float, float], list[tuple[float, float]]] = {}
    for row in rows:
        where = place(row)
        if where is not None:
            groups.setdefault((row["keep"], row["level"]), []).append((where, row[f"finetuned_{split}"]))
    marks = sorted(_mark(group) for group in groups.values())
    label = rows[0]["label"]
    trace = line([m[0] for m in marks], [m[1] for m in marks], label, fill, "", markers=True)
    trace["marker"] |= {"symbol": symbol, "size": 8}
    for bars, index in (("error_x", 2), ("error_y", 3)):
        if any(mark[index] for mark in marks):
            trace[bars] = {
                "type": "data",
                "array": [m[index] for m in marks],
                "color": fill,
                "thickness": 1.2,
            }
    return trace | {"hovertemplate": f"{label}<br>%{{x:.2f}}, %{{y:.2f}}{NARROW_SPACE}%<extra></extra>"}


def _mark(group: Sequence[tuple[float, float]]) -> tuple[float, float, float, float]:
    """Means of place and accuracy, and their standard deviations; 0 with one seed."""
    places, heights = zip(*group, strict=True)
    several = len(group) > 1
    return (
        statistics.fmean(places),
        statistics.fmean(heights),
        statistics.stdev(places) if several else 0.0,
        statistics.stdev(heights) if several else 0.0,
    )
