"""The two trainings, with the removal between them.

Requires: a run with its original. Ensures: ``compact.safetensors`` and ``metrics.csv``; the folders of the trainings,
from which a stopped run goes on, are gone when both are there.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...core.formatting import plural
from ...core.messages import Say
from ...core.run_directory import Run, read_metrics, replacing
from ..run_networks import RunNetworks
from ..stages.calibrate import TableChoice, speedup_budget
from .settings import CHOOSING, TRAINING_ON, Shrinking, budget_words, phases, settings_of

if TYPE_CHECKING:
    from torch import nn

    from ...pruning.removal import Compacted


def shrink_network(loaded: RunNetworks, device: str, progress: str, say: Say) -> None:
    """Choose, remove and train on; goes on where it was stopped."""
    from ...pruning.removal import save
    from ...training import finetune

    run, images = loaded.run, loaded.images
    asked = settings_of(run)
    original = loaded.network("trained")
    net = _with_slopes(original, loaded)
    budget = _budget(net, loaded, asked, say)
    choosing, training_on = phases(loaded.config, asked["keep"], asked["ema"], budget)
    target = budget_words(asked["keep"], asked["speedup"])
    say(f"choosing what goes: {plural(choosing.epochs, 'epoch')}, to {target}")
    teacher = teacher_of(loaded, original)
    finetune(net, choosing, images, run.path / CHOOSING, progress=progress, device=device, teacher=teacher)
    result = _compacted(net, loaded)
    small = result.model
    say(
        f"removed and verified: {100 * macs_share(small, original, loaded):.1f} % of the MACs are left, largest "
        f"relative difference {result.certificate.max_relative_difference:.2g}"
    )
    if training_on is not None:
        say(f"training the small network on: {plural(training_on.epochs, 'epoch')}")
        place = run.path / TRAINING_ON
        finetune(small, training_on, images, place, progress=progress, device=device, teacher=teacher)
    _join_metrics(run, training_on is not None)
    save(dataclasses.replace(result, model=small.eval()), run.file("compact"), metadata=loaded.metadata)


def _budget(net: nn.Module, loaded: RunNetworks, asked: dict[str, Any], say: Say) -> dict[str, Any]:
    """What else the budget is than a share of the multiply-accumulates: the steps, and milliseconds if asked for."""
    if asked["speedup"] is None:
        return {"round_to": asked["round_to"]}
    example, speedup, round_to = loaded.example_inputs(), asked["speedup"], asked["round_to"]
    milliseconds = speedup_budget(net, example, loaded.run, speedup, _choice(asked), say, round_to)
    return {"round_to": asked["round_to"], **milliseconds}


def _choice(asked: dict[str, Any]) -> TableChoice:
    return TableChoice(asked["latency_table"], asked["engine"], asked["engine_batch_size"])


def check_reachable(loaded: RunNetworks, wanted: Sequence[Shrinking], say: Say) -> None:
    """See that every budget can be met, before there is training for any.

    Raises:
        SlopeError: If one cannot; says what can.
    """
    from ...pruning.budget import SlopeBudget

    net, example = _with_slopes(loaded.network("trained"), loaded), loaded.example_inputs()
    for one in wanted:
        if one.speedup is None:
            SlopeBudget(net, example, 1, one.keep, round_to=one.round_to)
            continue
        # A table for each, right about its own budget; what is timed here is known when its run asks again.
        _choice(dataclasses.asdict(one)).for_budget(net, example, 1 / one.speedup, say, one.round_to)


def macs_share(small: nn.Module, whole: nn.Module, loaded: RunNetworks) -> float:
    """Multiply-accumulates of a network over those of another."""
    from ...core.counting import count_macs

    macs = [sum(count_macs(net, loaded.example_inputs()).values()) for net in (small, whole)]
    return macs[0] / macs[1]


def teacher_of(loaded: RunNetworks, original: nn.Module) -> nn.Module:
    """The network to learn from: the one that began it all where its weights are known, else the original."""
    from ...training.trained import stored_network

    if not loaded.run.has("teacher"):
        return original
    return stored_network(loaded.run.file("teacher"), loaded.run, loaded.config)


def _with_slopes(original: nn.Module, loaded: RunNetworks) -> nn.Module:
    """A copy with slopes of 1, or with those that it has: the same function."""
    from ...core.state import copy_of
    from ...nn.rotate import rotate
    from ...nn.slopes import slopes

    net = copy_of(original)
    return net if slopes(net) else rotate(net, loaded.example_inputs(), init="ones")


def _compacted(net: nn.Module, loaded: RunNetworks) -> Compacted:
    """Without what the slopes of exactly 0 make irrelevant."""
    from ...deploy.autotune import compact

    return compact(net, loaded.example_inputs(), threshold=0.0)


def _join_metrics(run: Run, two: bool) -> None:
    """One row per epoch of both trainings, numbered through."""
    rows: list[dict[str, float]] = []
    for folder in (CHOOSING, TRAINING_ON) if two else (CHOOSING,):
        rows += read_metrics(Run(run.path / folder).file("metrics"))
    names = list(dict.fromkeys(name for row in rows for name in row))
    with replacing(run.file("metrics")) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows({**row, "epoch": number} for number, row in enumerate(rows))
