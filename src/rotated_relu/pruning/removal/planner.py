"""Liveness and wires in, a plan out.

A class of channels stays if it is alive somewhere, or pinned. Each layer then reads and writes only what its own
non-zero, relevant weights need; where that is less than the tensor has, the layer gets a gather or a scatter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Node

from ...graph.capture import Graph
from ...graph.channel_rules import Wires, build
from ...graph.layers import Layer, as_list, find_layers
from ...graph.liveness import Liveness
from ...graph.splits import Split, find_splits
from .grouped import Packing, packing
from .plan import Cut, Held, Index, LayerPlan, Plan, RegionPlan, SplitPlan

Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass
class _Choice:
    """Wires, and which of their classes stay."""

    graph: Graph
    wires: Wires
    alive: Mask
    keep: Mask

    def kept(self, key: Any, dim: int) -> Mask:
        """Which positions along a dimension stay."""
        result: Mask = self.keep[self.wires.along(key, dim)]
        return result


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
    layers = find_layers(graph, model)
    packings = {
        layer.name: packed
        for layer in layers
        if layer.kind == "grouped" and (packed := packing(layer, liveness, states)) is not None
    }
    for layer in layers:
        layer.packed = layer.name in packings
    splits = find_splits(graph, model)
    regions: dict[str, str] = {}
    refused: set[str] = set()
    while True:
        choice = _choose(graph, liveness, build(graph, layers, regions, plan.frozen, splits), layers)
        crossed = {key for key in regions if len(_narrow_dims(choice, key)) > 1}
        more = _regions_worth(choice, model, {*regions, *refused})
        if not more and not crossed:
            break
        refused |= crossed
        regions = {key: path for key, path in {**regions, **more}.items() if key not in refused}
    if plan.round_to > 1:
        _round_widths(choice, layers, plan.round_to)
        _level_norms(choice, layers)
    owned: set[str] = set()
    for layer in layers:
        owned.update(f"{layer.name}.{name}" for name, _ in _own_states(layer.module))
        _decide_layer(choice, layer, liveness, states, plan, packings.get(layer.name))
    _decide_loose(choice, owned, plan)
    _decide_regions(choice, regions, plan)
    _decide_splits(choice, splits.values(), plan)
    plan.held = _held(choice, layers)
    plan.unhandled = dict(liveness.unhandled)
    return plan


def _own_states(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


def _channel_states(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Those of a layer's parameters and buffers that hold one entry, or one row, per channel."""
    return [
        (name, value)
        for name, value in _own_states(module)
        if value.dim() and name not in ("read_index", "write_index")
    ]


# --- which classes stay --------------------------------------------------------------------------------------------


def _choose(graph: Graph, liveness: Liveness, wires: Wires, layers: list[Layer]) -> _Choice:
    alive = np.zeros(int(wires.labels.max(initial=-1)) + 1, dtype=bool)
    for node, vectors in liveness.alive.items():
        if node in wires.sizes:
            for dim, vector in enumerate(vectors):
                alive[wires.along(node, dim)[vector.numpy()]] = True
    for layer in layers:
        for source in {layer.source(call) for call in layer.calls} & graph.states.keys():
            _mark_state(source, graph, liveness, wires, alive)
        if layer.kind == "norm":  # a norm can only write what it has parameters for
            for call in layer.calls:
                alive[wires.along(layer.source(call), 1)[liveness.alive[call][1].numpy()]] = True
    keep = alive.copy()
    keep[list(wires.pinned)] = True
    for node in wires.sizes:
        for dim in range(wires.rank(node)):
            labels = wires.along(node, dim)
            if len(labels) and not keep[labels].any():
                keep[labels[0]] = True  # a tensor keeps at least one channel: engines dislike empty ones
    return _Choice(graph, wires, alive, keep)


def _mark_state(source: Node, graph: Graph, liveness: Liveness, wires: Wires, alive: Mask) -> None:
    """A layer that reads a parameter or buffer (a table of coordinates): what it needs of it is alive."""
    relevant = liveness.relevant.get(graph.states[source])
    for dim in range(wires.rank(source)):
        labels = wires.along(source, dim)
        others = [other for other in range(wires.rank(source)) if other != dim]
        read = np.ones(len(labels), bool) if relevant is None else (relevant.sum(others) > 0).numpy()
        alive[labels[read]] = True


