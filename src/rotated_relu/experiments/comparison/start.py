"""How all networks of a comparison train: a recipe's settings, or those of shrink for a network that was brought."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core.errors import RunError
from ...training import Config, load_data
from ...training.brought import known_preprocessing, parse
from ...training.recipes import get
from ..shrinking.settings import Shrinking, augmentation, training_config
from ..stages.train import override


def base_settings(
    recipe: str | None, weights: str | None, given: Mapping[str, Any]
) -> tuple[Config, str | None]:
    """Settings of all networks, and the place of the weights, the same from wherever it is continued.

    Args:
        recipe: Name of a recipe; None for a network that was brought takes what ``shrink`` would.
        weights: A file, or the name of published weights; None trains from scratch.
        given: Dotted names of settings to values.

    Raises:
        RunError: If there is neither a recipe nor a network with its images.
    """
    if recipe is None:
        return _as_shrink_does(weights, given)
    changes = dict(given)
    if "model.name" in changes:
        options = changes.get("model.options", {})
        changes["model.name"] = parse(changes["model.name"], options).name
    if "data.mean" in changes or "data.std" in changes:
        changes["data.normalisation"] = "given"
    return override(get(recipe), changes), None if weights is None else _located(weights)


def _as_shrink_does(weights: str | None, given: Mapping[str, Any]) -> tuple[Config, str]:
    if weights is None or not {"model.name", "data.name"} <= given.keys():
        raise RunError(
            "nothing to compare: give a recipe (see: rotated-relu recipes), or --weights, --model and --data"
        )
    wanted = Shrinking(
        given["model.name"],
        weights,
        given["data.name"],
        model_options=given.get("model.options", {}),
        mean=given.get("data.mean"),
        std=given.get("data.std"),
    ).located()
    wanted = dataclasses.replace(
        wanted,
        batch_size=given.get("batch_size", wanted.batch_size),
        epochs=given.get("epochs", wanted.epochs),
    )
    known = known_preprocessing(parse(wanted.model, wanted.model_options), wanted.weights)
    config = training_config(wanted, known)
    mine = {"distill.weight", "distill.temperature", "compile"}
    changes = {name: value for name, value in given.items() if name in mine}
    config = override(config, changes)
    return override(config, augmentation(wanted, load_data(config).image_shape)), wanted.weights


def _located(weights: str) -> str:
    return str(Path(weights).resolve()) if Path(weights).exists() else weights
