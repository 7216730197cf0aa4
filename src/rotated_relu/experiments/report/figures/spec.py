"""What figures are made of: plain plotly specifications, and the words that go with them.

A colour is written as a CSS variable, ``var(--name)``; the page puts in the value for light or dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Spec = dict[str, Any]
KNOWN_COLOURS = ("relu", "rotated", "compact", "finetuned")


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


def colour(key: str) -> str:
    """The colour of a network, the same in every figure."""
    return f"var(--{key if key in KNOWN_COLOURS else 'other'})"


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


def bars(
    names: list[str], heights: Sequence[float], name: str, fill: str, axis: str = "y", form: str = "%{y:,}"
) -> Spec:
    """Bars side by side, one for each name; ``form`` is how plotly writes a height."""
    return {
        "type": "bar",
        "x": names,
        "y": list(heights),
        "name": name,
        "yaxis": axis,
        "marker": {"color": fill, "line": {"width": 0}},
        "hovertemplate": f"%{{x}}<br>{form} {name}<extra></extra>",
    }


def rule(axis: str, value: float, fill: str) -> Spec:
    """A thin line across the figure at a value of x (through all panels) or of the first y."""
    line = {"color": fill, "width": 1.4, "dash": "dash"}
    if axis == "x":
        return {"type": "line", "x0": value, "x1": value, "yref": "paper", "y0": 0, "y1": 1, "line": line}
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": value, "y1": value, "line": line}


def axis(title: str) -> Spec:
    """An axis with a title."""
    return {"title": {"text": title}, "zeroline": False, "automargin": True}


def layout_of(x_title: str, y_title: str) -> Spec:
    """One panel."""
    return {"xaxis": axis(x_title), "yaxis": axis(y_title)}


def stacked(upper: str, lower: str) -> Spec:
    """Two panels over one x axis."""
    return {
        "xaxis": axis("") | {"anchor": "y2"},
        "yaxis": axis(upper) | {"domain": [0.47, 1]},
        "yaxis2": axis(lower) | {"domain": [0, 0.39]},
    }


def unique(names: list[str]) -> list[str]:
    """Bars of equal names would be stacked on one another."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return result


def bar_gap(names: list[str]) -> float:
    """Few bars stay slim."""
    return max(0.18, 1 - 0.12 * len(names))


def name_ticks(axis: Spec, names: list[str]) -> None:
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


def spec_of(traces: list[Spec], layout: Spec) -> Spec:
    """What plotly draws."""
    return {"data": traces, "layout": layout}