def _regions_worth(choice: _Choice, model: nn.Module, known: set[str]) -> dict[str, str]:
    """Parameter-free modules whose code pins channels that are dead: they become full-width regions."""
    wires = choice.wires
    dead = {label for label in wires.pinned if not choice.alive[label]}
    culprits = {wires.pinned_by[label] for label in dead} - {None}
    found: dict[str, str] = {}
    for node in culprits:
        assert node is not None
        for key, (path, _) in reversed((node.meta.get("nn_module_stack") or {}).items()):
            if not path or _has_state(model.get_submodule(path)):
                break
            if key not in known and _one_way(choice.graph, key):
                found[key] = path
                break
    return found


def _has_state(module: nn.Module) -> bool:
    return any(True for _ in module.parameters()) or any(True for _ in module.buffers())


def _inside(graph: Graph, key: str) -> list[Node]:
    return [node for node in graph.nodes if key in (node.meta.get("nn_module_stack") or {})]


def _one_way(graph: Graph, key: str) -> bool:
    """One tensor in, one out, called once, so that adapters around the module are enough."""
    nodes = _inside(graph, key)
    inside = set(nodes)
    sources = {source for node in nodes for source in node.all_input_nodes if source not in inside}
    exits = [n for n in nodes if n in graph.outputs or any(user not in inside for user in n.users)]
    base = key.split("@")[0]
    again = any(
        other != key and other.split("@")[0] == base
        for node in graph.nodes
        for other in (node.meta.get("nn_module_stack") or {})
    )
    single = len(exits) == 1 and not any(user in inside for user in exits[0].users)
    return not again and single and len(sources & graph.varying) == 1 and sources <= graph.varying


def _round_widths(choice: _Choice, layers: list[Layer], round_to: int) -> None:
    """Keep a few dead classes where that makes the width of a layer's tensor a multiple of ``round_to``."""
    for layer in layers:
        for call in layer.calls:
            for key in (call, layer.source(call)):
                labels = choice.wires.along(key, layer.channel_dim)
                count = int(choice.keep[labels].sum())
                short = min(-count % round_to, len(labels) - count)
                if short and len(np.unique(labels)) == len(labels):
                    choice.keep[labels[~choice.keep[labels]][:short]] = True


def _level_norms(choice: _Choice, layers: list[Layer]) -> None:
    """A norm that would write into a tensor at most twice as wide works at that tensor's width: no scatter."""
    for layer in layers:
        for call in layer.calls if layer.kind == "norm" else []:
            inside, outside = choice.kept(layer.source(call), 1), choice.kept(call, 1)
            if 2 * inside.sum() >= outside.sum():
                choice.keep[choice.wires.along(layer.source(call), 1)[outside]] = True


# --- layers --------------------------------------------------------------------------------------------------------


def _decide_layer(
    choice: _Choice,
    layer: Layer,
    liveness: Liveness,
    states: Mapping[str, Tensor],
    plan: Plan,
    packed: Packing | None,
) -> None:
    call = layer.calls[0]
    dim = layer.channel_dim
    kept_in, kept_out = choice.kept(layer.source(call), dim), choice.kept(call, dim)
    if layer.kind == "norm":
        entry = _norm_plan(layer, kept_in, kept_out)
        _cut_states(plan, layer, {0: kept_out})
    elif packed is not None:
        entry = _packed_plan(layer, kept_in, kept_out, packed)
        _cut_packed(plan, layer, packed)
    elif layer.kind == "grouped":
        entry = _grouped_plan(layer, kept_in, kept_out)
        _cut_states(plan, layer, {0: kept_out})
    else:
        entry = _layer_plan(layer, liveness, states, kept_in, kept_out, plan)
    changed = entry.inputs[0] != entry.inputs[1] or entry.outputs[0] != entry.outputs[1]
    if changed or entry.read is not None or entry.write is not None or entry.void:
        plan.layers.append(entry)


def _entry(layer: Layer, kept_in: Mask, kept_out: Mask) -> LayerPlan:
    return LayerPlan(
        layer.name,
        next(c.__name__ for c in type(layer.module).__mro__ if not c.__name__.startswith("Narrow")),
        [len(kept_in), int(kept_in.sum())],
        [len(kept_out), int(kept_out.sum())],
        layer.channel_dim,
        groups=[layer.groups, layer.groups],
    )


