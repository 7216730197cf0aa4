"""Which channels of which tensors are the same channel: union-find, knowing no operation.

A *channel* here is a position along one dimension of one tensor; every dimension of every tensor has its own. Two
channels that have to stay or go together are merged: the classes that follow are the *channel groups*. A channel that
has to stay is fixed, with the reason, and fixes its whole group.

Let ~ be the smallest equivalence that holds all merges. Removing a set of whole groups, none of them fixed, then
leaves every pair of merged dimensions equal in size and in order: who merges channels as his operation connects them,
and fixes those whose number is written into it, can run the operation unchanged on the narrower tensors.

Merges are collected first and solved once as connected components: a network of 100 layers has some 10^6 channels,
for which a loop in Python would take longer than the rest of a compaction.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import scipy.sparse
from scipy.sparse.csgraph import connected_components

Ids = np.ndarray[Any, np.dtype[np.int64]]


class ChannelGroups:
    """Channels and their groups.

    Attributes:
        sizes: Shape of each tensor, by the key under which it was added.
        group_of: Group of each channel, after :meth:`solve`.
        fixed: For each group that has to stay, the reason that was given first.
        fixed_by: For each such group, what gave that reason (an operation, or None).
    """

    def __init__(self) -> None:
        self.sizes: dict[Hashable, tuple[int, ...]] = {}
        self.group_of: Ids = np.zeros(0, np.int64)
        self.fixed: dict[int, str] = {}
        self.fixed_by: dict[int, Any] = {}
        self._first: dict[Hashable, list[int]] = {}
        self._count = 0
        self._merges: list[tuple[Ids, Ids]] = []
        self._fixes: list[tuple[Ids, str, Any]] = []

    def add(self, key: Hashable, shape: Sequence[int]) -> None:
        """Give a tensor its channels, along all of its dimensions."""
        self.sizes[key] = tuple(shape)
        self._first[key] = []
        for size in shape:
            self._first[key].append(self._count)
            self._count += size

    def rank(self, key: Hashable) -> int:
        """Number of dimensions of a tensor."""
        return len(self.sizes[key])

    def channels(self, key: Hashable, dim: int) -> Ids:
        """Channels along one dimension of a tensor."""
        dim %= len(self.sizes[key])
        start = self._first[key][dim]
        return np.arange(start, start + self.sizes[key][dim], dtype=np.int64)

    def merge(self, one: Ids, other: Ids) -> None:
        """Declare channels pairwise the same."""
        self._merges.append((one, other))

    def fix(self, channels: Ids, reason: str, by: Any = None) -> None:
        """Declare that these channels have to stay."""
        self._fixes.append((channels, reason, by))

    def solve(self) -> None:
        """Find the groups, and which of them are fixed."""
        rows = np.concatenate([one for one, _ in self._merges]) if self._merges else np.zeros(0, np.int64)
        columns = np.concatenate([other for _, other in self._merges]) if self._merges else rows
        edges = (np.ones(len(rows), np.int8), (rows, columns))
        matrix = scipy.sparse.coo_matrix(edges, shape=(self._count, self._count))
        _, labels = connected_components(matrix, directed=False)
        self.group_of = labels.astype(np.int64)
        for channels, reason, by in self._fixes:
            for group in np.unique(self.group_of[channels]).tolist():
                if group not in self.fixed:  # the first reason is the one nearest to the input
                    self.fixed[group], self.fixed_by[group] = reason, by

    def along(self, key: Hashable, dim: int) -> Ids:
        """Group of each position along one dimension of a tensor."""
        return self.group_of[self.channels(key, dim)]
