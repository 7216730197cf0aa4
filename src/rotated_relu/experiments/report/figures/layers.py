"""Where weights and computation went, layer by layer."""

from __future__ import annotations

from ..schema import ReportData
from ..words import count, final_of
from .spec import Figure, bar_gap, bars, colour, layout_of, name_ticks, spec_of, stacked, unique


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
    labels = unique([name or "(root)" for name in names])
    traces = []
    for (_, counts), axis in zip(panels, ("y", "y2"), strict=False):
        for key, fill, name in ((before, "var(--faint)", "before"), (after, colour("compact"), "after")):
            heights = [counts[key].get(layer, 0) for layer in names]
            made = bars(labels, heights, name, fill, axis)
            traces.append(made | {"legendgroup": name, "showlegend": axis == "y"})
    layout = layout_of("", panels[0][0]) if len(panels) == 1 else stacked("weights", "MACs")
    layout |= {"barmode": "overlay", "bargap": bar_gap(labels)}
    name_ticks(layout["xaxis"], labels)
    sums = [
        f"{what} {count(sum(counts[before].values()))} → {count(sum(counts[after].values()))}"
        for what, counts in panels
    ]
    caption = f"Convolutions and linear layers, before and after compaction: {', '.join(sums)}."
    alt = f"Bars for {len(names)} layers before and after compaction: {', '.join(sums)}."
    title = "Where weights and computation went"
    return Figure("layers", title, caption, alt, 480, spec_of(traces, layout))


def _before_after(data: ReportData) -> tuple[str, str] | None:
    """Keys of the networks before and after compaction that have counts per layer."""
    known = set(data.get("layer_weights", {})) | set(data.get("layer_macs", {}))
    final = final_of(data)
    before = data.get("compacted_from", "rotated")
    candidates = [final["key"], final.get("same_cost_as")] if final is not None else []
    after = next((key for key in (*candidates, "compact") if key in known and key != before), None)
    return (before, str(after)) if before in known and after is not None else None
