"""Figures of a report as plain plotly specifications.

A colour is written as a CSS variable, ``var(--name)``; the page puts in the value for light or dark.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .schema import LatencyPart, ReportData
from .words import NARROW_SPACE, count, factor, final_of, paths, percent, reference_of, row_of

Spec = dict[str, Any]
KNOWN_COLOURS = ("relu", "rotated", "compact", "finetuned")
FRAME_POINTS = 12.0  # how far below the baseline the threshold figure shows
BINS = 81


@dataclass(frozen=True)
class Figure:
    """A figure and its words.

    Attributes:
        key: Id on the page.
        title: Heading.
        caption: What to see, below the figure.
        alt: Description for those who cannot see it.
        height: Pixels.
        spec: ``data`` and ``layout`` for plotly.
    """

    key: str
    title: str
    caption: str
    alt: str
    height: int
    spec: Spec


def figures(data: ReportData) -> dict[str, Figure]:
    """All figures that the data suffice for, by key."""
    made = (
        threshold_figure(data),
        slopes_figure(data),
        alive_figure(data),
        paths_figure(data),
        layers_figure(data),
        curves_figure(data),
        latency_figure(data),
    )
    return {figure.key: figure for figure in made if figure is not None}


def colour(key: str) -> str:
    """The colour of a network, the same in every figure."""
    return f"var(--{key if key in KNOWN_COLOURS else 'other'})"


def threshold_figure(data: ReportData) -> Figure | None:
    """Validation score and filters alive over the threshold, and the chosen point."""
    found = data.get("threshold")
    sweep = sorted(
        (p for p in (found or {}).get("sweep", []) if p["threshold"] > 0), key=lambda p: p["threshold"]
    )
    if not found or not sweep:
        return None
    total = found.get("total") or max(point["alive"] for point in sweep)
    zetas = [point["threshold"] for point in sweep]
    scores = [point["score"] for point in sweep]
    kept = [100 * point["alive"] / total for point in sweep]
    traces = [
        line(zetas, scores, "validation accuracy", colour("rotated"), markers=True, hover="%{y:.2f} %"),
        line(zetas, kept, "filters alive", "var(--ink-soft)", markers=True, hover="%{y:.1f} %", axis="y2"),
    ]
    baseline, chosen = found.get("baseline_score"), found.get("value", 0.0)
    shapes: list[Spec] = []
    if baseline is not None:
        shapes.append(_rule("y", baseline, "var(--ink-soft)"))
    if chosen > 0:
        shapes.append(_rule("x", chosen, "var(--chosen)"))
        at = [100 * found["alive"] / total] if "alive" in found else []
        for values, axis in (([found["score"]] if "score" in found else [], "y"), (at, "y2")):
            if values:
                traces.append(_point([chosen], values, "var(--chosen)", axis))
    top = max([*scores, *([baseline] if baseline is not None else [])])
    low = max(min(scores), (baseline if baseline is not None else top) - FRAME_POINTS)
    margin = max(0.5, 0.06 * (top - low))
    layout = _stacked("accuracy, %", "filters alive, %")
    dtick = 1 if zetas[-1] > 50 * zetas[0] else "D2"  # only powers of ten, or 2 and 5 between them
    layout["xaxis"] |= {"type": "log", "title": {"text": "threshold ζ on |slope|"}, "dtick": dtick}
    layout["yaxis"]["range"] = [low - margin, top + margin]
    layout["yaxis2"]["range"] = [-4, 104]
    layout |= {"shapes": shapes, "showlegend": False}
    hidden = sum(score < low for score in scores)
    caption = f"Chosen: ζ = {chosen:.3g}, which leaves {found.get('alive', '?')} of {total} filters."
    if baseline is not None:
        caption += f" Dashed: all slopes as trained, {percent(baseline, 2)}."
    if hidden:
        caption += f" {hidden} larger thresholds fall below the frame."
    alt = f"Validation accuracy over {len(sweep)} thresholds; the chosen one is {chosen:.3g}."
    return Figure("threshold", "Accuracy against threshold", caption, alt, 430, _spec(traces, layout))


def slopes_figure(data: ReportData) -> Figure | None:
    """Histogram of all slopes at the start and at the end of training."""
    parts = {
        when: [value for values in layers.values() for value in values]
        for when, layers in data.get("slopes", {}).items()
        if when in ("start", "end")
    }
    parts = {when: values for when, values in parts.items() if values}
    if not parts:
        return None
    reach = max(abs(value) for values in parts.values() for value in values) * 1.02 or 1.0
    width = 2 * reach / BINS
    centres = [-reach + (i + 0.5) * width for i in range(BINS)]
    traces, counts = [], []
    for when, fill, name in (
        ("start", "var(--relu)", "at the start"),
        ("end", "var(--rotated)", "at the end"),
    ):
        if when in parts:
            heights = _histogram(parts[when], reach)
            counts += heights
            traces.append(
                {
                    "type": "bar",
                    "x": centres,
                    "y": heights,
                    "width": width,
                    "name": name,
                    "marker": {"color": fill, "line": {"width": 0}},
                    "opacity": 0.55 if when == "start" else 0.8,
                    "hovertemplate": f"slope %{{x:.2f}}: %{{y}} {name}<extra></extra>",
                }
            )
    filled = [height for height in counts if height]
    peaked = max(filled) > 12 * statistics.median(filled)
    layout = _layout("slope a", "filters")
    layout |= {"barmode": "overlay", "bargap": 0}
    if peaked:
        layout["yaxis"] |= {"type": "log", "dtick": 1, "title": {"text": "filters (logarithmic)"}}
    chosen = data.get("threshold", {}).get("value", 0.0)
    caption = (
        f"{len(next(iter(parts.values())))} slopes, one per filter; a plain ReLU has a slope of 1 everywhere."
    )
    if chosen:
        layout["shapes"] = [_rule("x", sign * chosen, "var(--chosen)") for sign in (-1, 1)]
        caption += f" Between the lines, |a| < {chosen:.3g}, filters are dropped."
    alt = f"Histograms of the slopes {' and '.join('at the ' + when for when in parts)} of training."
    return Figure("slopes", "Slopes", caption, alt, 430, _spec(traces, layout))


def alive_figure(data: ReportData) -> Figure | None:
    """Filters alive per activation, in order of depth."""
    rows = data.get("alive", [])
    if not rows:
        return None
    names = _unique([row["name"].removesuffix(".slope") for row in rows])
    traces = [
        _bars(names, [row["total"] for row in rows], "all", "var(--faint)"),
        _bars(names, [row["alive"] for row in rows], "alive", colour("compact")),
    ]
    layout = _layout("", "filters")
    layout |= {"barmode": "overlay", "bargap": _bar_gap(names)}
    _name_ticks(layout["xaxis"], names)
    total, alive = sum(row["total"] for row in rows), sum(row["alive"] for row in rows)
    dead = sum(row["alive"] == 0 for row in rows)
    caption = f"{alive} of {total} filters are alive, from the input on the left to the output on the right."
    if dead:
        caption += f" In {dead} {'activation' if dead == 1 else 'activations'} every filter is dead."
    alt = f"Bars for {len(rows)} activations: {alive} of {total} filters alive."
    return Figure("alive", "Filters alive along the depth", caption, alt, 340, _spec(traces, layout))


def paths_figure(data: ReportData) -> Figure | None:
    """Shares of the paths through a residual network by their length in filters, with all filters and those alive."""
    found = data.get("paths")
    if not found:
        return None
    before, after, width = found["before"], found["after"], found["width"]
    traces = []
    for side, fill, name, opacity in (
        (before, "var(--relu)", "all filters", 0.55),
        (after, colour("compact"), "filters alive", 0.8),
    ):
        places = range(0, width * len(side["shares"]), width)
        if places:
            traces.append(
                {
                    "type": "bar",
                    "x": [place + width / 2 for place in places],
                    "y": [100 * share for share in side["shares"]],
                    "width": width,
                    "name": name,
                    "marker": {"color": fill, "line": {"width": 0}},
                    "opacity": opacity,
                    "hovertext": [f"{place} to {place + width - 1} filters" for place in places],
                    "hovertemplate": f"%{{hovertext}}<br>%{{y:.2f}}{NARROW_SPACE}% of the paths, {name}<extra></extra>",
                }
            )
    layout = _layout("length of a path, filters", "paths, %") | {"barmode": "overlay", "bargap": 0}
    caption = (
        f"{paths(before['paths'])} paths lead through {found['blocks']} residual blocks, each of which is passed or "
        "skipped; the length of a path is the number of filters in the layers of the blocks that it passes: "
        f"{count(before['mean'])} on average of all filters"
    )
    caption += f", {count(after['mean'])} of those alive." if after["paths"] else "."
    if after["paths"] < before["paths"]:
        left = paths(after["paths"]) if after["paths"] else "no"
        caption += f" Where a layer is dead nothing gets through: {left} paths are left."
    alt = f"Histogram of path lengths: {count(before['mean'])} filters on average before, {count(after['mean'])} after."
    return Figure(
        "paths", "Filters on the paths through the network", caption, alt, 340, _spec(traces, layout)
    )


def layers_figure(data: ReportData) -> Figure | None:
    """Weights and multiply-accumulates of each layer, before and after."""
    keys = _before_after(data)
    if keys is None:
        return None
    before, after = keys
    parts = (("weights", data.get("layer_weights", {})), ("MACs", data.get("layer_macs", {})))
    panels = [(what, counts) for what, counts in parts if before in counts and after in counts]
    if not panels:
        return None
    names = list(dict.fromkeys(name for _, counts in panels for name in counts[before]))
    labels = _unique([name or "(root)" for name in names])
    traces = []
    for (_, counts), axis in zip(panels, ("y", "y2"), strict=False):
        for key, fill, name in ((before, "var(--faint)", "before"), (after, colour("compact"), "after")):
            bars = _bars(labels, [counts[key].get(layer, 0) for layer in names], name, fill, axis)
            traces.append(bars | {"legendgroup": name, "showlegend": axis == "y"})
    layout = _layout("", panels[0][0]) if len(panels) == 1 else _stacked("weights", "MACs")
    layout |= {"barmode": "overlay", "bargap": _bar_gap(labels)}
    _name_ticks(layout["xaxis"], labels)
    sums = [
        f"{what} {count(sum(counts[before].values()))} → {count(sum(counts[after].values()))}"
        for what, counts in panels
    ]
    caption = f"Convolutions and linear layers, before and after compaction: {', '.join(sums)}."
    alt = f"Bars for {len(names)} layers before and after compaction: {', '.join(sums)}."
    title = "Where weights and computation went"
    return Figure("layers", title, caption, alt, 480, _spec(traces, layout))


def curves_figure(data: ReportData) -> Figure | None:
    """Accuracy and loss over the epochs, one colour per network."""
    traces = []
    for curve in data.get("curves", []):
        for split, dash in (("validation", "solid"), ("train", "dot")):
            for quantity, axis in (("accuracy", "y"), ("loss", "y2")):
                points = [
                    (row["epoch"] + 1, row[f"{split}_{quantity}"])
                    for row in curve["rows"]
                    if f"{split}_{quantity}" in row and "epoch" in row
                ]
                if points:
                    trace = line(
                        [epoch for epoch, _ in points],
                        [value for _, value in points],
                        f"{curve['label']}, {'training' if split == 'train' else split}",
                        colour(curve["key"]),
                        hover="%{y:.2f} %" if quantity == "accuracy" else "%{y:.4f}",
                        axis=axis,
                        markers=len(points) == 1,
                    )
                    trace["line"] |= {"dash": dash, "width": 1.4 if split == "train" else 2.2}
                    traces.append(
                        trace | {"legendgroup": trace["name"], "showlegend": quantity == "accuracy"}
                    )
    if not traces:
        return None
    layout = _stacked("accuracy, %", "loss")
    layout["xaxis"]["title"] = {"text": "epoch"}
    labels = ", ".join(curve["label"] for curve in data.get("curves", []))
    caption = "Solid: validation images, held out of the training set. Dotted: training images, as augmented."
    alt = f"Accuracy and loss over the epochs for {labels}."
    return Figure("curves", "Training", caption, alt, 480, _spec(traces, layout))


def latency_figure(data: ReportData) -> Figure | None:
    """Spread of the measured times, one panel per batch size."""
    timed = [part for part in data.get("latency", []) if part.get("milliseconds")]
    if not timed:
        return None
    traces: list[Spec] = []
    layout = _layout("", "")
    gap, panel = 0.28 / len(timed), 1 / len(timed)
    for place, part in enumerate(timed):
        suffix = "" if place == 0 else str(place + 1)
        top = 1 - place * panel
        layout[f"xaxis{suffix}"] = axis(f"ms at batch {part['batch_size']}") | {
            "anchor": f"y{suffix}",
            "rangemode": "tozero",
        }
        layout[f"yaxis{suffix}"] = axis("") | {
            "domain": [top - panel + gap, top],
            "anchor": f"x{suffix}",
            "autorange": "reversed",
            "showgrid": False,
        }
        for key, times in part["milliseconds"].items():
            traces.append(_box(data, key, times, suffix))
    layout["showlegend"] = False
    reference = reference_of(data)
    over = f"Against {reference['label']}: " if reference is not None else ""
    alt = over + "; ".join(_latency_words(data, part) for part in timed)
    rounds = len(next(iter(timed[0]["milliseconds"].values())))
    caption = (
        f"Each dot is one of {rounds} rounds, in which all networks were run in turn; the box spans the "
        f"middle half. {alt}."
    )
    height = max(430, sum(90 + 46 * len(part["milliseconds"]) for part in timed))
    return Figure("latency", "Measured latency", caption, alt, height, _spec(traces, layout))


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


def _before_after(data: ReportData) -> tuple[str, str] | None:
    """Keys of the networks before and after compaction that have counts per layer."""
    known = set(data.get("layer_weights", {})) | set(data.get("layer_macs", {}))
    final = final_of(data)
    before = data.get("compacted_from", "rotated")
    candidates = [final["key"], final.get("same_cost_as")] if final is not None else []
    after = next((key for key in (*candidates, "compact") if key in known and key != before), None)
    return (before, str(after)) if before in known and after is not None else None


def _histogram(values: Sequence[float], reach: float) -> list[int]:
    heights = [0] * BINS
    for value in values:
        heights[min(BINS - 1, max(0, math.floor((value + reach) / (2 * reach) * BINS)))] += 1
    return heights


def _unique(names: list[str]) -> list[str]:
    """Bars of equal names would be stacked on one another."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return result


