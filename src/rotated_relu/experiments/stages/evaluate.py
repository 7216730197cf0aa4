"""Accuracy of a run's networks on its splits, kept in ``evaluation.json``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...core.errors import UnknownNameError
from ...core.run_directory import Run, read_json, write_json
from ..run_networks import RunNetworks

if TYPE_CHECKING:
    from torch import nn

SPLITS = ("validation", "test")


def evaluate_run(loaded: RunNetworks, weights: str, split: str) -> float:
    """Evaluate and add the result to ``evaluation.json``: {"trained": {"test": 91.2, ...}, ...}, percent.

    Raises:
        UnknownNameError: If there is no such split or choice of weights.
    """
    if split not in SPLITS:
        raise UnknownNameError("split", split, SPLITS)
    return keep_accuracy(loaded, weights, loaded.network(weights), split)


def keep_accuracy(loaded: RunNetworks, key: str, net: nn.Module, split: str) -> float:
    """Evaluate any network on a split of a run and add the result to ``evaluation.json`` under a key."""
    from ...training import evaluate_model

    accuracy = evaluate_model(net, getattr(loaded.images, split))
    known = kept_accuracies(loaded.run)
    known.setdefault(key, {})[split] = accuracy
    write_json(loaded.run.file("evaluation"), known)
    return accuracy


def kept_accuracies(run: Run) -> dict[str, dict[str, float]]:
    """What ``evaluation.json`` holds: key, split, percent; nothing if there is none."""
    path = run.file("evaluation")
    known: dict[str, dict[str, float]] = read_json(path) if path.is_file() else {}
    return known


def forget_accuracies(run: Run, key: str) -> None:
    """Drop from ``evaluation.json`` what belongs to weights that are about to be replaced."""
    known = kept_accuracies(run)
    if known.pop(key, None) is not None:
        write_json(run.file("evaluation"), known)
