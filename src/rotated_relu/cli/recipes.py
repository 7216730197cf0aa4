"""``rotated-relu recipes``: the training settings that come with the package."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import console

if TYPE_CHECKING:
    from ..training.recipes import Recipe

EXAMPLE = "rotated-relu recipes resnet20_cifar10 > mine.json"


def recipes(
    name: Annotated[
        str | None,
        typer.Argument(help="Only this one: its settings as JSON, to change and pass to train --config."),
    ] = None,
) -> None:
    """List the recipes, named settings for train and reproduce, with what each is expected to cost.

    Core-hours are on CPU cores with bf16 instructions, GPU-hours on one data-centre GPU; both are estimates, and both
    fall in proportion with --epochs.
    """
    from ..training.recipes import find, get

    if name is None:
        _show_all()
        return
    console.say("\n".join(_lines(find(name))))
    console.show(json.dumps(get(name).to_dict(), indent=2))


def _show_all() -> None:
    from ..training.recipes import ROWS, SHORT

    for title, group in (("The paper's networks", ROWS), ("Short ones of ours", SHORT)):
        console.show(console.table(title, ("name", "epochs", "expected cost", "what for"), map(_row, group)))
    console.show(
        "Each of the paper's is there three times: NAME, NAME_l1 (with the L1 penalty on the slopes) and NAME_two_step "
        "(slopes train on random weights, filters go, then the weights train).\n"
        "Run a whole experiment with: rotated-relu reproduce NAME --out runs/NAME\n"
        "Only train with: rotated-relu train NAME --out runs/NAME"
    )


def _row(recipe: Recipe) -> tuple[Any, ...]:
    return recipe.name, str(recipe.build().epochs), recipe.cost.words(), recipe.about


def _lines(recipe: Recipe) -> list[str]:
    """What a recipe is for, its cost, and the paper's figures."""
    lines = [recipe.about, f"Expected cost: {recipe.cost.words()}."]
    published = recipe.published
    if published.threshold is not None:
        lines.append(f"The paper's threshold: {published.threshold:g}.")
    if published.memory_saved is not None and published.flops_saved is not None:
        saved = f"{published.memory_saved:g} % of the memory and {published.flops_saved:g} % of the FLOPs"
        lines.append(f"The paper saves {saved}, in its own count.")
    if recipe.two_step:
        lines.append("These are the settings of the first step; reproduce does both.")
    return [*lines, published.note] if published.note else lines
