"""Where the milliseconds went, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping

from ..schema import LatencyPart, ReportData
from ..words import milliseconds, reference_of
from .spec import Figure, Spec, bar_gap, bars, colour, layout_of, name_ticks, spec_of, stacked, unique

PARTS = {"measured_layer_ms": "measured", "estimated_layer_ms": "estimated"}
Times = Mapping[str, Mapping[str, float]]  # ms by network and layer


def layer_latency_figure(data: ReportData) -> Figure | None:
    """Time of each layer before and after, at the largest batch size: measured, and estimated where there is a table.

    Batch sizes that have both come before those that have only one.
    """
    known = [(part, panels) for part in data.get("latency", []) if (panels := _panels(data, part))]
    if not known:
        return None
    part, panels = max(known, key=lambda one: (len(one[1]), one[0]["batch_size"]))
    before, after = _before_after(data, part)
    names = list(dict.fromkeys(layer for times in panels.values() for layer in times[before]))
    labels = unique([name or "(no layer)" for name in names])
    traces: list[Spec] = []
    for times, axis in zip(panels.values(), ("y", "y2"), strict=False):
        for key, fill, name in ((before, "var(--faint)", "before"), (after, colour("compact"), "after")):
            heights = [times[key].get(layer, 0.0) for layer in names]
            made = bars(labels, heights, name, fill, axis, "%{y:.3g} ms")
            traces.append(made | {"legendgroup": name, "showlegend": axis == "y"})
    heads = [f"ms, {what}" for what in panels]
    layout = layout_of("", heads[0]) if len(heads) == 1 else stacked(*heads)
    layout |= {"barmode": "overlay", "bargap": bar_gap(labels)}
    name_ticks(layout["xaxis"], labels)
    return Figure(
        "layer_latency",
        "Where the milliseconds went",
        f"{_caption(part, panels, before, after)} What has no weights counts with the layer whose result it reads.",
        f"Bars for {len(names)} layers: {_caption(part, panels, before, after)}",
        480 if len(panels) == 2 else 380,
        spec_of(traces, layout),
    )


def _panels(data: ReportData, part: LatencyPart) -> dict[str, Times]:
    """What was measured and what was estimated, as far as it has both networks."""
    before, after = _before_after(data, part)
    found: dict[str, Times] = {}
    for name, what in PARTS.items():
        times: Times = part.get(name) or {}  # type: ignore[assignment]
        if before in times and after in times and before != after:
            found[what] = times
    return found


def _before_after(data: ReportData, part: LatencyPart) -> tuple[str, str]:
    """Keys of the reference and of the network that is about as fast as the final one."""
    timed = list(part.get("medians_ms", {}))
    reference = reference_of(data)
    before = (
        reference["key"] if reference is not None and reference["key"] in timed else next(iter(timed), "")
    )
    return before, timed[-1] if timed else ""


def _caption(part: LatencyPart, panels: Mapping[str, Times], before: str, after: str) -> str:
    sums = [
        f"{what} {milliseconds(sum(times[before].values()))} → {milliseconds(sum(times[after].values()))}"
        for what, times in panels.items()
    ]
    return f"One call at batch {part['batch_size']}, before and after: {', '.join(sums)}."
