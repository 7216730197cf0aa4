"""How far a long task is, on stderr: a bar with what, how many of how many and the time left; or a line now and then.

A verb says once how progress is shown (:func:`showing`); whatever takes long below it, at any depth, opens a
:func:`task`. There is one live display: a task within a task is a further row of it. Nothing is shown by default.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, TypeVar

from .errors import UnknownNameError
from .extras import needs
from .formatting import duration
from .messages import Say
from .messages import say as say_line

Item = TypeVar("Item")
KINDS = ("auto", "bar", "lines", "none")
EVERY = 30.0  # seconds between lines about one piece of work
REFRESHES = 2  # of the bar, per second: what is timed meanwhile should not notice


@dataclass
class _Shown:
    """How progress is shown, and the live display where there is one."""

    kind: str = "none"
    say: Say = say_line
    bar: Any = None


_SHOWN: ContextVar[_Shown] = ContextVar("_SHOWN")


def resolved(kind: str) -> str:
    """``bar``, ``lines`` or ``none``: ``auto`` is a bar where a person looks at a terminal, else lines.

    Raises:
        UnknownNameError: If it is none of ``KINDS``.
    """
    if kind not in KINDS:
        raise UnknownNameError("progress", kind, KINDS)
    if kind != "auto":
        return kind
    return "bar" if sys.stderr.isatty() and find_spec("rich") is not None else "lines"


@contextlib.contextmanager
def showing(kind: str, say: Say = say_line) -> Iterator[None]:
    """Within the ``with`` block tasks show how far they are.

    Args:
        kind: One of ``KINDS``.
        say: Takes the lines.

    Raises:
        UnknownNameError: If there is no such kind.
        MissingPackageError: If a bar is asked for and rich is not installed.
    """
    former, shown = _SHOWN.get(_Shown()), _Shown(resolved(kind), say)
    # Of a task within a task: the outer one has the display.
    shown.bar = former.bar if shown.kind == "bar" else None
    with contextlib.ExitStack() as stack:
        if shown.kind == "bar" and shown.bar is None:
            shown.bar = stack.enter_context(_display())
        token = _SHOWN.set(shown)
        try:
            yield
        finally:
            _SHOWN.reset(token)


@dataclass
class Task:
    """Work of so many steps; told where it is.

    Attributes:
        what: What is being done.
        total: Steps in all.
        done: Steps that are done.
    """

    what: str
    total: int
    shown: _Shown
    done: int = 0
    begun: int = 0  # steps of an earlier call, which took no time of this one
    row: Any = None
    since: float = field(default_factory=lambda: time.monotonic())
    told: float = field(default_factory=lambda: time.monotonic())

    def at(self, what: str) -> None:
        """Say what is being done now."""
        former, self.what = self.what, what
        if self.shown.bar is not None:
            self.shown.bar.update(self.row, description=what, refresh=what != former)
        elif self.shown.kind == "lines":
            self._tell(what)

    def advance(self, steps: int = 1) -> None:
        """So many more steps are done."""
        self.reach(self.done + steps)

    def reach(self, done: int, told: bool = False) -> None:
        """So many steps are done; ``told`` if the next line says so."""
        self.done = done
        if self.shown.bar is not None:
            self.shown.bar.update(self.row, completed=done)
        elif self.shown.kind == "lines" and not told and self._late() and done < self.total:
            self._tell(f"{self.what}: {done} of {self.total}")

    def left(self) -> float | None:
        """Seconds, if the rest takes as long per step as what is done; None before the first step."""
        own = self.done - self.begun
        if own <= 0 or self.done >= self.total:
            return None
        return (time.monotonic() - self.since) / own * (self.total - self.done)

    def _late(self) -> bool:
        return time.monotonic() - self.told >= EVERY

    def _tell(self, text: str) -> None:
        left = self.left()
        self.told = time.monotonic()
        self.shown.say(text if left is None else f"{text}, {duration(left)} left")


@contextlib.contextmanager
def task(what: str, total: int, done: int = 0) -> Iterator[Task]:
    """Within the ``with`` block some work of ``total`` steps is done, the first ``done`` of which were done before."""
    shown = _SHOWN.get(_Shown())
    made = Task(what, total, shown, done, done)
    if shown.bar is None:
        yield made
        return
    made.row = shown.bar.add_task(what, total=total, completed=done)
    try:
        yield made
    finally:
        shown.bar.remove_task(made.row)


def in_turn(what: str, items: Sequence[Item], title: Callable[[Item], str]) -> Iterator[Item]:
    """The items, each announced: ``pruning Network Slimming at 50 %, 3 of 12``."""
    with task(what, len(items)) as work:
        for place, item in enumerate(items, 1):
            work.at(numbered(title(item), place, len(items)))
            yield item
            work.reach(place, told=True)


def numbered(what: str, place: int, total: int) -> str:
    """One of several pieces of work: ``training relu, 2 of 5``."""
    return f"{what}, {place} of {total}" if total > 1 else what


def _display() -> contextlib.AbstractContextManager[Any]:
    needs("rich")
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    what, left = TextColumn("{task.description}", markup=False), TimeRemainingColumn()
    columns: list[Any] = [what, BarColumn(None), MofNCompleteColumn(), left]
    # Lines that are said meanwhile appear above the bar: it takes stderr over.
    bar: contextlib.AbstractContextManager[Any] = Progress(
        *columns,
        console=Console(stderr=True),
        refresh_per_second=REFRESHES,
        transient=True,
        redirect_stdout=False,
    )
    return bar
