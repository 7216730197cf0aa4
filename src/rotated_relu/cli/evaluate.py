"""``rotated-relu evaluate``: accuracy of a run's network on a split."""

from __future__ import annotations

from typing import Annotated

import typer

from ..experiments.run_networks import open_run
from ..experiments.stages.evaluate import evaluate_run
from . import console
from .options import RunPath, Weights

EXAMPLE = "rotated-relu evaluate runs/first --weights compact --split test"


def evaluate(
    run: RunPath,
    weights: Weights = None,
    split: Annotated[
        str, typer.Option(metavar="validation|test", help="Choose on validation; read test once, at the end.")
    ] = "validation",
) -> None:
    """Accuracy of a run's network, in percent; kept in evaluation.json."""
    loaded = open_run(run)
    found = evaluate_run(loaded, weights, split)
    console.show(f"{run}: {found.weights} network, {found.split} accuracy {console.percent(found.percent)}")
    console.show_next(loaded)
