"""A results page in Markdown, written from what a comparison measured: what was asked, protocol, tables, what failed.

A person adds what the numbers mean; every figure on it comes from ``compare.json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...core.run_directory import replacing
from .comparison import verdict
from .comparison_svg import pictures
from .markdown import markdown_table
from .spread_tables import leading_split, tables, title_of

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
        parts += [f"## {table['title']}", markdown_table(table["heads"], table["rows"]), table["caption"]]
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
        [title_of(data, name), *(f"{found[column]:.2f}" if column in found else "" for column in columns)]
        for name, found in data["trained"].items()
    ]
    heads = ["training", "validation, %", "test, %", "trained on: validation, %", "trained on: test, %"]
    return markdown_table(heads, rows)
