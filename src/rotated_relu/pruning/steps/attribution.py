r"""Which positions of which tensors live and die with which bundle, from a few liveness analyses for all of them.

Every bundle gets a code word of n bits, half of them 1, and no two the same. In the b-th analysis all bundles whose bit
b is 1 are dead at once, and every position of every tensor shows a word of its own: the analyses in which it was dead.

- A position that dies with one bundle alone shows that bundle's word.
- One that dies when several bundles are dead shows the AND of their words, one that dies with any of several the OR.
  Different words with equally many ones are an antichain: an AND has fewer ones, an OR has more, so neither is taken
  for a single bundle.
- One that shows no 1 stays alive whatever goes.

Bundles of one axis get words in pairs, a word and its complement, so that no axis is ever dead as a whole: what a whole
axis takes along is another question (:mod:`.reach`). n bits tell C(n, n / 2) bundles apart: 16 analyses are enough for
the 11,456 of a ResNet-50.

Requires: axes of at least two bundles. Ensures: what is said of a position has held in all n analyses; positions that
follow no single bundle are counted as alive, which overestimates what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from ...graph.liveness import Liveness
from .coupling import Axis

Alive = np.ndarray[Any, np.dtype[np.bool_]]
Words = np.ndarray[Any, np.dtype[np.int64]]
Dead = Mapping[str, Tensor]
# A dimension of a tensor: of a node's result, or of a parameter by name.
Place = tuple[Node | str, int]


@dataclass(frozen=True)
class Width:
    """How many positions of a place are alive: ``fixed + sum(per[axis] * bundles left)``.

    Attributes:
        full: With nothing gone.
        fixed: Those that follow no axis.
        per: Index of an axis to positions per bundle.
    """

    full: int
    fixed: float
    per: Mapping[int, float]

    def at(self, counts: Sequence[int]) -> int:
        """Positions alive with so many bundles left of each axis."""
        return round(self.fixed + sum(each * counts[axis] for axis, each in self.per.items()))


@dataclass(frozen=True)
class Attribution:
    """What the analyses have shown.

    Attributes:
        widths: Of each place that the analyses have seen.
        alive: Positions of each place that are alive with nothing gone.
        words: Bits of each place's positions, as in the module's text.
        codes: Words of each axis's bundles.
    """

    widths: Mapping[Place, Width]
    alive: Mapping[Place, Alive]
    words: Mapping[Place, Words]
    codes: Sequence[Words]


def attribute(
    axes: Sequence[Axis],
    analyse: Callable[[Dead], Liveness],
    sizes: Mapping[str, int],
    states: Mapping[str, Tensor] | None = None,
) -> Attribution:
    """Find what every position follows.

    Args:
        axes: Of the network.
        analyse: Liveness with those at 0.
        sizes: Number of channels of each slope.
        states: Parameters whose entries are looked at too, along their first two dimensions; as they are in the
            analysis just made.
    """
    codes, bits = _codes([len(axis) for axis in axes])
    whole = _alive(analyse({}), states)
    words: dict[Place, Words] = {place: np.zeros(len(vector), np.int64) for place, vector in whole.items()}
    for bit in range(bits):
        now = _alive(analyse(_dead(axes, codes, bit, sizes)), states)
        for place, vector in whole.items():
            words[place] |= (vector & ~now[place]).astype(np.int64) << bit
    owner = _Owner(codes)
    widths = {place: owner.width(word, whole[place]) for place, word in words.items()}
    return Attribution(widths, whole, words, codes)


def _codes(lengths: Sequence[int]) -> tuple[list[Words], int]:
    """Words for each axis's bundles, and their number of bits."""
    pairs = sum(-(-length // 2) for length in lengths)
    bits = next(bits for bits in range(2, 62, 2) if comb(bits, bits // 2) >= 2 * pairs)
    full = (1 << bits) - 1
    # The words without the highest bit, and their complements, are all words once.
    halves = (sum(1 << bit for bit in chosen) for chosen in combinations(range(bits - 1), bits // 2))
    codes = []
    for length in lengths:
        words = [word for _ in range(-(-length // 2)) for word in _pair(next(halves), full)]
        codes.append(np.array(words[:length], np.int64))
    return codes, bits


def _pair(word: int, full: int) -> tuple[int, int]:
    return word, full ^ word


def _dead(axes: Sequence[Axis], codes: Sequence[Words], bit: int, sizes: Mapping[str, int]) -> Dead:
    dead = {name: torch.zeros(size, dtype=torch.bool) for name, size in sizes.items()}
    for axis, words in zip(axes, codes, strict=True):
        for index in np.flatnonzero(words >> bit & 1).tolist():
            for name, position in axis.bundles[index]:
                dead[name][position] = True
    return dead


def _alive(liveness: Liveness, states: Mapping[str, Tensor] | None) -> dict[Place, Alive]:
    found: dict[Place, Any] = {
        (node, dim): vector.numpy()
        for node, vectors in liveness.alive.items()
        for dim, vector in enumerate(vectors)
    }
    for name in states or ():
        needed = liveness.needed(name, states or {})
        for dim in range(min(2, needed.dim())):
            others = [other for other in range(needed.dim()) if other != dim]
            found[name, dim] = (needed.any(dim=others) if others else needed).numpy()
    return found


class _Owner:
    """Reads words as bundles."""

    def __init__(self, codes: Sequence[Words]) -> None:
        words = np.concatenate(codes) if codes else np.zeros(0, np.int64)
        axes = (
            np.concatenate([np.full(len(own), index) for index, own in enumerate(codes)]) if codes else words
        )
        order = np.argsort(words)
        self.words, self.axes = words[order], axes[order]
        self.lengths = [len(own) for own in codes]

    def width(self, words: Words, alive: Alive) -> Width:
        """Of a place whose positions show these words."""
        if not words.any():
            return Width(int(alive.sum()), int(alive.sum()), {})
        at = np.searchsorted(self.words, words).clip(max=max(0, len(self.words) - 1))
        known = alive & (self.words[at] == words)
        owners, positions = np.unique(self.axes[at[known]], return_counts=True)
        per = {
            int(axis): int(many) / self.lengths[axis] for axis, many in zip(owners, positions, strict=True)
        }
        return Width(int(alive.sum()), float((alive & ~known).sum()), per)
