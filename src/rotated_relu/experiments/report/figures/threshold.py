"""Validation score and filters alive over the threshold."""

from __future__ import annotations

from collections.abc import Sequence

from ....core.criteria import Criterion
from ..schema import ReportData, SweepPoint, ThresholdPart
from ..words import NARROW_SPACE, criterion_of, percent
from .spec import Figure, Spec, colour, line, rule, spec_of, stacked

FRAME_POINTS = 12.0  # how far below the baseline the figure shows


def threshold_figure(data: ReportData) -> Figure | None:
    """Validation score and filters alive over the threshold, and the chosen point."""
    found, criterion = data.get("threshold"), criterion_of(data)
    points = [point for point in (found or {}).get("sweep", []) if point["threshold"] > 0]
    sweep = sorted(points, key=lambda point: point["threshold"])
    if not found or not sweep or criterion is None:
        return None
    total = found.get("total") or max(point["alive"] for point in sweep)
    low, high = _frame(found, sweep)
    layout = _layout(criterion, sweep, low, high)
    layout["shapes"] = _rules(found)
    caption = _caption(found, criterion, total, hidden=sum(point["score"] < low for point in sweep))
    alt = (
        f"Validation accuracy over {len(sweep)} thresholds; the chosen one is {found.get('value', 0.0):.3g}."
    )
    traces = [*_lines(sweep, total), *_chosen(found, total, criterion)]
    return Figure("threshold", "Accuracy against threshold", caption, alt, 430, spec_of(traces, layout))


def _lines(sweep: Sequence[SweepPoint], total: int) -> list[Spec]:
    thresholds, scores = [point["threshold"] for point in sweep], [point["score"] for point in sweep]
    kept = [100 * point["alive"] / total for point in sweep]
    soft = "var(--ink-soft)"
    return [
        line(thresholds, scores, "validation accuracy", colour("rotated"), markers=True, hover="%{y:.2f} %"),
        line(thresholds, kept, "filters alive", soft, markers=True, hover="%{y:.1f} %", axis="y2"),
    ]


def _chosen(found: ThresholdPart, total: int, criterion: Criterion) -> list[Spec]:
    """The chosen point in both panels; none at 0, which a logarithmic axis has not."""
    value = found.get("value", 0.0)
    heights = []
    if "score" in found:
        heights.append((found["score"], "y"))
    if "alive" in found:
        heights.append((100 * found["alive"] / total, "y2"))
    return [_point(value, height, axis, _symbol(criterion)) for height, axis in heights] if value > 0 else []


def _rules(found: ThresholdPart) -> list[Spec]:
    """Thin lines at the baseline's score and at the chosen threshold."""
    baseline, value = found.get("baseline_score"), found.get("value", 0.0)
    across = [] if baseline is None else [rule("y", baseline, "var(--ink-soft)")]
    return [*across, *([rule("x", value, "var(--chosen)")] if value > 0 else [])]


def _frame(found: ThresholdPart, sweep: Sequence[SweepPoint]) -> tuple[float, float]:
    """Range of the scores that is shown, before the margin: the plateau, and some of the cliff."""
    scores = [point["score"] for point in sweep]
    baseline = found.get("baseline_score")
    top = max([*scores, *([] if baseline is None else [baseline])])
    return max(min(scores), (top if baseline is None else baseline) - FRAME_POINTS), top


def _layout(criterion: Criterion, sweep: Sequence[SweepPoint], low: float, high: float) -> Spec:
    layout = stacked("accuracy, %", "filters alive, %")
    first, last = sweep[0]["threshold"], sweep[-1]["threshold"]
    symbol = "threshold ζ" if criterion.by_slope else "threshold"
    layout["xaxis"] |= {
        "type": "log",
        "title": {"text": f"{symbol} on {criterion.score_label}"},
        "dtick": 1 if last > 50 * first else "D2",  # only powers of ten, or 2 and 5 between them
    }
    margin = max(0.5, 0.06 * (high - low))
    layout["yaxis"]["range"] = [low - margin, high + margin]
    layout["yaxis2"]["range"] = [-4, 104]
    return layout | {"showlegend": False}


def _caption(found: ThresholdPart, criterion: Criterion, total: int, hidden: int) -> str:
    value, baseline = found.get("value", 0.0), found.get("baseline_score")
    what = f"ζ = {value:.3g}" if criterion.by_slope and value > 0 else criterion.describe()
    caption = f"Chosen: {what}, which leaves {found.get('alive', '?')} of {total} filters."
    if found.get("alive") == total:
        caption = f"No threshold kept the score: all {total} filters stay."
    if baseline is not None:
        caption += f" Dashed: all slopes as trained, {percent(baseline, 2)}."
    if hidden:
        caption += f" {hidden} larger thresholds fall below the frame."
    return caption


def _symbol(criterion: Criterion) -> str:
    return "ζ" if criterion.by_slope else "threshold"


def _point(x: float, y: float, axis: str, symbol: str) -> Spec:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [x],
        "y": [y],
        "yaxis": axis,
        "name": "chosen",
        "marker": {
            "color": "var(--chosen)",
            "size": 12,
            "symbol": "diamond",
            "line": {"color": "var(--paper)", "width": 2},
        },
        "hovertemplate": f"chosen: {symbol} = %{{x:.3g}}, %{{y:.2f}}{NARROW_SPACE}%<extra></extra>",
    }
