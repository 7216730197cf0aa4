"""Train into a run directory, or go on with what was stopped there; settings from recipe, file, run and overrides."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core import messages
from ...core.environment import environment
from ...core.errors import RunError
from ...core.messages import Say
from ...core.run_directory import Run, is_first_process, process_count, read_json, write_json
from .calibrate import TableChoice, speedup_budget

if TYPE_CHECKING:
    from ...training import Config

NO_PENALTY = {"slope_l1": 0.0, "total_shrinkage": 0.0, "budget.keep": 1.0}


def override(config: Config, changes: dict[str, Any]) -> Config:
    """A configuration with some settings replaced, checked as a whole.

    Args:
        config: The start.
        changes: Dotted names to values. Turning slopes off turns off what is about them. A folder of images is kept by
            its absolute path.
    """
    from ...training.data.sources import resolved

    if changes.get("model.rotated") is False:
        changes = {**NO_PENALTY, "trains": "all", **changes}
    if changes.get("total_shrinkage"):
        changes = {"slope_l1": 0.0, **changes}  # the same in another unit
    if "model.name" in changes and changes["model.name"] != config.model.name:
        # The options belong to the other network's builder.
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, options={}))
    if "data.name" in changes:
        changes = {**changes, "data.name": resolved(changes["data.name"])}
    data = config.to_dict()
    for name, value in changes.items():
        *parents, leaf = name.split(".")
        table = data
        for parent in parents:
            table = table[parent]
        table[leaf] = value
    return type(config).from_dict(data)


def settings(recipe: str | None, file: Path | None, out: Path, given: dict[str, Any]) -> Config:
    """The settings of a training: those of a recipe, a file, the run to resume, or the defaults, with some replaced.

    Args:
        recipe: Name of a recipe, or None.
        file: JSON file of settings, or None.
        out: The run directory; its own settings are taken where neither is given.
        given: Dotted names to values, as for :func:`override`.

    Raises:
        RunError: If both a recipe and a file are given, or there is nothing to begin with.
    """
    return override(_start(recipe, file, out, given), given)


def with_speedup(
    config: Config, out: Path, speedup: float, engine: str, batch_size: int, say: Say = messages.say
) -> Config:
    """The same settings with a budget of latency, in place of what they say about MACs.

    Args:
        config: Of a training with slopes; ``budget.table`` names the times, or they are measured.
        out: The run directory, which is made, and in which the table is kept.
        speedup: How many times faster the network is to be, at least 1.
        engine: In what, where the times are measured.
        batch_size: At which batch size, likewise.
        say: Called with what is about to be done.

    Raises:
        ArgumentError: If the speed-up is below 1.
        RunError: If ``out`` holds a run that was not trained for one; or times are to be measured by several processes.
        UnknownNameError, MissingPackageError: If there is no such engine, or it is not installed.
        LatencyError: If the network has operations that cannot be measured, or the table lacks a layer.
    """
    import torch

    from ...training import build_model, load_data

    run = Run.create(out)
    if run.has("config") and not run.has("latency"):
        raise RunError(f"{out} holds a run that was trained for no speed-up; choose another directory")
    choice = TableChoice(config.budget.table, engine, batch_size)
    if choice.file is None and not run.has("latency") and process_count() > 1:
        raise RunError(
            f"{process_count()} processes cannot measure times: each would slow the others down. Start the same "
            "command once without torchrun until it trains, then stop it with Ctrl-C (the times are kept); or give "
            "--latency-table"
        )
    images = load_data(config)
    net = build_model(config, images)
    budget = speedup_budget(net, torch.zeros(1, *images.image_shape), run, speedup, choice, say)
    return override(config, {f"budget.{name}": value for name, value in budget.items()})


def _start(recipe: str | None, file: Path | None, out: Path, given: dict[str, Any]) -> Config:
    """The settings to begin with."""
    from ...training import Config
    from ...training.recipes import get

    if recipe is not None and file is not None:
        raise RunError("give either a recipe or --config, not both")
    if recipe is not None:
        return get(recipe)
    if file is not None:
        return Config.from_dict(read_json(file))
    if Run(out).has("config"):
        return Config.from_dict(read_json(Run(out).file("config")))
    if {"model.name", "data.name"} <= given.keys():
        return Config()
    raise RunError(
        f"nothing to train: {out} holds no run to resume; give a recipe (see: rotated-relu recipes), "
        "--config FILE, or both --model and --data"
    )


def profile_run(config: Config, out: Path, device: str = "auto") -> dict[str, Any]:
    """Time some steps and write where the time goes into ``profile.json``; the run itself is not touched.

    Returns:
        See :func:`rotated_relu.training.profile.profile`.
    """
    from ...training import load_data
    from ...training.profile import profile

    run = Run.create(out)
    found = profile(config, load_data(config), device)
    if is_first_process():
        write_json(run.file("profile"), {**found, "environment": environment()})
    return found
