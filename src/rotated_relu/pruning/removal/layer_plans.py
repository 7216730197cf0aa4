"""Each layer's share of a plan: which of its weights stay, and how it reads and writes its tensors.

A layer computes the rectangle of inputs and outputs that have at least one weight that is relevant and not zero. Its
tensors may be wider, since a group stays where any of its channels is alive. Let T be the kept channels of a tensor and
U those that the layer uses: if U = T nothing is needed, else the layer reads through a gather (positions of U in T) or
writes through a scatter (for each channel of T its position in U, or zero).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ...graph.layers import Layer, as_list
from ...graph.liveness import Liveness
from .grouped import Packing
from .kept_groups import KeptGroups, Mask, reads_something
from .plan import Cut, Index, LayerPlan, Plan


def plan_layer(
    choice: KeptGroups,
    layer: Layer,
    liveness: Liveness,
    states: Mapping[str, Tensor],
    plan: Plan,
    packed: Packing | None,
) -> None:
    """Add one layer's entry and cuts to a plan; nothing if it stays as it is."""
    call, dim = layer.calls[0], layer.channel_dim
    kept_in = choice.kept(call.source, dim)
    kept_out = kept_in if layer.kind == "recurrent" else choice.kept(call.result, dim)
    # Kinds differ in which of their channels depend on each other, and so in what may be left out.
    if layer.kind == "norm":
        entry = _norm(layer, liveness, kept_in, kept_out)
        cut_states(plan, layer, {0: kept_out}, kept_out)
    elif layer.kind == "recurrent":
        entry = _recurrent(layer, liveness, states, kept_in, plan)
    elif packed is not None:
        entry = _packed(layer, kept_in, kept_out, packed)
        _cut_packed(plan, layer, packed)
    elif layer.kind == "grouped":
        entry = _entry(layer, kept_in, kept_out)
        entry.groups = [layer.groups, int(kept_in.reshape(layer.groups, -1)[:, 0].sum())]
        cut_states(plan, layer, {0: kept_in if layer.inputs_first else kept_out}, kept_out)
    else:
        entry = _rectangle(layer, liveness, states, kept_in, kept_out, plan)
    changed = entry.inputs[0] != entry.inputs[1] or entry.outputs[0] != entry.outputs[1]
    if changed or entry.read is not None or entry.write is not None or entry.void:
        plan.layers.append(entry)


def own_states(module: nn.Module) -> list[tuple[str, Tensor]]:
    """A module's own parameters and buffers, without those of its children."""
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


def layer_states(layer: Layer) -> dict[str, Tensor]:
    """A layer's parameters and buffers by name within it, those behind a weight norm included."""
    found = dict(own_states(layer.module))
    if layer.weight_norm is not None:
        for name in (layer.weight_norm.gain, layer.weight_norm.direction):
            path, _, leaf = name.rpartition(".")
            found[name] = getattr(layer.module.get_submodule(path), leaf)
    return found


def positions(inside: Mask, wanted: Mask) -> list[int]:
    """For each wanted channel its position among those ``inside``, or -1."""
    rank = np.cumsum(inside) - 1
    return [int(rank[channel]) if inside[channel] else -1 for channel in np.flatnonzero(wanted)]


# --- one function per kind of layer --------------------------------------------------------------------------------


def _entry(layer: Layer, kept_in: Mask, kept_out: Mask) -> LayerPlan:
    return LayerPlan(
        layer.name,
        next(c.__name__ for c in type(layer.module).__mro__ if not c.__name__.startswith("Narrow")),
        [len(kept_in), int(kept_in.sum())],
        [len(kept_out), int(kept_out.sum())],
        layer.channel_dim,
        groups=[layer.groups, layer.groups],
    )


def _norm(layer: Layer, liveness: Liveness, kept_in: Mask, kept_out: Mask) -> LayerPlan:
    """A norm works at the width that it writes."""
    entry = _entry(layer, kept_out, kept_out)
    if not np.array_equal(kept_in, kept_out):
        # Channels that the norm writes but does not get are zeros in its input: -1. If all that it gets is zeros that
        # were kept for a tensor to have a channel, it reads none of them, and writes a constant.
        gets = kept_in if any(reads_something(call, liveness) for call in layer.calls) else kept_in & False
        entry.read = positions(gets, kept_out)
    return entry


def _recurrent(
    layer: Layer, liveness: Liveness, states: Mapping[str, Tensor], kept_in: Mask, plan: Plan
) -> LayerPlan:
    """The columns of the first layer's input weights, in each direction; all outputs stay."""
    module = layer.module
    assert isinstance(module, nn.RNNBase)
    names = ["weight_ih_l0", "weight_ih_l0_reverse"][: 2 if module.bidirectional else 1]
    # Both directions read the same tensor: a feature goes if neither needs it.
    used = np.zeros_like(kept_in)
    for name in names:
        used |= liveness.needed(f"{layer.name}.{name}", states).sum(0).numpy() > 0
    if not used.any():
        used[np.flatnonzero(kept_in)[0]] = True  # a recurrent layer needs one input
    used = _grown(used, kept_in, plan.round_to)
    everything = np.ones(module.hidden_size * (2 if module.bidirectional else 1), dtype=bool)
    entry = _entry(layer, used, everything)
    if not np.array_equal(used, kept_in):
        entry.read = positions(kept_in, used)
    for name in names:
        _add_cut(plan, f"{layer.name}.{name}", states[f"{layer.name}.{name}"].shape, [None, used])
    return entry


