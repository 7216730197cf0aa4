"""``rotated-relu evaluate``: accuracy of a run's network on a split."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import UnknownNameError
from ..run import read_json, write_json
from . import console
from .networks import Loaded, open_run
from .options import RunPath, Weights

EXAMPLE = "rotated-relu evaluate runs/first --weights compact --split test"
SPLITS = ("validation", "test")


def evaluate(
    run: RunPath,
    weights: Weights = None,
    split: Annotated[
        str, typer.Option(metavar="validation|test", help="Choose on validation; read test once, at the end.")
    ] = "validation",
) -> None:
    """Accuracy of a run's network, in percent; kept in evaluation.json."""
    loaded = open_run(run)
    weights = weights or loaded.newest()
    accuracy = evaluate_run(loaded, weights, split)
    console.show(f"{run}: {weights} network, {split} accuracy {console.percent(accuracy)}")


def evaluate_run(loaded: Loaded, weights: str, split: str) -> float:
    """Evaluate and add the result to ``evaluation.json``: {"trained": {"test": 91.2, ...}, ...}, percent.

    Raises:
        UnknownNameError: If there is no such split or choice of weights.
    """
    from ..training import evaluate_model

    if split not in SPLITS:
        raise UnknownNameError("split", split, SPLITS)
    accuracy = evaluate_model(loaded.network(weights), getattr(loaded.images, split))
    path = loaded.run.file("evaluation")
    known = read_json(path) if path.is_file() else {}
    known.setdefault(weights, {})[split] = accuracy
    write_json(path, known)
    return accuracy
