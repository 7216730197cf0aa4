"""The spread of the measured times."""

from __future__ import annotations

from ..schema import LatencyPart, ReportData
from ..words import factor, reference_of, row_of
from .spec import Figure, Spec, axis, colour, layout_of, spec_of


def latency_figure(data: ReportData) -> Figure | None:
    """Spread of the measured times, one panel per batch size."""
    timed = [part for part in data.get("latency", []) if part.get("milliseconds")]
    if not timed:
        return None
    layout = layout_of("", "") | {"showlegend": False}
    traces: list[Spec] = []
    for place, part in enumerate(timed):
        layout |= _panel(part, place, len(timed))
        traces += [_box(data, key, times, _suffix(place)) for key, times in part["milliseconds"].items()]
    reference = reference_of(data)
    over = f"Against {reference['label']}: " if reference is not None else ""
    alt = over + "; ".join(_latency_words(data, part) for part in timed)
    rounds = len(next(iter(timed[0]["milliseconds"].values())))
    caption = (
        f"Each dot is one of {rounds} rounds, in which all networks were run in turn; the box spans the "
        f"middle half. {alt}."
    )
    height = max(430, sum(90 + 46 * len(part["milliseconds"]) for part in timed))
    return Figure("latency", "Measured latency", caption, alt, height, spec_of(traces, layout))


def _panel(part: LatencyPart, place: int, panels: int) -> Spec:
    """Axes of one batch size, the first at the top."""
    suffix, gap, size = _suffix(place), 0.28 / panels, 1 / panels
    top = 1 - place * size
    return {
        f"xaxis{suffix}": axis(f"ms at batch {part['batch_size']}")
        | {"anchor": f"y{suffix}", "rangemode": "tozero"},
        f"yaxis{suffix}": axis("")
        | {
            "domain": [top - size + gap, top],
            "anchor": f"x{suffix}",
            "autorange": "reversed",
            "showgrid": False,
        },
    }


def _suffix(place: int) -> str:
    """What plotly calls the axes of a panel by: nothing, 2, 3."""
    return "" if place == 0 else str(place + 1)


def _latency_words(data: ReportData, part: LatencyPart) -> str:
    speedups = [f"{_label(data, key)} {factor(value)}" for key, value in part.get("speedup", {}).items()]
    return f"at batch {part['batch_size']} {', '.join(speedups)}"


def _box(data: ReportData, key: str, times: list[float], suffix: str) -> Spec:
    return {
        "type": "box",
        "orientation": "h",
        "x": times,
        "y": [_label(data, key)] * len(times),
        "xaxis": f"x{suffix}",
        "yaxis": f"y{suffix}",
        "name": _label(data, key),
        "marker": {"color": colour(key), "size": 4, "opacity": 0.6},
        "line": {"width": 1.6},
        "boxpoints": "all",
        "jitter": 0.6,
        "pointpos": 0,
        "width": 0.55,
        "hovertemplate": "%{x:.3g} ms<extra></extra>",
    }


def _label(data: ReportData, key: str) -> str:
    row = row_of(data, key)
    return row["label"] if row is not None else key
