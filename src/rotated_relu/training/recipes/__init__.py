"""Named training runs: each recipe is a function that returns a full configuration.

Every row of the paper has three: ``NAME``, ``NAME_l1`` (the published penalty on the slopes) and ``NAME_two_step``
(slopes train on random weights, filters go, then the weights of the others train).
"""

from __future__ import annotations

from ...core.errors import UnknownNameError
from ..config import Config
from .published import PUBLISHED, PUBLISHED_L1
from .recipe import Cost, Published, Recipe, in_two_steps, with_l1
from .short import SHORT
from .unpublished import UNPUBLISHED

__all__ = ["RECIPES", "ROWS", "SHORT", "Cost", "Published", "Recipe", "about", "find", "get", "names"]

ROWS: tuple[Recipe, ...] = (*PUBLISHED, *UNPUBLISHED)

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        *SHORT,
        *ROWS,
        *(with_l1(row, PUBLISHED_L1.get(row.name)) for row in ROWS),
        *map(in_two_steps, ROWS),
    )
}


def names() -> list[str]:
    """Names of all recipes, sorted."""
    return sorted(RECIPES)


def find(name: str) -> Recipe:
    """A recipe with its cost and the paper's figures.

    Raises:
        UnknownNameError: If there is none of that name; suggests the nearest.
    """
    if not isinstance(name, str) or name not in RECIPES:
        raise UnknownNameError("recipe", name, RECIPES)
    return RECIPES[name]


def get(name: str) -> Config:
    """The configuration of a recipe; of one in two steps, the first.

    Raises:
        UnknownNameError: If there is none of that name; suggests the nearest.
    """
    recipe = find(name)
    return recipe.first(recipe.build())


def about(name: str) -> str:
    """One line: what a recipe is for.

    Raises:
        UnknownNameError: If there is none of that name; suggests the nearest.
    """
    return find(name).about
