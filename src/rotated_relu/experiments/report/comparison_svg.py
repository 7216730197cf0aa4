"""Figures of a comparison as pictures for a page without scripts: means with bars of a standard deviation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from .figures.spec import Figure
from .spread_figures import frontiers

WIDTH, HEIGHT = 900, 460
LEFT, TOP, RIGHT, BOTTOM = 60, 16, 330, 48  # margins; the names stand on the right
FILLS = {
    "var(--rotated)": "#0072b2",
    "var(--compact)": "#009e73",
    "var(--finetuned)": "#d55e00",
    "var(--relu)": "#777777",
    "var(--ink)": "#222222",
}


def pictures(data: Mapping[str, Any], split: str) -> dict[str, str]:
    """Accuracy after equal training against each cost, as SVG, by the key of the figure; none if nothing trained on.

    Args:
        data: What ``compare.json`` holds.
        split: ``validation`` or ``test``.
    """
    return {figure.key: picture(figure) for figure in frontiers(data, split)}


def picture(figure: Figure) -> str:
    """One figure of lines, marks and bars as SVG."""
    traces, layout = figure.spec["data"], figure.spec["layout"]
    across = [float(value) for trace in traces for value in trace["x"]]
    low, high = (float(end) for end in layout["yaxis"]["range"])
    frame = Frame(min(across), max(across), low, high)
    titles = (layout["xaxis"]["title"]["text"], layout["yaxis"]["title"]["text"])
    parts = [*_axes(frame, *titles)]
    for number, trace in enumerate(traces):
        parts += _drawn(trace, frame, number)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12" role="img"><title>{escape(figure.alt)}</title>'
        '<rect width="100%" height="100%" fill="white"/>' + "".join(parts) + "</svg>\n"
    )


@dataclass(frozen=True)
class Frame:
    """Where values lie in the picture, in its units; what lies below the lowest is drawn at the edge."""

    left: float
    right: float
    low: float
    high: float

    def x(self, value: float) -> float:
        """Of a value across."""
        share = (value - self.left) / ((self.right - self.left) or 1.0)
        return LEFT + 8 + share * (WIDTH - LEFT - RIGHT - 16)

    def y(self, value: float) -> float:
        """Of a value upwards."""
        share = (self.high - max(value, self.low)) / (self.high - self.low)
        return TOP + share * (HEIGHT - TOP - BOTTOM)


def ticks(start: float, end: float, most: int = 9) -> list[float]:
    """Round numbers from ``start`` to ``end``: steps of 1, 2 or 5 times a power of ten, at most so many."""
    step = 10 ** math.floor(math.log10((end - start) or 1.0)) / 10
    for factor in (1, 2, 5, 10, 20, 50, 100):
        if (end - start) / (factor * step) < most:
            step *= factor
            break
    first = math.ceil(start / step - 1e-9)
    return [round(number * step, 10) for number in range(first, math.floor(end / step + 1e-9) + 1)]


def _axes(frame: Frame, across: str, upwards: str) -> Iterator[str]:
    for value in ticks(frame.left, frame.right):
        yield f'<text x="{frame.x(value):.1f}" y="{HEIGHT - 28}" text-anchor="middle">{value:g}</text>'
    for value in ticks(frame.low, frame.high):
        yield (
            f'<path d="M{LEFT} {frame.y(value):.1f}H{WIDTH - RIGHT}" stroke="#dddddd"/>'
            f'<text x="{LEFT - 8}" y="{frame.y(value) + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(across)}</text>'
    yield (
        f'<text transform="translate(16 {HEIGHT / 2}) rotate(-90)" text-anchor="middle">{escape(upwards)}</text>'
    )


def _drawn(trace: Mapping[str, Any], frame: Frame, number: int) -> list[str]:
    """One method: its line, its marks with bars, and its name."""
    name = trace["line"]["color"]
    fill, is_plain = FILLS.get(name, name), trace["mode"] == "lines"
    # Methods outnumber colours: those of the second round are dashed.
    dash = ' stroke-dasharray="2 4"' if is_plain else ' stroke-dasharray="7 3"' if number >= 9 else ""
    points = list(zip(trace["x"], trace["y"], strict=True))
    path = "L".join(f"{frame.x(a):.1f} {frame.y(b):.1f}" for a, b in points)
    parts = [f'<path d="M{path}" fill="none" stroke="{fill}" stroke-width="1.6"{dash}/>']
    if not is_plain:
        parts += [
            f'<circle cx="{frame.x(a):.1f}" cy="{frame.y(b):.1f}" r="3.5" fill="{fill}"/>' for a, b in points
        ]
    parts += _bars(points, trace.get("error_y", {}).get("array", []), frame, fill)
    row = TOP + 12 + 20 * number
    parts.append(
        f'<path d="M{WIDTH - RIGHT + 14} {row - 4}h18" stroke="{fill}" stroke-width="3"{dash}/>'
        f'<text x="{WIDTH - RIGHT + 38}" y="{row}">{escape(trace["name"])}</text>'
    )
    return parts


def _bars(
    points: Sequence[tuple[float, float]], deviations: Sequence[float], frame: Frame, fill: str
) -> list[str]:
    return [
        f'<path d="M{frame.x(a):.1f} {frame.y(b - d):.1f}V{frame.y(b + d):.1f}" stroke="{fill}"/>'
        for (a, b), d in zip(points, deviations, strict=False)
        if d
    ]
