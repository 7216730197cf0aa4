"""Filters on the paths that skip connections make."""

from __future__ import annotations

from ..schema import PathsPart, PathsSide, ReportData
from ..words import NARROW_SPACE, count, paths
from .spec import Figure, Spec, colour, layout_of, spec_of


def paths_figure(data: ReportData) -> Figure | None:
    """Shares of the paths through a residual network by their length in filters, with all filters and those alive."""
    found = data.get("paths")
    if not found:
        return None
    before, after, width = found["before"], found["after"], found["width"]
    sides = (
        (before, "var(--relu)", "all filters", 0.55),
        (after, colour("compact"), "filters alive", 0.8),
    )
    traces = [
        _bars(side, width, fill, name, opacity) for side, fill, name, opacity in sides if side["shares"]
    ]
    layout = layout_of("length of a path, filters", "paths, %") | {"barmode": "overlay", "bargap": 0}
    alt = f"Histogram of path lengths: {count(before['mean'])} filters on average before, {count(after['mean'])} after."
    title = "Filters on the paths through the network"
    return Figure("paths", title, _caption(found), alt, 340, spec_of(traces, layout))


def _bars(side: PathsSide, width: int, fill: str, name: str, opacity: float) -> Spec:
    places = range(0, width * len(side["shares"]), width)
    return {
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


def _caption(found: PathsPart) -> str:
    before, after = found["before"], found["after"]
    caption = (
        f"{paths(before['paths'])} paths lead through {found['blocks']} residual blocks, each of which is passed or "
        "skipped; the length of a path is the number of filters in the layers of the blocks that it passes: "
        f"{count(before['mean'])} on average of all filters"
    )
    caption += f", {count(after['mean'])} of those alive." if after["paths"] else "."
    if after["paths"] < before["paths"]:
        left = paths(after["paths"]) if after["paths"] else "no"
        caption += f" Where a layer is dead nothing gets through: {left} paths are left."
    return caption
