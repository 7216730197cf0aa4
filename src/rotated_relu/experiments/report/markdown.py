"""Tables in Markdown, for results pages and the benchmarks."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .words import MINUS

# With a sign, an exponent, a spread, a unit, or none of them; in bold or not.
NUMBER = re.compile(rf"\**[-+{MINUS}]?\d[\d.,]*(e[-+]\d+)?( ± [\d.]+)?( ?(%|x|s|ms|[kMGT]))?\**")


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; columns of numbers are aligned to the right.

    Args:
        heads: Names of the columns.
        rows: As many cells each; an empty one may stand for a number. A bar within a cell is escaped.

    Raises:
        ValueError: If a row has another number of cells.
    """
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    columns = list(zip(heads, *cells, strict=True))
    rule = ["--:" if _are_numbers(column[1:]) else "---" for column in columns]
    return "\n".join("| " + " | ".join(line) + " |" for line in [list(heads), rule, *cells])


def _are_numbers(column: Sequence[str]) -> bool:
    filled = [cell for cell in column if cell]
    return bool(filled) and all(NUMBER.fullmatch(cell) for cell in filled)
