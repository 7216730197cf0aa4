"""Progress for a person watching: a function that takes one line.

Whatever takes long is given such a function, and calls it with what it is about to do; results are returned instead.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

Say = Callable[[str], None]


def say(message: str) -> None:
    """One line on stderr; stdout stays free for results."""
    print(message, file=sys.stderr, flush=True)


def quiet(message: str) -> None:
    """Nothing."""
    del message
