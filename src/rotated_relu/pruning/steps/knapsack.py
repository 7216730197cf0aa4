"""Fill a knapsack whose prices are a staircase: least importance lost for a cost at or below a target.

Each axis has levels, the numbers of bundles worth having, and goes down by its least important bundles. What a level
saves depends on the levels of the axes around it, so this is no knapsack of independent items and no linear program:

1. Greedy: the move with the least loss per cost saved goes first, over all levels of an axis at once and not the next
   one alone (*look-ahead* across plateaus), and where no single move saves anything, over pairs of neighbouring axes.
   What a move saves beyond the target does not count in a second run; the better result stays.
2. Every state on the way that one cheap move would complete is a candidate, too.
3. Polish: give back what the target leaves room for, most important first, then exchange: one move further down, and
   back up elsewhere, wherever that loses less. Last, whatever saves nothing comes back, between levels too.

Requires: levels that descend from where an axis is. Ensures: a state at or below the target whose last way through is
open, or the cheapest that the greedy order finds; nothing that can be given back within the target is gone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

State = tuple[int, ...]  # bundles left of each axis
AHEAD = 8  # levels to look ahead, besides the lowest
EXCHANGES = 1000  # exchanges tried at most, times the number of axes: what they bring shrinks with that
TINY = 1e-9  # of the whole cost: what rounding makes of nothing


class Costs(Protocol):
    """What a state costs; see :class:`.costs.StepCosts`."""

    @property
    def neighbours(self) -> Mapping[int, set[int]]:
        """Axes whose savings an axis changes."""
        ...

    def total(self, counts: Sequence[int]) -> float:
        """Cost of a state."""
        ...

    def saved(self, counts: Sequence[int], changes: Mapping[int, int]) -> float:
        """What some changes to a state save."""
        ...

    def connected(self, counts: Sequence[int]) -> bool:
        """Whether a state lets anything through."""
        ...


@dataclass(frozen=True)
class Levels:
    """One axis.

    Attributes:
        counts: Numbers of bundles worth having, descending from the present one.
        lost: Importance lost with each number of bundles left, from 0 of them to the present number.
    """

    counts: tuple[int, ...]
    lost: tuple[float, ...]


@dataclass(frozen=True)
class Move:
    """Axes to change, to how many bundles, what that saves and what it loses."""

    changes: Mapping[int, int]
    saved: float
    lost: float


class Knapsack:
    """One network's axes with their importance.

    Args:
        axes: Their levels.
        costs: What states cost.
    """

    def __init__(self, axes: Sequence[Levels], costs: Costs) -> None:
        self.axes, self.costs = axes, costs
        self.start: State = tuple(axis.counts[0] for axis in axes)
        self.whole = costs.total(self.start)

    def solve(self, target: float) -> State:
        """The state to take; above the target only if the greedy order does not reach it."""
        found, fork = self._greedy(self.start, target, capped=False)
        every = [found] if fork is None else [found, self._greedy(fork, target, capped=True)[0]]
        reached = [state for state in every if self.meets(state, target)]
        if not reached:
            return self._free(min(every, key=self.costs.total))
        polished = [self._polish(state, target) for state in dict.fromkeys(reached)]
        return self._free(min(polished, key=self.lost))

    def meets(self, state: State, target: float) -> bool:
        """Whether a state costs at most the target."""
        return self.costs.total(state) <= target + TINY * self.whole

    def lost(self, state: State) -> float:
        """Importance lost in a state."""
        return math.fsum(axis.lost[count] for axis, count in zip(self.axes, state, strict=True))

    # --- down -------------------------------------------------------------------------------------------------------

    def _greedy(self, state: State, target: float, capped: bool) -> tuple[State, State | None]:
        """A state, and the first on the way there from which a move would save more than is needed."""
        cost, fork = self.costs.total(state), None
        moves: dict[int, list[Move]] = {}
        complete: list[tuple[float, State]] = []
        while cost > target + TINY * self.whole:
            for axis in range(len(self.axes)):
                if axis not in moves:
                    moves[axis] = self._moves(state, axis)
            every = [move for own in moves.values() for move in own] or self._pairs(state)
            if not every:
                break
            need = cost - target
            enough = [move for move in every if move.saved >= need - TINY * self.whole]
            if enough:
                fork = fork or state
                last = _after(state, min(enough, key=lambda move: move.lost).changes)
                complete.append((self.lost(last), last))
            best = min(every, key=lambda move: _rate(move, need if capped else math.inf))
            before, state = state, _after(state, best.changes)
            cost = self.costs.total(state)
            self._forget(moves, before, state)
        if self.meets(state, target):
            complete.append((self.lost(state), state))
        return (min(complete)[1] if complete else state), fork

    def _forget(self, moves: dict[int, list[Move]], before: State, after: State) -> None:
        """Moves whose saving may have changed."""
        changed = [axis for axis, count in enumerate(after) if count != before[axis]]
        if any(0 in (before[axis], after[axis]) for axis in changed):
            moves.clear()  # whether another may go as a whole depends on those that went, wherever they are
        for axis in changed:
            for other in {axis, *self.costs.neighbours.get(axis, ())}:
                moves.pop(other, None)

    def _moves(self, state: State, axis: int) -> list[Move]:
        found = []
        for count in self._ahead(state, axis):
            move = self._move(state, {axis: count})
            if move is not None:
                found.append(move)
        return found

    def _ahead(self, state: State, axis: int) -> list[int]:
        below = [count for count in self.axes[axis].counts if count < state[axis]]
        return (
            below if len(below) <= AHEAD else [*below[:AHEAD], *[n for n in below[AHEAD:] if n == below[-1]]]
        )

    def _move(self, state: State, changes: Mapping[int, int]) -> Move | None:
        """A move that saves something and leaves a way through, or None."""
        saved = self.costs.saved(state, changes)
        if saved <= TINY * self.whole:
            return None
        if 0 in changes.values() and not self.costs.connected(_after(state, changes)):
            return None
        lost = math.fsum(
            self.axes[axis].lost[count] - self.axes[axis].lost[state[axis]] for axis, count in changes.items()
        )
        return Move(changes, saved, lost)

    def _pairs(self, state: State) -> list[Move]:
        """Moves along two neighbouring axes, for when one alone saves nothing."""
        found = []
        for axis in range(len(self.axes)):
            for other in sorted(self.costs.neighbours.get(axis, ())):
                if other <= axis:
                    continue
                for count in self._ahead(state, axis):
                    for another in self._ahead(state, other):
                        move = self._move(state, {axis: count, other: another})
                        if move is not None:
                            found.append(move)
        return found

    # --- up and across ----------------------------------------------------------------------------------------------

    def _polish(self, state: State, target: float) -> State:
        state = self._give_back(state, target)
        tried, most = 0, EXCHANGES // max(1, len(self.axes))
        improved = True
        while improved and tried < most:
            improved = False
            for move in self._exchanges(state):
                tried += 1
                other = self._give_back(_after(state, move.changes), target, frozenset(move.changes))
                if self.lost(other) < self.lost(state) * (1 - TINY):
                    state, improved = other, True
                    break
                if tried >= most:
                    break
        return state

    def _exchanges(self, state: State) -> list[Move]:
        """Moves further down, those that lose least per saving first."""
        moves = [move for axis in range(len(self.axes)) for move in self._moves(state, axis)]
        return sorted(moves, key=lambda move: _rate(move, math.inf))

    def _give_back(self, state: State, target: float, but: frozenset[int] = frozenset()) -> State:
        """Raise axes within the target, what brings back most importance first; ``but`` some."""
        room = target + TINY * self.whole - self.costs.total(state)
        moves: dict[int, list[Move]] = {}
        while True:
            for axis in range(len(self.axes)):
                if axis not in moves and axis not in but:
                    moves[axis] = [self._back(state, axis, count) for count in self._above(state, axis)]
            fitting = [
                move for own in moves.values() for move in own if -move.saved <= room and move.lost < 0
            ]
            if not fitting:
                return state
            best = min(fitting, key=lambda move: move.lost)
            before, state = state, _after(state, best.changes)
            room += best.saved
            self._forget(moves, before, state)

    def _back(self, state: State, axis: int, count: int) -> Move:
        """A move up: what it saves and loses is negative."""
        lost = self.axes[axis].lost
        return Move({axis: count}, self.costs.saved(state, {axis: count}), lost[count] - lost[state[axis]])

    def _free(self, state: State) -> State:
        """Raise each axis as long as that costs nothing."""
        for axis, most in enumerate(self.start):
            while 0 < state[axis] < most:
                change = {axis: state[axis] + 1}
                if self.costs.saved(state, change) < -TINY * self.whole:
                    break
                state = _after(state, change)
        return state

    def _above(self, state: State, axis: int) -> list[int]:
        return [count for count in self.axes[axis].counts if count > state[axis]][-AHEAD:]


def _after(state: State, changes: Mapping[int, int]) -> State:
    return tuple(changes.get(axis, count) for axis, count in enumerate(state))


def _rate(move: Move, need: float) -> tuple[float, float]:
    """Loss per cost saved, of which more than is needed does not count; the larger saving of equals."""
    return move.lost / min(move.saved, need), -move.saved
