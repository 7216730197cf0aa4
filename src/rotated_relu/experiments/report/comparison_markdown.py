"""A results page in Markdown, written from what a comparison measured: what was asked, protocol, tables, what failed.

A person adds what the numbers mean; every figure on it comes from ``compare.json``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...core.run_directory import replacing
from .comparison import verdict
from .comparison_svg import pictures
from .spread_tables import leading_split, tables
from .words import MINUS

NUMBER = re.compile(rf"[-+{MINUS}]?\d[\d.,]*( ± [\d.]+)?( ?(%|x|s|ms))?")
FILES = (
    "`compare.csv`: a line per pruned network. `compare.json`: the same with tables, tuning and versions. "
    "`compare.html`: the page with every figure. `settings.json`, `trained.json`, `tuning/`, `points/`: what the "
    "command keeps; with them it goes on, or does nothing again."
)


def write_markdown(data: Mapping[str, Any], path: Path) -> None:
    """Write the page, and beside it the figures that it shows.

    Args:
        data: What ``compare.json`` holds.
        path: The ``.md`` file.

    Raises:
        RunError: If a file cannot be written.
    """
    drawn = pictures(data, leading_split(data)) if "equal_training" in data else {}
    figures = {f"{path.stem}-{key}.svg": picture for key, picture in drawn.items()}
    for name, picture in figures.items():
        with replacing(path.with_name(name)) as beside:
            beside.write_text(picture, encoding="utf-8")
    with replacing(path) as beside:
        beside.write_text(markdown(data, list(figures)), encoding="utf-8")


def markdown(data: Mapping[str, Any], figures: Sequence[str] = ()) -> str:
    """The text of the page.

    Args:
        data: What ``compare.json`` holds.
        figures: File names of the frontiers.
    """
    made = dict(data["made"])
    parts = [f"# {data['title']}", f"**{verdict(data)}.**", "## What was asked", _asked(data)]
    if "command" in made:
        parts += ["```bash\n" + made["command"] + "\n```"]
    parts += ["## Protocol", _facts(made)]
    for table in tables(data):
        parts += [f"## {table['title']}", _table(table["heads"], table["rows"]), table["caption"]]
        if table["id"].startswith("equal"):
            parts += [f"![Accuracy after equal training]({name})" for name in figures]
    parts += ["## Networks as trained", _trained(data), "## Files", FILES]
    return "\n\n".join(parts) + "\n"


def _asked(data: Mapping[str, Any]) -> str:
    methods = list(dict.fromkeys(row["label"] for row in data["rows"]))
    start = "a trained network" if data.get("brought") else "random weights"
    return (
        f"How much accuracy does each of {len(methods)} ways of pruning keep at which cost, from {start}, after the "
        "same number of epochs?"
    )


def _facts(made: Mapping[str, str]) -> str:
    return "\n".join(f"- **{name}**: {text}" for name, text in made.items() if name != "command")


def _trained(data: Mapping[str, Any]) -> str:
    columns = ("validation", "test", "finetuned_validation", "finetuned_test")
    rows = [
        [name, *(f"{found[column]:.2f}" if column in found else "" for column in columns)]
        for name, found in data["trained"].items()
    ]
    heads = ["training", "validation, %", "test, %", "trained on: validation, %", "trained on: test, %"]
    return _table(heads, rows)


def _table(heads: list[str], rows: list[list[str]]) -> str:
    columns = [[row[index] for row in rows] for index in range(len(heads))]
    rule = ["--:" if _are_numbers(column) else "---" for column in columns]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in [heads, rule, *rows])


def _are_numbers(column: Sequence[str]) -> bool:
    """Whether it is aligned to the right: numbers with a unit, a spread or none, some of which may be missing."""
    filled = [cell for cell in column if cell]
    return bool(filled) and all(NUMBER.fullmatch(cell) for cell in filled)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