def _bar_gap(names: list[str]) -> float:
    """Few bars stay slim."""
    return max(0.18, 1 - 0.12 * len(names))


def _name_ticks(axis: Spec, names: list[str]) -> None:
    """Label at most 14 of the bars, the others on hover."""
    step = max(1, math.ceil(len(names) / 14))
    shown = list(range(0, len(names), step))
    axis |= {
        "type": "category",
        "showgrid": False,
        "tickmode": "array",
        "tickvals": [names[index] for index in shown],
        "ticktext": [names[index] for index in shown],
        "tickangle": -45 if len(names) > 4 else 0,
        "automargin": True,
    }


def line(
    x: Sequence[float],
    y: Sequence[float],
    name: str,
    fill: str,
    hover: str,
    axis: str = "y",
    markers: bool = False,
) -> Spec:
    """A line through points."""
    return {
        "type": "scatter",
        "mode": "lines+markers" if markers else "lines",
        "x": list(x),
        "y": list(y),
        "name": name,
        "yaxis": axis,
        "line": {"color": fill, "width": 2.2},
        "marker": {"color": fill, "size": 5},
        "hovertemplate": f"{name} {hover}<extra></extra>",
    }


def _point(x: Sequence[float], y: Sequence[float], fill: str, axis: str) -> Spec:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": list(x),
        "y": list(y),
        "yaxis": axis,
        "name": "chosen",
        "marker": {
            "color": fill,
            "size": 12,
            "symbol": "diamond",
            "line": {"color": "var(--paper)", "width": 2},
        },
        "hovertemplate": f"chosen: ζ = %{{x:.3g}}, %{{y:.2f}}{NARROW_SPACE}%<extra></extra>",
    }


