"""The page of one network at several budgets: accuracy against operations and against time, and a table of all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .build import write_page
from .figures.spec import Figure, axis, line
from .steadiness import busy
from .tables import made_of
from .words import NARROW_SPACE, count, factor, milliseconds, percent, points, share


def build_frontier(data: Mapping[str, Any], path: Path) -> Path:
    """Write the page.

    Args:
        data: What ``summary.json`` of a frontier holds, with ``title`` and ``made``.
        path: The ``.html`` file, beside the directories of the runs.

    Returns:
        The path.

    Raises:
        RunError: If the file cannot be written.
    """
    figures = [_against_macs(data)] + [_against_time(data, size) for size in _sizes(data)]
    return write_page(
        "comparison.html.j2",
        path,
        {figure.key: figure for figure in figures},
        title=data["title"],
        verdict=verdict(data),
        lead=_lead(data),
        tables=[_table(data)],
        made=made_of(data["made"]),
    )


def verdict(data: Mapping[str, Any]) -> str:
    """The result in one sentence; nothing is chosen in it by test accuracy."""
    rows = data["runs"]
    ends = [rows[0], rows[-1]] if len(rows) > 1 else rows[:1]
    found = " and ".join(
        f"{percent(row['shrunk_test_accuracy'])} ({points(_change(data, row))} points) at {_gained(row)}"
        for row in ends
    )
    return (
        f"Test accuracy is {found} {'of the computation' if rows[0].get('speedup') is None else 'the speed'}"
    )


def _gained(row: Mapping[str, Any]) -> str:
    """What was reached of what was asked for: a share of the multiply-accumulates, or a measured speed-up."""
    return share(row["macs_kept"]) if row.get("speedup") is None else factor(row["latency_speedup"])


def _lead(data: Mapping[str, Any]) -> str:
    return (
        f"The network that was brought has {percent(data['original_test_accuracy'], 2)} test accuracy with "
        f"{count(data['original_macs'])}{NARROW_SPACE}MACs and {count(data['original_parameters'])} parameters. Each "
        "budget is a run of its own from there; all networks were measured side by side."
    )


def _change(data: Mapping[str, Any], row: Mapping[str, Any]) -> float:
    return float(row["shrunk_test_accuracy"] - data["original_test_accuracy"])


def _sizes(data: Mapping[str, Any]) -> list[str]:
    return list(data["original_latency_ms_by_batch_size"])


def _table(data: Mapping[str, Any]) -> dict[str, Any]:
    sizes = _sizes(data)
    heads = ["budget", "test accuracy", "change", "validation", "MACs kept", "parameters kept"]
    heads += [head for size in sizes for head in (f"batch {size}", "speed-up")]
    original = [
        "original",
        percent(data["original_test_accuracy"], 2),
        "",
        percent(data["original_validation_accuracy"], 2),
        share(1.0),
        share(1.0),
    ]
    for size in sizes:
        original += [milliseconds(data["original_latency_ms_by_batch_size"][size]), ""]
    rows = [original] + [_row(data, row, sizes) for row in data["runs"]]
    return {
        "id": "runs",
        "title": "All networks",
        "heads": heads,
        "rows": rows,
        "links": ["", *(f"{row['run']}/report.html" for row in data["runs"])],
        "caption": " ".join(
            filter(
                None,
                (
                    f"Times are medians in {data['engine']}. Each budget leads to the page of its run.",
                    busy(data.get("unsteadiness", 1.0)),
                ),
            )
        ),
    }


def _row(data: Mapping[str, Any], row: Mapping[str, Any], sizes: list[str]) -> list[str]:
    cells = [
        _budget(row),
        percent(row["shrunk_test_accuracy"], 2),
        points(_change(data, row)),
        percent(row["shrunk_validation_accuracy"], 2),
        percent(100 * row["macs_kept"]),
        percent(100 * row["parameters_kept"]),
    ]
    for size in sizes:
        cells += [
            milliseconds(row["latency_ms_by_batch_size"][size]),
            factor(row["latency_speedup_by_batch_size"][size]),
        ]
    return cells


def _budget(row: Mapping[str, Any]) -> str:
    """What was asked for."""
    if row.get("speedup") is not None:
        return f"{row['speedup']:g} times as fast"
    return f"{100 * row['keep']:g}{NARROW_SPACE}% of the MACs"


def _against_macs(data: Mapping[str, Any]) -> Figure:
    x = [100.0, *(100 * row["macs_kept"] for row in data["runs"])]
    return _curve(
        data,
        x,
        "macs",
        "Accuracy against operations",
        "MACs kept, %",
        f"%{{x:.1f}}{NARROW_SPACE}% of the MACs",
    )


def _against_time(data: Mapping[str, Any], size: str) -> Figure:
    x = [data["original_latency_ms_by_batch_size"][size]]
    x += [row["latency_ms_by_batch_size"][size] for row in data["runs"]]
    title = f"Accuracy against measured time, batch {size}"
    return _curve(data, x, f"time-{size}", title, f"ms at batch {size}", f"%{{x:.3g}}{NARROW_SPACE}ms")


def _curve(data: Mapping[str, Any], x: list[float], key: str, title: str, label: str, hover: str) -> Figure:
    """Test and validation accuracy over what a network costs, the original among them."""
    traces = []
    for split, fill in (("test", "var(--compact)"), ("validation", "var(--relu)")):
        y = [data[f"original_{split}_accuracy"]] + [row[f"shrunk_{split}_accuracy"] for row in data["runs"]]
        places = sorted(range(len(x)), key=lambda index: x[index])
        words = f"%{{y:.2f}}{NARROW_SPACE}% at {hover}"
        traces.append(line([x[i] for i in places], [y[i] for i in places], split, fill, words, markers=True))
    layout = {"xaxis": axis(label) | {"rangemode": "tozero"}, "yaxis": axis("accuracy, %")}
    ends = f"from {percent(traces[0]['y'][0])} to {percent(traces[0]['y'][-1])}"
    return Figure(
        key,
        title,
        "The rightmost point is the original."
        if key == "macs"
        else f"Measured in {data['engine']}, in turn.",
        f"{title}: test accuracy {ends} as the network grows.",
        420,
        {"data": traces, "layout": layout},
    )
