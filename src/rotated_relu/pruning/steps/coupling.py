"""Which channels can only go together, so that what is left needs no gather: *bundles*, and the *axes* they lie on.

Where a tensor of the network is read by several layers, or written by several, compaction and the exported graph can
give each of them other channels, but pay for it: a module selects what it reads, and an exported addition, batch norm
or concatenation stays wide or selects (``deploy/passes/narrow_additions``, ``narrow_rules.norm``). So channels that lie
at one position of one tensor go together here:

- a residual stream: the activations behind all additions of a stage, and the rows of all layers that write to it;
- what several batch norms and activations read from one tensor (pre-activation networks, DenseNet's concatenations);
- the activations before and after a depthwise or grouped convolution, whole groups of it.

A branch's inner activation lies between two layers with weights of their own and is tied to nothing: its bundles are
single channels. Bundles that lie on the same tensors are interchangeable, and form an axis; how many of them are left
is all that the cost of the rest depends on.

Requires: a captured rotated network. Ensures: every channel with a slope is in one bundle, every bundle on one axis.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn

from ...graph.capture import Graph
from ...graph.channel_groups import ChannelGroups, Ids
from ...graph.channel_rules.grouping import group_channels
from ...graph.layers import Layer, find_layers
from ...graph.splits import find_splits

Channel = tuple[str, int]  # name of a slope, position
Bundle = tuple[Channel, ...]  # channels that go together


@dataclass(frozen=True)
class Axis:
    """Interchangeable bundles.

    Attributes:
        bundles: In the order of their first channels.
        slopes: Names of the slopes that have channels in them.
        groups: For each bundle the group of channels of the graph that it stands for.
    """

    bundles: tuple[Bundle, ...]
    slopes: tuple[str, ...]
    groups: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.bundles)

    @property
    def weight(self) -> int:
        """Channels of one tensor that go with one bundle: more than 1 for the groups of a grouped convolution."""
        return sum(name == self.slopes[0] for name, _ in self.bundles[0])


@dataclass(frozen=True)
class Coupling:
    """The axes of a network.

    Attributes:
        axes: Those of at least two bundles, in the order of the network's slopes.
        group_of: Group of each channel of the graph's tensors, norms passed through.
        channels: The channels of the graph's tensors.
    """

    axes: tuple[Axis, ...]
    group_of: Ids
    channels: ChannelGroups

    def along(self, key: Any, dim: int) -> Ids:
        """Group of each position along one dimension of a tensor."""
        return self.group_of[self.channels.channels(key, dim)]


def find_axes(graph: Graph, net: nn.Module, slopes: Mapping[str, Tensor]) -> Coupling:
    """Bundle the channels of a captured network.

    Args:
        graph: The captured network.
        net: The same network, for its modules; it is only read.
        slopes: Its slopes by name.
    """
    layers = find_layers(graph, net)
    channels = group_channels(graph, layers, {}, splits=find_splits(graph, net))
    group_of = _through_norms(channels, layers)
    members: dict[int, list[Channel]] = defaultdict(list)
    for placeholder, name in graph.states.items():
        if name in slopes:
            for index, group in enumerate(group_of[channels.channels(placeholder, 0)].tolist()):
                members[group].append((name, index))
    places = _places(channels, group_of)
    axes: dict[tuple[int, tuple[str, ...]], list[int]] = defaultdict(list)
    order = {name: position for position, name in enumerate(slopes)}
    for group, bundle in members.items():
        bundle.sort(key=lambda channel: (order[channel[0]], channel[1]))
        axes[int(places[group]), tuple(name for name, _ in bundle)].append(group)
    found = [_axis(groups, members) for groups in axes.values() if len(groups) > 1]
    found.sort(key=lambda axis: (order[axis.bundles[0][0][0]], axis.bundles[0][0][1]))
    return Coupling(tuple(found), group_of, channels)


def _axis(groups: list[int], members: Mapping[int, list[Channel]]) -> Axis:
    groups = sorted(groups, key=lambda group: members[group][0][1])
    bundles = tuple(tuple(members[group]) for group in groups)
    return Axis(bundles, tuple(dict.fromkeys(name for name, _ in bundles[0])), tuple(groups))


def _through_norms(channels: ChannelGroups, layers: Iterable[Layer]) -> Ids:
    """Groups in which a batch norm writes where it reads: where it need not, a selection stands in front of it."""
    ends = [
        (channels.along(call.source, 1), channels.along(call.result, 1))
        for layer in layers
        if layer.kind == "norm"
        for call in layer.calls
    ]
    if not ends:
        return channels.group_of
    rows, columns = (np.concatenate(side) for side in zip(*ends, strict=True))
    count = int(channels.group_of.max(initial=-1)) + 1
    edges = scipy.sparse.coo_matrix((np.ones(len(rows), np.int8), (rows, columns)), shape=(count, count))
    _, joined = connected_components(edges, directed=False)
    found: Ids = joined.astype(np.int64)[channels.group_of]
    return found


def _places(channels: ChannelGroups, group_of: Ids) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """A number for each group that says on which tensors it lies, equal for equal sets."""
    generator = np.random.default_rng(0)
    places = np.zeros(int(group_of.max(initial=-1)) + 1, np.uint64)
    for key, shape in channels.sizes.items():
        for dim in range(len(shape)):
            on_it = np.unique(group_of[channels.channels(key, dim)])
            places[on_it] += generator.integers(
                2**63, dtype=np.uint64
            )  # sums of random numbers: wraps around
    return places
