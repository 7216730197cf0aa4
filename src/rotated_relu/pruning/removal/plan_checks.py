"""Whether the numbers of a plan can be true, before anything is cut: a file may hold anything.

Requires: a plan whose fields have the right types. Ensures: every index is within its tensor, no width is larger than
the tensors of the plan's own network, which the model is compared with; or an error that names the entry.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from ...core.errors import PlanError
from .plan import Cut, LayerPlan, Plan, RegionPlan

MOST_DIMENSIONS = 16


def check_numbers(plan: Plan) -> None:
    """Raise unless all positions and sizes of a plan are possible.

    Raises:
        PlanError: Names the first entry that is not.
    """
    for name, shape in plan.states.items():
        _need(all(size >= 0 for size in shape), f"the shape of {name}", shape)
    largest = max(map(math.prod, plan.states.values()), default=0)
    for cut in plan.cuts:
        _check_cut(cut, plan)
    for layer in plan.layers:
        _check_layer(layer, largest)
    for region in plan.regions:
        _check_region(region, largest)
    for earlier in plan.earlier:
        check_numbers(earlier)


def _check_cut(cut: Cut, plan: Plan) -> None:
    where = f"the cut of {cut.name}"
    _need(plan.states.get(cut.name) == cut.shape, f"the shape in {where}", cut.shape)
    _need(len(cut.keep) <= len(cut.shape), where, f"positions for {len(cut.keep)} dimensions")
    for size, keep in zip(cut.shape, cut.keep, strict=False):
        for block in _blocks(keep):
            _need(
                len(set(block)) == len(block) and _within(block, 0, size),
                where,
                "positions outside the tensor",
            )


def _blocks(keep: Any) -> list[list[int]]:
    """Kept positions, for each group of a grouped convolution."""
    if keep is None:
        return []
    return keep if keep and isinstance(keep[0], list) else [keep]


def _check_layer(layer: LayerPlan, most: int) -> None:
    where = f"the layer {layer.name}"
    for widths in (layer.inputs, layer.outputs, layer.groups):
        _need(len(widths) == 2 and 0 <= widths[1] <= widths[0] <= most, where, f"widths {widths}")
    _need(0 <= layer.void <= most, where, f"a width of {layer.void}")
    _need(abs(layer.dim) <= MOST_DIMENSIONS, where, f"dimension {layer.dim}")
    own = max(layer.inputs[1], layer.outputs[1])
    for index, high in ((layer.read, most), (layer.write, own)):
        _need(index is None or (index and _within(index, -1, high)), where, "positions outside the tensor")


def _check_region(region: RegionPlan, most: int) -> None:
    where = f"the region {region.name}"
    _need(region.name, where, "no name")
    _need(0 <= region.width <= most, where, f"a width of {region.width}")
    _need(abs(region.dim) <= MOST_DIMENSIONS, where, f"dimension {region.dim}")
    for index in (region.widen, region.narrow):
        _need(index is None or _within(index, -1, most), where, "positions outside the tensor")


def _within(index: Iterable[int], low: int, high: int) -> bool:
    return all(low <= position < high for position in index)


def _need(holds: object, where: str, got: Any) -> None:
    if not holds:
        raise PlanError(f"the plan is damaged: {where} has {got}")
