"""Turn the data of a report into one HTML file that needs no network."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ... import __version__
from ...core.errors import UnknownNameError
from ...core.extras import needs
from ...core.run_directory import replacing
from . import tables, words
from .figures import figures
from .figures.spec import Figure
from .schema import ReportData


def build(data: ReportData, path: str | os.PathLike[str]) -> Path:
    """Write a report.

    Args:
        data: See :class:`ReportData`; what is missing is left out, and said to be missing where it helps.
        path: The ``.html`` file.

    Returns:
        The path.

    Raises:
        UnknownNameError: If the data has a part that reports do not know.
        RunError: If the file cannot be written.
    """
    return _written(render(data), Path(path))


def write_page(template: str, path: Path, figures: Mapping[str, Figure], **parts: Any) -> Path:
    """Write a page of another template than that of a run's report.

    Args:
        template: Its file in the package.
        path: The ``.html`` file.
        figures: By key.
        **parts: What else the template shows.

    Raises:
        RunError: If the file cannot be written.
    """
    return _written(_page(template, figures, **parts), path)


def _written(text: str, path: Path) -> Path:
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")
    return path


def render(data: ReportData) -> str:
    """The report as a string of HTML."""
    for part in data:
        if part not in ReportData.__annotations__:
            raise UnknownNameError("part of a report", part, ReportData.__annotations__)
    drawn = figures(data)
    return _page(
        "report.html.j2",
        drawn,
        title=data.get("title", "Report"),
        verdict=words.verdict(data),
        lead=words.lead(data),
        tiles=tables.tiles(data),
        networks=tables.networks(data),
        counts=tables.counts(data),
        held=tables.held(data),
        certificate=tables.certificate(data),
        attack=tables.attack(data),
        made=tables.made(data),
        program=data.get("program"),
        missing=tables.missing(data, drawn),
    )


def _page(template: str, drawn: Mapping[str, Figure], **parts: Any) -> str:
    needs("jinja2", "plotly")
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("rotated_relu.experiments.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        **parts,
        figures=drawn,
        specifications=_script_json({key: _specification(figure) for key, figure in drawn.items()}),
        plotly=get_plotlyjs(),
        version=__version__,
    )


def _specification(figure: Figure) -> dict[str, Any]:
    return {"height": figure.height, **figure.spec}


def _script_json(value: Any) -> str:
    """JSON that can stand inside a script element: no NaN, and nothing that closes the element."""
    return json.dumps(_finite(value), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return value
