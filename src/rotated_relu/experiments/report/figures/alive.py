"""Filters alive along the depth."""

from __future__ import annotations

from ..schema import ReportData
from .spec import Figure, bar_gap, bars, colour, layout_of, name_ticks, spec_of, unique


def alive_figure(data: ReportData) -> Figure | None:
    """Filters alive per activation, in order of depth."""
    rows = data.get("alive", [])
    if not rows:
        return None
    names = unique([row["name"].removesuffix(".slope") for row in rows])
    traces = [
        bars(names, [row["total"] for row in rows], "all", "var(--faint)"),
        bars(names, [row["alive"] for row in rows], "alive", colour("compact")),
    ]
    layout = layout_of("", "filters")
    layout |= {"barmode": "overlay", "bargap": bar_gap(names)}
    name_ticks(layout["xaxis"], names)
    total, alive = sum(row["total"] for row in rows), sum(row["alive"] for row in rows)
    dead = sum(row["alive"] == 0 for row in rows)
    caption = f"{alive} of {total} filters are alive, from the input on the left to the output on the right."
    if dead:
        caption += f" In {dead} {'activation' if dead == 1 else 'activations'} every filter is dead."
    alt = f"Bars for {len(rows)} activations: {alive} of {total} filters alive."
    return Figure("alive", "Filters alive along the depth", caption, alt, 340, spec_of(traces, layout))
