"""Liveness and channel groups in, a plan out: everything is decided here, nothing is changed.

1. Layers are found, and which grouped convolutions are worth packing.
2. Groups are chosen (:mod:`.kept_groups`). Modules without parameters that fix dead channels become regions at full
   width, and groups are chosen again: a region frees channels, which may show the next one. This ends, because each
   round adds a region or refuses one for good.
3. Each layer, each other parameter, each region and each split gets its share of the plan, and what is dead and stays
   its reason (:mod:`.unprunable`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn
from torch.fx import Node

from ...graph.capture import Graph
from ...graph.channel_rules.grouping import group_channels
from ...graph.layers import Layer, Names, find_layers
from ...graph.liveness import Liveness
from ...graph.splits import Split, find_splits
from .grouped import Packing, packing
from .kept_groups import KeptGroups, choose, level_norms, round_widths
from .layer_plans import cut_state, layer_states, plan_layer
from .plan import Plan, SplitPlan
from .regions import narrow_dims, region_plans, worthwhile_regions
from .unprunable import unprunable


def decide(
    graph: Graph, liveness: Liveness, states: Mapping[str, Tensor], model: nn.Module, plan: Plan
) -> Plan:
    """Fill a plan's layers, cuts, regions and held channels; returns the same plan.

    Args:
        graph: The captured model.
        liveness: What its output depends on.
        states: Its parameters and buffers by qualified name.
        model: The model, for its modules; it is only read.
        plan: With threshold, ``round_to`` and shapes filled in.
    """
    # A linear layer with views around it has widths in its code, so that it may be at fault itself.
    layers = [
        layer
        for layer in find_layers(graph, model)
        if not (layer.name in plan.frozen and layer.kind == "linear" and layer.inputs_first)
    ]
    packings = _packings(layers, liveness, states)
    splits = find_splits(graph, model)
    choice, regions = _settle(graph, liveness, layers, splits, model, plan)
    # After the regions: rounding keeps groups, and would hide what a region can free.
    if plan.round_to > 1:
        round_widths(choice, layers, plan.round_to)
        level_norms(choice, layers)
    for layer in layers:
        plan_layer(choice, layer, liveness, states, plan, packings.get(layer.name))
    _plan_other_states(choice, layers, Names(model), plan)
    plan.regions += region_plans(choice, regions)
    plan.splits += _split_plans(choice, splits.values())
    plan.held = unprunable(choice, layers, liveness, model)
    plan.unhandled = dict(liveness.unhandled)
    plan.failed_rules = dict(liveness.failures)
    return plan


def _packings(
    layers: Iterable[Layer], liveness: Liveness, states: Mapping[str, Tensor]
) -> dict[str, Packing]:
    """Grouped convolutions that are worth packing; they are marked, since their groups are not tied then."""
    found = {}
    for layer in layers:
        if layer.kind == "grouped" and not layer.inputs_first and layer.weight_norm is None:
            packed = packing(layer, liveness, states)
            if packed is not None:
                found[layer.name] = packed
                layer.packed = True
    return found


def _settle(
    graph: Graph,
    liveness: Liveness,
    layers: list[Layer],
    splits: Mapping[Node, Split],
    model: nn.Module,
    plan: Plan,
) -> tuple[KeptGroups, dict[str, str]]:
    """Choose groups and regions in turn until no region is added or given up."""
    regions: dict[str, str] = {}
    refused: set[str] = set()
    while True:
        groups = group_channels(graph, layers, regions, plan.frozen, splits, liveness.failures)
        choice = choose(graph, liveness, groups, layers)
        # A region narrow along two dimensions would need two pairs of adapters; it is given up.
        crossed = {key for key in regions if len(narrow_dims(choice, key)) > 1}
        more = worthwhile_regions(choice, model, {*regions, *refused})
        if not more and not crossed:
            return choice, regions
        refused |= crossed
        regions = {key: path for key, path in {**regions, **more}.items() if key not in refused}


def _plan_other_states(choice: KeptGroups, layers: Iterable[Layer], names: Names, plan: Plan) -> None:
    """Parameters outside the layers (slopes, scales, shared weights) follow the groups that they are on."""
    done = {f"{layer.name}.{name}" for layer in layers for name in layer_states(layer)}
    for placeholder, state in choice.graph.states.items():
        name = names.of_state(state)
        # A tensor with several names is one tensor, cut once.
        if name in done or not placeholder.users or placeholder not in choice.groups.sizes:
            continue
        shape = placeholder.meta["val"].shape
        cut_state(plan, state, shape, [choice.kept(placeholder, dim) for dim in range(len(shape))])
        done.add(name)


def _split_plans(choice: KeptGroups, splits: Iterable[Split]) -> list[SplitPlan]:
    plans = []
    for split in splits:
        # A part that is dead as a whole keeps one channel, so no size comes down to 0.
        kept = choice.kept(split.source, split.dim)
        after = [int(kept[part].sum()) for part in split.ranges]
        if after != list(split.sizes):
            plans.append(SplitPlan(split.name, split.attribute, list(split.sizes), after))
    return plans
