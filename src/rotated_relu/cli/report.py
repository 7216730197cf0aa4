"""``rotated-relu report``: everything that a run directory knows, on one page for people."""

from __future__ import annotations

from typing import Annotated

import typer

from ..experiments.report.collect import report_run
from ..experiments.run_networks import open_run
from . import console
from .options import RunPath

EXAMPLE = "rotated-relu report runs/first --against runs/first-relu"


def report(
    run: RunPath,
    against: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="A run to compare with, such as ReLU.", show_default=False),
    ] = None,
) -> None:
    """Write report.html: verdict, curves, slopes, filters alive, costs, attacks, what could not be removed and why.

    One self-contained file. What a run has not got yet is left out, with a hint which verb makes it.
    """
    path = report_run(open_run(run), None if against is None else open_run(against))
    console.show(f"open {path}")
