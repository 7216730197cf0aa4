"""Rows as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

NUMBER = re.compile(r"\**[-+]?\d[\d.]*( ?%| s)?\**")


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; columns of numbers are aligned to the right.

    Args:
        head: Names of the columns.
        rows: As many cells each; an empty one may stand for a number.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    columns = list(zip(*cells, strict=True)) if cells else [()] * len(head)
    rule = ["--:" if _numbers(column) else "---" for column in columns]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *cells])


def _numbers(column: Sequence[str]) -> bool:
    filled = [cell for cell in column if cell]
    return bool(filled) and all(NUMBER.fullmatch(cell) for cell in filled)