def _norm_plan(layer: Layer, kept_in: Mask, kept_out: Mask) -> LayerPlan:
    """A norm works at the width that it writes."""
    entry = _entry(layer, kept_out, kept_out)
    if not np.array_equal(kept_in, kept_out):
        entry.read = _positions(kept_in, kept_out)
    return entry


def _packed_plan(layer: Layer, kept_in: Mask, kept_out: Mask, packed: Packing) -> LayerPlan:
    entry = _entry(layer, kept_in, kept_out)
    entry.inputs[1], entry.outputs[1] = len(packed.inputs), len(packed.rows)
    entry.groups[1] = len(packed.columns)
    entry.read = _where(np.flatnonzero(kept_in).tolist(), packed.inputs)
    entry.write = _where(packed.rows, np.flatnonzero(kept_out).tolist())
    return entry


def _grouped_plan(layer: Layer, kept_in: Mask, kept_out: Mask) -> LayerPlan:
    entry = _entry(layer, kept_in, kept_out)
    entry.groups = [layer.groups, int(kept_in.reshape(layer.groups, -1)[:, 0].sum())]
    return entry


def _layer_plan(
    layer: Layer,
    liveness: Liveness,
    states: Mapping[str, Tensor],
    kept_in: Mask,
    kept_out: Mask,
    plan: Plan,
) -> LayerPlan:
    """A convolution or linear layer: the rectangle of its live inputs and outputs, and its adapters."""
    used_in, used_out = _used(layer, liveness, states)
    if layer.inner:
        used_in[:] = used_in.any()
    out_dim, in_dim = layer.weight_dims
    if not used_in.any() or not used_out.any():
        nothing = np.zeros_like(kept_in)
        entry = _entry(layer, nothing, kept_out)
        entry.void = int(kept_out.sum())
        _cut_states(plan, layer, {out_dim: kept_out, in_dim: nothing}, bias=kept_out)
        return entry
    used_out = _grown(used_out, kept_out, plan.round_to)
    if not layer.inner:
        used_in = _grown(used_in, kept_in, plan.round_to)
    entry = _entry(layer, used_in, used_out)
    if not np.array_equal(used_in, kept_in):
        entry.read = _positions(kept_in, used_in)
    if not np.array_equal(used_out, kept_out):
        entry.write = _positions(used_out, kept_out)
    _cut_states(plan, layer, {out_dim: used_out, in_dim: used_in}, bias=used_out)
    return entry


def _used(layer: Layer, liveness: Liveness, states: Mapping[str, Tensor]) -> tuple[Mask, Mask]:
    """Input and output channels with at least one weight that is relevant and not zero."""
    matters = liveness.needed(f"{layer.name}.weight", states)
    out_dim, in_dim = layer.weight_dims

    def along(dim: int) -> Mask:
        others = [other for other in range(matters.dim()) if other != dim]
        result: Mask = matters.sum(others).numpy() > 0
        return result

    used_in, used_out = along(in_dim), along(out_dim)
    bias = f"{layer.name}.bias"
    if bias in states:
        used_out = used_out | liveness.needed(bias, states).numpy()
    return used_in, used_out


def _grown(used: Mask, kept: Mask, round_to: int) -> Mask:
    """Add channels of the tensor until the count is a multiple of ``round_to`` (dead channels are exact).

    With rounding, speed counts: a layer that needs half of its tensor or more takes all of it, since a gather or
    scatter copies the tensor (and makes engines with blocked layouts convert it twice).
    """
    extra = -int(used.sum()) % round_to
    if round_to > 1 and 2 * (used.sum() + extra) >= kept.sum():
        return kept
    spare = np.flatnonzero(kept & ~used)[:extra]
    grown = used.copy()
    grown[spare] = True
    return grown


def _positions(inside: Mask, wanted: Mask) -> list[int]:
    """For each wanted channel its position among those ``inside``, or -1."""
    rank = np.cumsum(inside) - 1
    return [int(rank[channel]) if inside[channel] else -1 for channel in np.flatnonzero(wanted)]


