"""Grouped convolutions whose groups are partly dead.

A grouped convolution computes all its groups at one width. A whole group can always go. Within the groups that are
left, inputs and outputs can shrink to those of the widest group: each group reads its live inputs and writes its live
outputs, and smaller groups are filled up with channels of their own that were dead. The weights then are a *packing*:
rows of the old weight, and for each group its own columns.

Whether that pays depends on the widths: 32 groups of 4 nearly always have one that is full, 16 groups of 128 never.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ...graph.layers import Layer, as_list
from ...graph.liveness import Liveness

Mask = np.ndarray[Any, np.dtype[np.bool_]]

# Packing costs a gather and a scatter, so it has to save at least a quarter of the convolution.
WORTH = 0.75


@dataclass(frozen=True)
class Packing:
    """Which weights of a grouped convolution stay.

    Attributes:
        rows: Output channels that it computes, group by group.
        columns: For each surviving group the positions of its inputs within the group.
        inputs: Channels of its input that it reads, group by group.
    """

    rows: list[int]
    columns: list[list[int]]
    inputs: list[int]


def packing(layer: Layer, liveness: Liveness, states: Mapping[str, Tensor]) -> Packing | None:
    """The packing of a grouped convolution, or None where whole groups are as good."""
    # Per output and input: does any position of the kernel matter?
    entries = liveness.needed(f"{layer.name}.weight", states).flatten(2)
    matters: Mask = (entries.sum(2) > 0).numpy()
    outputs, per_group = matters.shape
    if per_group == 1 or outputs == layer.groups:
        return None
    blocks = matters.reshape(layer.groups, -1, per_group)
    used_in = np.any(blocks, axis=1)
    if layer.standardised:  # the weight's statistics take all inputs of a group
        used_in = np.broadcast_to(used_in.any(1, keepdims=True), used_in.shape)
    used_out = np.any(blocks, axis=2) | _live_bias(layer, liveness, states)
    # A group lives if it reads or writes anything that matters; one with a live bias alone still writes.
    live = np.flatnonzero(np.any(used_in, axis=1) | np.any(used_out, axis=1))
    if not len(live):
        return None
    # All groups have one width: that of the fullest.
    width_in = max(1, int(used_in[live].sum(1).max()))
    width_out = max(1, int(used_out[live].sum(1).max()))
    if width_in * width_out > WORTH * blocks[0].size:
        return None
    columns = [_filled(used_in[group], width_in) for group in live]
    rows = [_filled(used_out[group], width_out) for group in live]
    return Packing(
        [int(group) * blocks.shape[1] + row for group, own in zip(live, rows, strict=True) for row in own],
        columns,
        [int(group) * per_group + column for group, own in zip(live, columns, strict=True) for column in own],
    )


def _live_bias(layer: Layer, liveness: Liveness, states: Mapping[str, Tensor]) -> Mask:
    name = f"{layer.name}.bias"
    if name not in states:
        return np.zeros((layer.groups, 1), dtype=bool)
    live: Mask = liveness.needed(name, states).numpy()
    return live.reshape(layer.groups, -1)


def _filled(used: Mask, width: int) -> list[int]:
    """Positions that are used, and enough of the others to make ``width``, in order."""
    spare = np.flatnonzero(~used)[: width - int(used.sum())]
    return as_list(np.sort(np.concatenate([np.flatnonzero(used), spare])))
