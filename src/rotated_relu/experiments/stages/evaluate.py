"""Accuracy of a run's networks on its splits, kept in ``evaluation.json``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...core import messages
from ...core.errors import UnknownNameError
from ...core.messages import Say
from ...core.run_directory import Run, read_json, write_json
from ..run_networks import RunNetworks

if TYPE_CHECKING:
    from torch import nn

SPLITS = ("validation", "test")


@dataclass(frozen=True)
class Accuracy:
    """What :func:`evaluate_run` found.

    Attributes:
        weights: ``trained``, ``compact`` or ``finetuned``.
        split: ``validation`` or ``test``.
        percent: The accuracy.
    """

    weights: str
    split: str
    percent: float


def evaluate_run(
    loaded: RunNetworks, weights: str | None = None, split: str = "validation", *, say: Say = messages.say
) -> Accuracy:
    """Evaluate a network of a run and add the result to ``evaluation.json``: {"trained": {"test": 91.2}}, percent.

    Args:
        loaded: The run; one that may only be read is evaluated all the same, and nothing is kept.
        weights: ``trained``, ``compact`` or ``finetuned``; the furthest there is if None.
        split: ``validation`` or ``test``.
        say: Called if the result is not kept.

    Raises:
        UnknownNameError: If there is no such split or choice of weights.
        RunError: If the run is in use, or those weights have not been written yet.
    """
    if split not in SPLITS:
        raise UnknownNameError("split", split, SPLITS)
    if loaded.run.is_writable():
        # Not while another verb replaces what is read here, nor another evaluation adds its result.
        with loaded.run.claimed():
            weights = weights or loaded.newest()
            return Accuracy(weights, split, keep_accuracy(loaded, weights, loaded.network(weights), split))
    from ...training import evaluate_model

    weights = weights or loaded.newest()
    net = loaded.network(weights)
    say(f"{loaded.run.path} may only be read: the result is not kept")
    return Accuracy(weights, split, evaluate_model(net, getattr(loaded.images, split)))


def keep_accuracy(loaded: RunNetworks, key: str, net: nn.Module, split: str) -> float:
    """Evaluate any network on a split of a run and add the result to ``evaluation.json`` under a key."""
    from ...training import evaluate_model

    accuracy = evaluate_model(net, getattr(loaded.images, split))
    known = kept_accuracies(loaded.run)
    known.setdefault(key, {})[split] = accuracy
    # In one order, whichever came first: a run that was stopped and went on has the same file.
    ordered = {name: dict(sorted(splits.items())) for name, splits in sorted(known.items())}
    write_json(loaded.run.file("evaluation"), ordered)
    return accuracy


def kept_accuracies(run: Run) -> dict[str, dict[str, float]]:
    """What ``evaluation.json`` holds: key, split, percent; nothing if there is none."""
    path = run.file("evaluation")
    known: dict[str, dict[str, float]] = (
        read_json(path, dict[str, dict[str, float]]) if path.is_file() else {}
    )
    return known
