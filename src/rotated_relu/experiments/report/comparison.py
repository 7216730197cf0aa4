"""The page of a comparison: what each method saves at a given loss, and every pruned network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .build import write_page
from .figures.spec import Figure, Spec, axis, line
from .spread_figures import frontiers, looks
from .spread_tables import leading_split, title_of, with_deviation
from .spread_tables import tables as spread_tables
from .words import NARROW_SPACE, points, share

STAGES = {"before": "before fine-tuning", "after": "after fine-tuning"}
COLUMNS = {"before": "validation", "after": "finetuned_validation"}


def build_comparison(data: Mapping[str, Any], path: Path) -> Path:
    """Write the page of a comparison.

    Args:
        data: What ``compare.json`` holds: ``title``, ``rows``, ``table``, ``reference``, ``trained`` and ``made``;
            and ``equal_training``, ``interpolated`` and ``failures``, where networks trained on.
        path: The ``.html`` file.

    Returns:
        The path.

    Raises:
        RunError: If the file cannot be written.
    """
    equal = frontiers(data, leading_split(data))
    figures = {
        figure.key: figure for figure in [*equal, *(_frontier(data, stage) for stage in _stages(data))]
    }
    return write_page(
        "comparison.html.j2",
        path,
        figures,
        title=data["title"],
        verdict=verdict(data),
        lead=_unfinished(data) + _lead(data),
        tables=[*spread_tables(data), *(_savings(data, stage) for stage in _stages(data)), _trained(data)],
        made=data["made"],
    )


def verdict(data: Mapping[str, Any]) -> str:
    """The result in one sentence: the most saved at half a point, after equal training where there has been some."""
    split = leading_split(data)
    read = data.get("interpolated", {}).get(split, [])
    if read:
        best = max(read, key=lambda entry: float(entry["saved"]["mean"]))
        saved = with_deviation(best["saved"], 100, 1)
        return (
            f"{best['label']} saves {'at least ' if best['at_least'] else ''}{saved} % of the computation at a loss of "
            f"{best['loss']:g} points on {split} images, after equal training"
        )
    first = max(_entries(data, "before", 0.5), key=lambda entry: float(entry["macs"]), default=None)
    if first is None or first["macs"] == 0:
        return "No method saves anything at a loss of half a point, before fine-tuning"
    return (
        f"{first['label']} saves {share(first['macs'])} of the computation at a loss of at most half a point, "
        "before fine-tuning"
    )


def _unfinished(data: Mapping[str, Any]) -> str:
    if data.get("finished", True):
        return ""
    return "Unfinished: the same command goes on, and what is missing comes then. "


def _lead(data: Mapping[str, Any]) -> str:
    accuracies = [plain["validation"] for plain in data["reference"].values()]
    seeds = f"{len(accuracies)} seed{'s' if len(accuracies) > 1 else ''}"
    start = "begin with the same trained network" if data.get("brought") else "train the same network"
    seen = " The trained network may have seen those images." if data.get("brought") else ""
    return (
        f"All methods {start} on the same images for as long ({seeds}); each is pruned to many sizes. "
        f"The ReLU network: {sum(accuracies) / len(accuracies):.2f}{NARROW_SPACE}% on validation.{seen}"
    )


def _stages(data: Mapping[str, Any]) -> list[str]:
    """Stages with networks; none where the validation images may have been trained on: they say nothing then."""
    return [] if data.get("brought") else [stage for stage in STAGES if _has(data, stage)]


def _has(data: Mapping[str, Any], stage: str) -> bool:
    return any(COLUMNS[stage] in row for row in data["rows"])


def _entries(data: Mapping[str, Any], stage: str, loss: float) -> list[dict[str, Any]]:
    return [entry for entry in data["table"] if entry["stage"] == stage and entry["loss"] == loss]


def _savings(data: Mapping[str, Any], stage: str) -> dict[str, Any]:
    losses = sorted({entry["loss"] for entry in data["table"]})
    rows = []
    for entry in _entries(data, stage, losses[0]):
        row = [entry["label"]]
        for loss in losses:
            found = next(e for e in _entries(data, stage, loss) if e["method"] == entry["method"])
            row += [_with_spread(found), _test(found)]
        rows.append(row)
    heads = ["method"]
    for loss in losses:
        heads += [f"MACs saved at {loss:g} points", "test"]
    return {
        "id": f"saved-{stage}",
        "title": f"MACs saved, {STAGES[stage]}",
        "heads": heads,
        "rows": rows,
        "caption": (
            "The pruned network that saves most among those whose validation accuracy is within the loss; test: how "
            "far the test accuracy of that same network is from the ReLU network's, in points. What is saved is gone."
            + (" A fine-tuning that lowered the validation accuracy is dropped." if stage == "after" else "")
        ),
    }


def _with_spread(entry: Mapping[str, Any]) -> str:
    if entry["macs"] == 0:
        return "0"
    spread = f" (±{100 * entry['spread'] / 2:.1f})" if entry["seeds"] > 1 else ""
    return share(entry["macs"]) + spread


def _test(entry: Mapping[str, Any]) -> str:
    return "" if entry["test_loss"] is None else points(-entry["test_loss"])


def _trained(data: Mapping[str, Any]) -> dict[str, Any]:
    rows = [
        [
            title_of(data, name),
            *(
                f"{found[split]:.2f}{NARROW_SPACE}%" if split in found else ""
                for split in ("validation", "test")
            ),
        ]
        for name, found in data["trained"].items()
    ]
    return {
        "id": "trained",
        "title": "The networks as trained",
        "heads": ["training", "validation", "test"],
        "rows": rows,
        "caption": "With everything that the training itself set to zero already gone.",
    }


def _frontier(data: Mapping[str, Any], stage: str) -> Figure:
    """Accuracy against the saved multiply-accumulates, one line per method and seed."""
    column = COLUMNS[stage]
    methods = list(dict.fromkeys(row["method"] for row in data["rows"]))
    traces: list[Spec] = []
    for method, (fill, symbol) in looks(methods).items():
        for run in _runs(data["rows"], method, column):
            traces.append(
                _trace(run, column, fill, symbol, first=not any(t["name"] == run[0]["label"] for t in traces))
            )
    plain = [row["validation"] for row in data["reference"].values()]
    height = sum(plain) / len(plain)
    traces.append(line([0, 100], [height, height], "ReLU", "var(--relu)", "%{y:.2f}") | {"mode": "lines"})
    layout = {"xaxis": axis("MACs saved, %"), "yaxis": axis("validation accuracy, %")}
    lowest = max(min(row[column] for row in data["rows"] if column in row), height - 8)
    layout["yaxis"] |= {"range": [lowest - 0.3, height + 0.8]}
    layout["xaxis"] |= {"range": [0, 85]}
    caption = (
        f"Every pruned network, {STAGES[stage]}. The grey line is the ReLU network; what is more than 8 points below "
        "it lies outside the frame."
    )
    alt = f"Accuracy against saved multiply-accumulates for {len(methods)} methods, {STAGES[stage]}."
    return Figure(
        f"frontier-{stage}",
        f"Accuracy {STAGES[stage]}",
        caption,
        alt,
        480,
        {"data": traces, "layout": layout},
    )


def _runs(rows: Sequence[dict[str, Any]], method: str, column: str) -> list[list[dict[str, Any]]]:
    """The points of a method, one list per seed and budget, by what they save."""
    runs: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        if row["method"] == method and column in row:
            runs.setdefault((row["seed"], row["keep"]), []).append(row)
    return [sorted(run, key=lambda row: float(row["macs_saved"])) for run in runs.values()]


def _trace(run: list[dict[str, Any]], column: str, fill: str, symbol: str, first: bool) -> Spec:
    label = run[0]["label"]
    hover = [f"{label}, {share(row['macs_saved'])} of the MACs saved" for row in run]
    trace = line(
        [100 * row["macs_saved"] for row in run], [row[column] for row in run], label, fill, "", markers=True
    )
    trace["marker"] |= {"symbol": symbol, "size": 8}
    return trace | {
        "legendgroup": label,
        "showlegend": first,
        "hovertext": hover,
        "hovertemplate": f"%{{hovertext}}<br>%{{y:.2f}}{NARROW_SPACE}%<extra></extra>",
    }
