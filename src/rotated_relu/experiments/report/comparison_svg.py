"""The frontier of a comparison as a picture for a page without scripts: means with bars of a standard deviation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .spread_figures import frontiers

WIDTH, HEIGHT = 860, 460
LEFT, TOP, RIGHT, BOTTOM = 60, 16, 300, 48  # margins; the names stand on the right
FILLS = {
    "var(--rotated)": "#0072b2",
    "var(--compact)": "#009e73",
    "var(--finetuned)": "#d55e00",
    "var(--relu)": "#777777",
    "var(--ink)": "#222222",
}


def frontier_svg(data: Mapping[str, Any], split: str) -> str | None:
    """Accuracy after equal training against the multiply-accumulates saved; None if nothing has trained on.

    Args:
        data: What ``compare.json`` holds.
        split: ``validation`` or ``test``.
    """
    found = frontiers(data, split)
    if not found:
        return None
    spec = found[0].spec
    traces = spec["data"]
    low, high = (float(end) for end in spec["layout"]["yaxis"]["range"])
    right: float = max(value for trace in traces for value in trace["x"]) * 1.03

    def x(value: float) -> float:
        return LEFT + value / right * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return TOP + (high - max(value, low)) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [_axes(x, y, right, low, high, split)]
    for number, trace in enumerate(traces):
        parts += _drawn(trace, x, y, number)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12" role="img"><title>{escape(found[0].alt)}</title>'
        '<rect width="100%" height="100%" fill="white"/>' + "".join(parts) + "</svg>\n"
    )


def _axes(x: Any, y: Any, right: float, low: float, high: float, split: str) -> str:
    parts = []
    for value in range(0, int(right) + 1, 10):
        parts.append(f'<text x="{x(value):.1f}" y="{HEIGHT - 28}" text-anchor="middle">{value}</text>')
    for value in range(int(low) + 1, int(high) + 1):
        parts.append(
            f'<path d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}" stroke="#dddddd"/>'
            f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">MACs saved, %</text>')
    parts.append(
        f'<text transform="translate(16 {HEIGHT / 2}) rotate(-90)" text-anchor="middle">{split} accuracy, %</text>'
    )
    return "".join(parts)


def _drawn(trace: Mapping[str, Any], x: Any, y: Any, number: int) -> list[str]:
    """One method: its line, its marks with bars, and its name."""
    name = trace["line"]["color"]
    fill = FILLS.get(name, name)
    dash = "" if "error_y" in trace or trace["mode"] != "lines" else ' stroke-dasharray="5 4"'
    points = list(zip(trace["x"], trace["y"], strict=True))
    path = "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in points)
    parts = [f'<path d="M{path}" fill="none" stroke="{fill}" stroke-width="1.6"{dash}/>']
    if trace["mode"] != "lines":
        parts += [f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="3.5" fill="{fill}"/>' for a, b in points]
    parts += _bars(points, trace.get("error_y", {}).get("array", []), x, y, fill)
    row = TOP + 12 + 20 * number
    parts.append(
        f'<path d="M{WIDTH - RIGHT + 14} {row - 4}h18" stroke="{fill}" stroke-width="3"{dash}/>'
        f'<text x="{WIDTH - RIGHT + 38}" y="{row}">{escape(trace["name"])}</text>'
    )
    return parts


def _bars(
    points: Sequence[tuple[float, float]], deviations: Sequence[float], x: Any, y: Any, fill: str
) -> list[str]:
    return [
        f'<path d="M{x(a):.1f} {y(b - d):.1f}V{y(b + d):.1f}" stroke="{fill}"/>'
        for (a, b), d in zip(points, deviations, strict=False)
        if d
    ]
