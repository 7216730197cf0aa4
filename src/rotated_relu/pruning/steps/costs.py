"""What is left to pay, as a sum of terms that each depend on a few axes: the full count, without an analysis each time.

A term is the cost of one operation (or parameter) as a function of some widths; widths follow from how many bundles of
each axis are left (:mod:`.attribution`), and an idle operation costs nothing (:mod:`.reach`). So a change
along one axis concerns the terms on that axis alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch.fx import Node

from .attribution import Width
from .reach import Reach


@dataclass
class Term:
    """The cost of something.

    Attributes:
        owners: What has this cost: nothing is to be paid once all of them are idle. Always paid if there are none.
        widths: What it depends on.
        cost: Of those widths, in order.
        stairs: For each width where the cost may fall: the ends of the blocks that are paid as one, ascending.
    """

    owners: tuple[Node, ...]
    widths: tuple[Width, ...]
    cost: Callable[[Sequence[int]], float]
    stairs: tuple[Sequence[int], ...] = ()
    _known: dict[tuple[int, ...], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.axes = tuple(sorted({axis for width in self.widths for axis in width.per}))

    def at(self, counts: Sequence[int]) -> float:
        """With so many bundles left of each axis."""
        key = tuple(counts[axis] for axis in self.axes)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = float(self.cost([width.at(counts) for width in self.widths]))
        return found

    def ends(self, axis: int, bundles: int) -> set[int]:
        """Numbers of an axis's bundles, of so many in all, that fill up a block of some width."""
        found: set[int] = set()
        for width, stairs in zip(self.widths, self.stairs, strict=True):
            each = width.per.get(axis)
            if each:
                others = width.full - each * bundles  # as they are in the whole network
                found.update(int((end - others) // each) for end in stairs)
        return {count for count in found if 0 < count < bundles}

    def paid(self, idle: frozenset[Node]) -> bool:
        """Whether one of its owners is at work."""
        return not (idle and self.owners and all(node in idle for node in self.owners))


class StepCosts:
    """The cost of a network as a function of how many bundles are left of each axis.

    Args:
        terms: That make up the cost.
        reach: What whole axes take along.

    Attributes:
        terms: Those.
        neighbours: Axes that share a term with each axis, itself included.
    """

    def __init__(self, terms: Iterable[Term], reach: Reach) -> None:
        self._reach = reach
        self.terms = list(terms)
        self.neighbours: dict[int, set[int]] = defaultdict(set)
        self._on: dict[int, list[Term]] = defaultdict(list)
        self._owned: dict[Node, list[Term]] = defaultdict(list)
        for term in self.terms:
            for node in term.owners:
                self._owned[node].append(term)
            for axis in term.axes:
                self._on[axis].append(term)
                self.neighbours[axis].update(term.axes)

    def on(self, axis: int) -> list[Term]:
        """Terms that depend on an axis."""
        return self._on.get(axis, [])

    def total(self, counts: Sequence[int]) -> float:
        """Cost with so many bundles left of each axis."""
        idle = self._idle(counts)
        return sum(term.at(counts) for term in self.terms if term.paid(idle))

    def saved(self, counts: Sequence[int], changes: Mapping[int, int]) -> float:
        """By how much the cost falls if some axes come down to fewer bundles (or rises, with more of them)."""
        after = list(counts)
        for axis, count in changes.items():
            after[axis] = count
        touched = {id(term): term for axis in changes for term in self.on(axis)}
        before = now = self._idle(counts)
        if any((counts[axis] == 0) != (count == 0) for axis, count in changes.items()):
            now = self._idle(after)
            for node in before ^ now:
                touched.update((id(term), term) for term in self._owned.get(node, ()))
        return sum(
            (term.at(counts) if term.paid(before) else 0.0) - (term.at(after) if term.paid(now) else 0.0)
            for term in touched.values()
        )

    def connected(self, counts: Sequence[int]) -> bool:
        """Whether a way still leads from the inputs to the output."""
        return self._reach.connected(_gone(counts))

    def _idle(self, counts: Sequence[int]) -> frozenset[Node]:
        return self._reach.idle(_gone(counts))


def _gone(counts: Sequence[int]) -> frozenset[int]:
    return frozenset(axis for axis, count in enumerate(counts) if count == 0)
