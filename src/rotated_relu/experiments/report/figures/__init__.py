"""Figures of a report, one file each; :mod:`.spec` has what they are made of."""

from ..schema import ReportData
from .alive import alive_figure
from .curves import curves_figure
from .latency import latency_figure
from .layer_latency import layer_latency_figure
from .layers import layers_figure
from .paths import paths_figure
from .slopes import slopes_figure
from .spec import Figure
from .threshold import threshold_figure


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
        layer_latency_figure(data),
    )
    return {figure.key: figure for figure in made if figure is not None}
