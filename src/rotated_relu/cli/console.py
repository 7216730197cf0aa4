"""What the verbs print: results on stdout, progress and errors on stderr, numbers with their units."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import typer
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from ..core.errors import RunError
from ..core.formatting import count as count
from ..core.formatting import decimal as decimal
from ..core.formatting import kibibytes as kibibytes
from ..core.formatting import milliseconds as milliseconds
from ..core.formatting import percent as percent
from ..core.formatting import plural as plural
from ..core.formatting import share as share
from ..core.messages import say as say

if TYPE_CHECKING:
    from ..experiments.run_networks import RunNetworks

NARROW = 60  # columns of a terminal: below, tables that do not fit become lists
UNLIMITED = 10_000


def show(*things: object) -> None:
    """A result."""
    console = Console(highlight=False)
    for thing in things:
        console.print(thing, soft_wrap=isinstance(thing, str), markup=False)


def fail(message: str) -> None:
    """An error: one message, what, where and what to do."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print("error: ", style="bold red", end="")
    console.print(message, markup=False)


def show_next(loaded: RunNetworks) -> None:
    """Which command brings a run further, if one does."""
    from ..experiments.stages.next_step import next_verb

    verb = None
    # The result is written: that another file of the run is damaged is for the verb to say that needs it.
    with contextlib.suppress(RunError):
        verb = next_verb(loaded)
    if verb is not None:
        show(f"next: rotated-relu {verb}")


@contextlib.contextmanager
def stoppable(what: str, again: str, kept: str = "its state is kept") -> Iterator[None]:
    """Within the ``with`` block, Ctrl-C and TERM end in one line; exit code 130, or 143 for TERM.

    Args:
        what: What is being done, and where.
        again: The command that goes on.
        kept: What there is of it.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        from ..training import Terminated

        # Ctrl-C leaves the cursor behind a "^C".
        say(f"\nstopped: {what}; {kept}. Go on with: {again}")
        raise typer.Exit(143 if isinstance(error, Terminated) else 130) from None


class FittingTable(Table):
    """A table that becomes a list, a row after the other, where a narrow terminal would cut its columns to pieces."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """See rich's protocol."""
        natural = Measurement.get(console, options.update(max_width=UNLIMITED), self).maximum
        if options.max_width >= NARROW or natural <= options.max_width:
            yield from super().__rich_console__(console, options)
            return
        yield Text(str(self.title), style="bold")
        heads = [str(column.header) for column in self.columns]
        for row in zip(*(column.cells for column in self.columns), strict=True):
            first, *others = map(str, row)
            yield Text(first)
            for head, cell in zip(heads[1:], others, strict=True):
                if cell:
                    yield Text(f"  {head}: {cell}")


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table whose first column is text and whose others are numbers."""
    made = FittingTable(title=title, title_justify="left", title_style="bold", header_style="bold")
    for position, column in enumerate(columns):
        made.add_column(column, justify="left" if position == 0 else "right", overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made