def _where(inside: list[int], wanted: list[int]) -> Index:
    """For each wanted channel its position in ``inside``, or -1; None if that is all of it in order."""
    place = {channel: position for position, channel in enumerate(inside)}
    found = [place.get(channel, -1) for channel in wanted]
    return None if found == list(range(len(inside))) else found


def _cut_packed(plan: Plan, layer: Layer, packed: Packing) -> None:
    for name, value in _channel_states(layer.module):
        keep: list[Index | list[list[int]]] = [packed.rows]
        if name == "weight":
            keep.append(packed.columns)
        plan.cuts.append(Cut(f"{layer.name}.{name}", list(value.shape), keep))


def _cut_states(plan: Plan, layer: Layer, weight: dict[int, Mask], bias: Mask | None = None) -> None:
    """Cut the weight by the given masks and every other vector of the layer by the mask of its outputs."""
    for name, value in _channel_states(layer.module):
        if name == "weight":
            masks = [weight.get(dim) for dim in range(value.dim())]
        else:
            masks = [bias if bias is not None else weight[0]]
        _add_cut(plan, f"{layer.name}.{name}", value.shape, masks)


def _add_cut(plan: Plan, name: str, shape: torch.Size, masks: list[Mask | None]) -> None:
    keep: list[Index | list[list[int]]] = [
        None if mask is None or mask.all() else as_list(np.flatnonzero(mask)) for mask in masks
    ]
    if any(index is not None for index in keep):
        plan.cuts.append(Cut(name, list(shape), keep))


# --- everything else -----------------------------------------------------------------------------------------------


def _decide_loose(choice: _Choice, owned: set[str], plan: Plan) -> None:
    """Parameters outside the layers (slopes, scales) follow the wires that they are on."""
    for placeholder, name in choice.graph.states.items():
        if name in owned or not placeholder.users or placeholder not in choice.wires.sizes:
            continue
        shape = placeholder.meta["val"].shape
        _add_cut(plan, name, shape, [choice.kept(placeholder, dim) for dim in range(len(shape))])


def _decide_regions(choice: _Choice, regions: dict[str, str], plan: Plan) -> None:
    for key, path in regions.items():
        source, leaves = _ends(choice.graph, key)
        for dim in _narrow_dims(choice, key):
            kept, kept_out = choice.kept(source, dim), choice.kept(leaves, dim)
            widen = None if kept.all() else _positions(kept, np.ones_like(kept))
            narrow = None if kept_out.all() else as_list(np.flatnonzero(kept_out))
            plan.regions.append(RegionPlan(path, dim, widen, narrow, int(kept.sum())))


def _decide_splits(choice: _Choice, splits: Iterable[Split], plan: Plan) -> None:
    for split in splits:
        kept = choice.kept(split.source, split.dim)
        after = [int(kept[part].sum()) for part in split.ranges]
        if after != list(split.sizes):
            plan.splits.append(SplitPlan(split.name, split.attribute, list(split.sizes), after))


def _ends(graph: Graph, key: str) -> tuple[Node, Node]:
    """The tensor that enters a region and the one that leaves it."""
    nodes = _inside(graph, key)
    inside = set(nodes)
    source = next(s for n in nodes for s in n.all_input_nodes if s not in inside and s in graph.varying)
    leaves = next(n for n in nodes if n in graph.outputs or any(user not in inside for user in n.users))
    return source, leaves


def _narrow_dims(choice: _Choice, key: str) -> set[int]:
    """Dimensions along which a region's input or output is narrow; its adapters work along one."""
    return {
        dim
        for node in _ends(choice.graph, key)
        for dim in range(choice.wires.rank(node))
        if not choice.kept(node, dim).all()
    }


def _held(choice: _Choice, layers: list[Layer]) -> list[Held]:
    """Dead output channels that stay, per layer and reason."""
    held = []
    for layer in layers:
        if layer.kind == "norm":
            continue
        labels = choice.wires.along(layer.calls[0], layer.channel_dim)
        dead = labels[choice.keep[labels] & ~choice.alive[labels]]
        for reason, channels in Counter(_reason(choice, int(label)) for label in dead).items():
            held.append(Held(layer.name, channels, reason))
    return held


def _reason(choice: _Choice, label: int) -> str:
    pinned = choice.wires.pinned.get(label)
    return f"width fixed by {pinned}" if pinned else "width rounded up, or the last channel of a tensor"