def _bars(names: list[str], heights: list[int], name: str, fill: str, axis: str = "y") -> Spec:
    return {
        "type": "bar",
        "x": names,
        "y": heights,
        "name": name,
        "yaxis": axis,
        "marker": {"color": fill, "line": {"width": 0}},
        "hovertemplate": f"%{{x}}<br>%{{y:,}} {name}<extra></extra>",
    }


def _rule(axis: str, value: float, fill: str) -> Spec:
    """A thin line across the figure at a value of x (through all panels) or of the first y."""
    line = {"color": fill, "width": 1.4, "dash": "dash"}
    if axis == "x":
        return {"type": "line", "x0": value, "x1": value, "yref": "paper", "y0": 0, "y1": 1, "line": line}
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": value, "y1": value, "line": line}


def axis(title: str) -> Spec:
    """An axis with a title."""
    return {"title": {"text": title}, "zeroline": False, "automargin": True}


def _layout(x_title: str, y_title: str) -> Spec:
    return {"xaxis": axis(x_title), "yaxis": axis(y_title)}


def _stacked(upper: str, lower: str) -> Spec:
    """Two panels over one x axis."""
    return {
        "xaxis": axis("") | {"anchor": "y2"},
        "yaxis": axis(upper) | {"domain": [0.47, 1]},
        "yaxis2": axis(lower) | {"domain": [0, 0.39]},
    }


def _spec(traces: list[Spec], layout: Spec) -> Spec:
    return {"data": traces, "layout": layout}
