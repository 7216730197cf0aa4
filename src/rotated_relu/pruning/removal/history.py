"""What was done to a network before: the plans that were carried out on it, oldest first.

A network that is compacted twice is loaded by carrying out both plans on a fresh original. The plans travel with the
module as a plain attribute: not in the state dict, but through ``copy.deepcopy`` and pickling.
"""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from .plan import Plan

_NAME = "rotated_relu_plans"


class _Plans(tuple[Plan, ...]):
    """Plans are not changed once they have been carried out, so copies of a model share them."""

    __slots__ = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Plans:
        return self


def earlier_plans(model: nn.Module) -> list[Plan]:
    """Plans that were carried out on a model, oldest first; empty for an original."""
    # Copying a GraphModule keeps its meta, but none of its other attributes.
    found = model.meta.get(_NAME, ()) if isinstance(model, fx.GraphModule) else model.__dict__.get(_NAME, ())
    return list(found)


def remember(model: nn.Module, plan: Plan) -> None:
    """Note that a plan was carried out."""
    plans = _Plans([*earlier_plans(model), plan])
    if isinstance(model, fx.GraphModule):
        model.meta[_NAME] = plans
    else:
        model.__dict__[_NAME] = plans