def _packed(layer: Layer, kept_in: Mask, kept_out: Mask, packed: Packing) -> LayerPlan:
    entry = _entry(layer, kept_in, kept_out)
    entry.inputs[1], entry.outputs[1] = len(packed.inputs), len(packed.rows)
    entry.groups[1] = len(packed.columns)
    entry.read = _where(np.flatnonzero(kept_in).tolist(), packed.inputs)
    entry.write = _where(packed.rows, np.flatnonzero(kept_out).tolist())
    return entry


def _rectangle(
    layer: Layer,
    liveness: Liveness,
    states: Mapping[str, Tensor],
    kept_in: Mask,
    kept_out: Mask,
    plan: Plan,
) -> LayerPlan:
    """A convolution or linear layer: its live inputs and outputs, and its adapters."""
    used_in, used_out = _used(layer, liveness, states)
    out_dim, in_dim = layer.weight_dims
    if not kept_out.size:  # it never computed anything: it takes its tensor as it comes
        entry = _entry(layer, kept_in, kept_out)
        cut_states(plan, layer, {in_dim: kept_in}, kept_out)
        return entry
    for dim, used in ((in_dim, used_in), (out_dim, used_out)):
        if dim in layer.whole_dims:
            used[:] = used.any()
    if not used_in.any() or not used_out.any():
        # No product is left, but the result is still wanted: zeros plus bias, made by the adapter.
        nothing = np.zeros_like(kept_in)
        entry = _entry(layer, nothing, kept_out)
        entry.void = int(kept_out.sum())
        cut_states(plan, layer, {out_dim: kept_out, in_dim: nothing}, kept_out)
        return entry
    # A side that stays whole needs no filling up.
    if out_dim not in layer.whole_dims:
        used_out = _grown(used_out, kept_out, plan.round_to)
    if in_dim not in layer.whole_dims:
        used_in = _grown(used_in, kept_in, plan.round_to)
    entry = _entry(layer, used_in, used_out)
    if not np.array_equal(used_in, kept_in):
        entry.read = positions(kept_in, used_in)
    if not np.array_equal(used_out, kept_out):
        entry.write = positions(used_out, kept_out)
    cut_states(plan, layer, {out_dim: used_out, in_dim: used_in}, used_out)
    return entry


def _used(layer: Layer, liveness: Liveness, states: Mapping[str, Tensor]) -> tuple[Mask, Mask]:
    """Input and output channels with at least one weight that is relevant and not zero."""
    out_dim, in_dim = layer.weight_dims
    if layer.weight_norm is None:
        matters = liveness.needed(f"{layer.name}.weight", states)
        along = [
            matters.sum([o for o in range(matters.dim()) if o != dim]) > 0 for dim in range(matters.dim())
        ]
    else:  # every entry of the direction matters to the norm; what matters to the layer is the weight
        along = liveness.alive[layer.weight_norm.node]
    used_in, used_out = along[in_dim].numpy(), along[out_dim].numpy()
    bias = f"{layer.name}.bias"
    if bias in states:
        # An output without weights is a constant, its bias; it cannot go while somebody reads it.
        used_out = used_out | liveness.needed(bias, states).numpy()
    return used_in.copy(), used_out.copy()


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


def _where(inside: list[int], wanted: list[int]) -> Index:
    """For each wanted channel its position in ``inside``, or -1; None if that is all of it in order."""
    place = {channel: position for position, channel in enumerate(inside)}
    found = [place.get(channel, -1) for channel in wanted]
    return None if found == list(range(len(inside))) else found


# --- cuts ----------------------------------------------------------------------------------------------------------


def cut_states(plan: Plan, layer: Layer, weight: Mapping[int, Mask], outputs: Mask) -> None:
    """Cut a layer's weight along the given dimensions, and every other tensor of it by the mask of its outputs."""
    norm = layer.weight_norm
    for name, value in layer_states(layer).items():
        if not value.dim() or name in ("read_index", "write_index"):
            continue
        if name == "weight" or (norm is not None and name == norm.direction):
            masks = [weight.get(dim) for dim in range(value.dim())]
        elif norm is not None and name == norm.gain:
            masks = [weight.get(dim) if dim == norm.dim else None for dim in range(value.dim())]
        else:
            # Biases, running statistics: one entry for each output.
            masks = [outputs]
        _add_cut(plan, f"{layer.name}.{name}", value.shape, masks)


def _cut_packed(plan: Plan, layer: Layer, packed: Packing) -> None:
    for name, value in layer_states(layer).items():
        if value.dim() and name not in ("read_index", "write_index"):
            keep: list[Index | list[list[int]]] = [packed.rows]
            if name == "weight":
                keep.append(packed.columns)
            plan.cuts.append(Cut(f"{layer.name}.{name}", list(value.shape), keep))


def cut_state(plan: Plan, name: str, shape: torch.Size, masks: list[Mask]) -> None:
    """Cut a parameter that belongs to no layer by one mask for each dimension."""
    _add_cut(plan, name, shape, [*masks])


def _add_cut(plan: Plan, name: str, shape: torch.Size, masks: list[Mask | None]) -> None:
    keep: list[Index | list[list[int]]] = [
        None if mask is None or mask.all() else as_list(np.flatnonzero(mask)) for mask in masks
    ]
    if any(index is not None for index in keep):
        plan.cuts.append(Cut(name, list(shape), keep))
