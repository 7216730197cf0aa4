"""Which channel groups stay.

A group goes as a whole, from all its tensors at once. It stays if one of its channels is alive (may be non-zero, and
is read) or fixed. So what is dead in one tensor of a group and alive in another stays in both: the layers around it
then read and write less than their tensors have (:mod:`.layer_plans`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.fx import Node

from ...graph.capture import Graph
from ...graph.channel_groups import ChannelGroups
from ...graph.layers import Call, Layer
from ...graph.liveness import Liveness

Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass
class KeptGroups:
    """Channel groups, and which of them stay.

    Attributes:
        graph: The captured network.
        groups: Its channel groups.
        alive: For each group, whether one of its channels is alive.
        keep: For each group, whether it stays.
    """

    graph: Graph
    groups: ChannelGroups
    alive: Mask
    keep: Mask

    def kept(self, key: Node, dim: int) -> Mask:
        """Which positions along a dimension stay."""
        result: Mask = self.keep[self.groups.along(key, dim)]
        return result


def choose(graph: Graph, liveness: Liveness, groups: ChannelGroups, layers: Iterable[Layer]) -> KeptGroups:
    """Keep what is alive or fixed, and at least one channel of every tensor.

    Args:
        graph: The captured network.
        liveness: What its output depends on.
        groups: Its channel groups, solved.
        layers: Its layers.
    """
    alive = np.zeros(int(groups.group_of.max(initial=-1)) + 1, dtype=bool)
    for node, vectors in liveness.alive.items():
        if node in groups.sizes:
            for dim, vector in enumerate(vectors):
                alive[groups.along(node, dim)[vector.numpy()]] = True
    for layer in layers:
        # A layer may read a parameter directly, with no operation between.
        for source in {call.source for call in layer.calls} & graph.states.keys():
            _mark_state(source, graph, liveness, groups, alive)
        for call in layer.calls if layer.kind == "norm" else []:
            # What a norm writes it gets as well, which saves it a gather; of a tensor of zeros it writes a constant.
            if reads_something(call, liveness):
                alive[groups.along(call.source, 1)[liveness.alive[call.operation][1].numpy()]] = True
    # Dead and not fixed: the whole group can go.
    keep = alive.copy()
    keep[list(groups.fixed)] = True
    for key in groups.sizes:
        for dim in range(groups.rank(key)):
            own = groups.along(key, dim)
            if len(own) and not keep[own].any():
                keep[own[0]] = True  # a tensor keeps at least one channel: engines dislike empty ones
    return KeptGroups(graph, groups, alive, keep)


def reads_something(call: Call, liveness: Liveness) -> bool:
    """Whether anything in the tensor that a layer gets may be other than 0 and matters."""
    alive = liveness.alive.get(call.source)
    return alive is None or bool(alive[1].any())


def _mark_state(source: Node, graph: Graph, liveness: Liveness, groups: ChannelGroups, alive: Mask) -> None:
    """A layer that reads a parameter or buffer (a table of coordinates): what it needs of it is alive.

    Liveness follows operations; a parameter is none, so that its own channels are not among those it marks.
    """
    relevant = liveness.relevant.get(graph.states[source])
    for dim in range(groups.rank(source)):
        own = groups.along(source, dim)
        others = [other for other in range(groups.rank(source)) if other != dim]
        read = np.ones(len(own), bool) if relevant is None else (relevant.sum(others) > 0).numpy()
        alive[own[read]] = True


def round_widths(choice: KeptGroups, layers: Iterable[Layer], round_to: int) -> None:
    """Keep a few dead groups where that makes the width of a layer's tensor a multiple of ``round_to``.

    Only where every channel of the tensor is a group of its own: keeping one group then adds one channel. A tensor of
    which nothing is alive stays as narrow as it can be: its layers compute nothing.
    """
    for layer in layers:
        for call in layer.calls:
            ends = (call.source,) if layer.kind == "recurrent" else (call.result, call.source)
            for key in ends:
                own = choice.groups.along(key, layer.channel_dim)
                count = int(choice.keep[own].sum())
                short = min(-count % round_to, len(own) - count)
                # Dead channels are as good as any for filling up: they are 0, and stay exact.
                if short and choice.alive[own].any() and len(np.unique(own)) == len(own):
                    choice.keep[own[~choice.keep[own]][:short]] = True


def level_norms(choice: KeptGroups, layers: Iterable[Layer]) -> None:
    """A norm that would write into a tensor at most twice as wide works at that tensor's width: no scatter."""
    for layer in layers:
        for call in layer.calls if layer.kind == "norm" else []:
            inside, outside = choice.kept(call.source, 1), choice.kept(call.result, 1)
            own = choice.groups.along(call.source, 1)
            if choice.alive[own].any() and 2 * inside.sum() >= outside.sum():
                choice.keep[own[outside]] = True
