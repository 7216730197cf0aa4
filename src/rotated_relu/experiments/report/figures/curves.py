"""The training, epoch by epoch."""

from __future__ import annotations

from ..schema import CurvePart, ReportData
from .spec import Figure, Spec, colour, line, spec_of, stacked

SPLITS = (("validation", "solid", 2.2), ("train", "dot", 1.4))  # with dash and width of the line
QUANTITIES = (("accuracy", "y"), ("loss", "y2"))


def curves_figure(data: ReportData) -> Figure | None:
    """Accuracy and loss over the epochs, one colour per network."""
    curves = data.get("curves", [])
    traces = [trace for curve in curves for trace in _traces(curve)]
    if not traces:
        return None
    layout = stacked("accuracy, %", "loss")
    layout["xaxis"]["title"] = {"text": "epoch"}
    caption = "Solid: validation images, held out of the training set. Dotted: training images, as augmented."
    alt = f"Accuracy and loss over the epochs for {', '.join(curve['label'] for curve in curves)}."
    return Figure("curves", "Training", caption, alt, 480, spec_of(traces, layout))


def _traces(curve: CurvePart) -> list[Spec]:
    """Up to four lines: each quantity on each split."""
    traces = []
    for split, dash, width in SPLITS:
        for quantity, axis in QUANTITIES:
            points = _points(curve, f"{split}_{quantity}")
            if points:
                name = f"{curve['label']}, {'training' if split == 'train' else split}"
                hover = "%{y:.2f} %" if quantity == "accuracy" else "%{y:.4f}"
                epochs, values = zip(*points, strict=True)
                trace = line(
                    epochs, values, name, colour(curve["key"]), hover, axis, markers=len(points) == 1
                )
                trace["line"] |= {"dash": dash, "width": width}
                traces.append(trace | {"legendgroup": name, "showlegend": quantity == "accuracy"})
    return traces


def _points(curve: CurvePart, column: str) -> list[tuple[float, float]]:
    """Epochs, from 1, and values."""
    return [(row["epoch"] + 1, row[column]) for row in curve["rows"] if column in row and "epoch" in row]
