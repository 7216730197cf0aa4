"""The slopes at the start and at the end of the training."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from ....core.criteria import Criterion
from ..schema import ReportData
from ..words import criterion_of
from .spec import Figure, Spec, layout_of, rule, spec_of

BINS = 81
SIDES = (("start", "var(--relu)", 0.55), ("end", "var(--rotated)", 0.8))
PEAKED = 12  # the highest bar over the median: above it the axis is logarithmic


def slopes_figure(data: ReportData) -> Figure | None:
    """Histogram of all slopes at the start and at the end of training; thresholds on slopes are drawn into it."""
    parts = _values(data)
    if not parts:
        return None
    reach = max(abs(value) for values in parts.values() for value in values) * 1.02 or 1.0
    heights = {when: _histogram(values, reach) for when, values in parts.items()}
    traces = [
        _bars(heights[when], reach, when, fill, opacity) for when, fill, opacity in SIDES if when in parts
    ]
    layout = layout_of("slope a", "filters") | {"barmode": "overlay", "bargap": 0}
    if _peaked(height for each in heights.values() for height in each):
        layout["yaxis"] |= {"type": "log", "dtick": 1, "title": {"text": "filters (logarithmic)"}}
    criterion = criterion_of(data)
    if criterion is not None and criterion.by_slope and criterion.threshold:
        layout["shapes"] = [rule("x", sign * criterion.threshold, "var(--chosen)") for sign in (-1, 1)]
    caption = " ".join([_count(parts), *_dropped(parts, criterion)])
    alt = f"Histograms of the slopes {' and '.join('at the ' + when for when in parts)} of training."
    return Figure("slopes", "Slopes", caption, alt, 430, spec_of(traces, layout))


def _values(data: ReportData) -> dict[str, list[float]]:
    """All slopes of a time, where there are any."""
    found = {
        when: [value for values in layers.values() for value in values]
        for when, layers in data.get("slopes", {}).items()
        if when in ("start", "end")
    }
    return {when: values for when, values in found.items() if values}


def _count(parts: dict[str, list[float]]) -> str:
    count = len(next(iter(parts.values())))
    return f"{count} slopes, one per filter; a plain ReLU has a slope of 1 everywhere."


def _dropped(parts: dict[str, list[float]], criterion: Criterion | None) -> list[str]:
    """What the figure shows of the filters that are dropped: a range of slopes, the zeros, or nothing."""
    if criterion is None:
        return []
    if not criterion.by_slope:
        return [
            f"Which filters are dropped cannot be seen here: they were chosen otherwise ({criterion.describe()})."
        ]
    if criterion.threshold:
        return [f"Between the lines, |a| < {criterion.threshold:.3g}, filters are dropped."]
    zeros = sum(value == 0 for value in parts.get("end", []))
    return [f"{zeros} slopes are exactly 0 at the end: these filters are dropped."] if zeros else []


def _bars(heights: list[int], reach: float, when: str, fill: str, opacity: float) -> Spec:
    width = 2 * reach / BINS
    return {
        "type": "bar",
        "x": [-reach + (i + 0.5) * width for i in range(BINS)],
        "y": heights,
        "width": width,
        "name": f"at the {when}",
        "marker": {"color": fill, "line": {"width": 0}},
        "opacity": opacity,
        "hovertemplate": f"slope %{{x:.2f}}: %{{y}} at the {when}<extra></extra>",
    }


def _peaked(heights: Iterable[int]) -> bool:
    filled = [height for height in heights if height]
    return max(filled) > PEAKED * statistics.median(filled)


def _histogram(values: Sequence[float], reach: float) -> list[int]:
    heights = [0] * BINS
    for value in values:
        heights[min(BINS - 1, max(0, math.floor((value + reach) / (2 * reach) * BINS)))] += 1
    return heights
