"""``rotated-relu recipes``: the training settings that come with the package."""

from __future__ import annotations

from . import console

EXAMPLE = "rotated-relu recipes"


def recipes() -> None:
    """List the recipes: named training settings for train."""
    from ..training.recipes import about, get, names

    rows = []
    for name in names():
        config = get(name)
        rows.append((name, config.model.name, config.data.name, str(config.epochs), about(name)))
    console.show(console.table("Recipes", ("name", "network", "images", "epochs", "what for"), rows))
    console.show("Use one with: rotated-relu train NAME --out runs/NAME")
