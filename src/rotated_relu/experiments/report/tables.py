"""Tables and lists of a report, as strings ready to print."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from . import words
from .schema import HeldRow, NetworkRow, ReportData
from .steadiness import busy, unsteadiness


@dataclass(frozen=True)
class Tile:
    """One key figure: what, its value, and a line of context."""

    name: str
    value: str
    context: str


@dataclass(frozen=True)
class Cell:
    """A figure and, below it, the change from the reference."""

    value: str
    note: str = ""


@dataclass(frozen=True)
class NetworkTable:
    """Column heads, and per network its key, label and cells."""

    heads: list[str]
    rows: list[tuple[str, str, list[Cell]]]
    caption: str


@dataclass(frozen=True)
class CountRow:
    """One line of paper count or achieved count. ``saved`` is a fraction for the bar, 0 to 1."""

    what: str
    how: str
    before: str
    after: str
    saved: float

    @property
    def saved_words(self) -> str:
        """The fraction in percent."""
        return words.percent(100 * self.saved)


def tiles(data: ReportData) -> list[Tile]:
    """Key figures of the final network against the reference."""
    reference, final = words.reference_of(data), words.final_of(data)
    made = []
    reached = words.accuracy_of(final)
    if reached is not None:
        before = words.accuracy_of(reference) if reference is not final else None
        context = f"{reference['label']} {words.percent(before[0])}" if reference and before else ""
        made.append(Tile(f"{reached[1]} accuracy", words.percent(reached[0]), context))
    for name, label in (("macs", "computation saved"), ("parameters", "parameters saved")):
        fraction = words.saved(data, name) if reference is not final else None
        if fraction is not None:
            before_cost, after = (words.cost(data, row, name) for row in (reference, final))
            unit = f"{words.NARROW_SPACE}MACs" if name == "macs" else ""
            made.append(
                Tile(label, words.share(fraction), f"{words.count(before_cost)} → {words.count(after)}{unit}")
            )
    faster = words.speedup_of(data, final)
    if faster is not None:
        made.append(Tile("speed-up", words.factor(faster[0]), f"batch {faster[1]}"))
    return made if len(made) > 1 else []


def networks(data: ReportData) -> NetworkTable | None:
    """The comparison of all networks; a column appears if any network has its figure."""
    rows = data.get("networks", [])
    if not rows:
        return None
    reference = words.reference_of(data)
    columns: list[tuple[str, list[Cell]]] = []
    for split in ("test", "validation"):
        columns.append(
            (f"{split} accuracy", [_accuracy(row, reference, f"{split}_accuracy") for row in rows])
        )
    for name, head, form in (
        ("parameters", "parameters", words.count),
        ("macs", "MACs", words.count),
        ("file_bytes", "file", words.size),
        ("peak_memory_bytes", "peak memory", words.size),
    ):
        columns.append((head, [_cost(data, row, reference, name, form) for row in rows]))
    for timed in data.get("latency", []):
        columns.append(
            (f"latency, batch\N{NO-BREAK SPACE}{timed['batch_size']}", [_latency(timed, row) for row in rows])
        )
    columns = [(head, cells) for head, cells in columns if any(cell.value for cell in cells)]
    table = [
        (row["key"], row["label"], [cells[index] for _, cells in columns]) for index, row in enumerate(rows)
    ]
    heads = [head for head, _ in columns]
    notes = []
    if "MACs" in heads or "peak memory" in heads:
        notes.append("MACs and peak memory are for one example.")
    if reference is not None and len(rows) > 1:
        notes.append(f"Small print: change from {reference['label']}.")
    notes.append(busy(unsteadiness(data.get("latency", []))))
    return NetworkTable(heads, table, " ".join(filter(None, notes)))


def _accuracy(row: NetworkRow, reference: NetworkRow | None, name: str) -> Cell:
    value, before = row.get(name), (reference or {}).get(name)
    if not isinstance(value, (int, float)):
        return Cell("")
    note = ""
    if isinstance(before, (int, float)) and row is not reference:
        note = f"{words.points(value - before)} points"
    return Cell(words.percent(value, 2), note)


def _cost(data: ReportData, row: NetworkRow, reference: NetworkRow | None, name: str, form: Any) -> Cell:
    value, before = words.cost(data, row, name), words.cost(data, reference, name)
    if value is None:
        return Cell("")
    change = value / before - 1 if before else 0.0
    if row is reference or not before or abs(change) < 0.0005:
        return Cell(form(value))
    sign = "+" if change > 0 else words.MINUS
    return Cell(form(value), f"{sign}{words.percent(abs(100 * change))}")


def _latency(timed: Any, row: NetworkRow) -> Cell:
    medians, speedups = timed.get("medians_ms", {}), timed.get("speedup", {})
    key = row["key"] if row["key"] in medians else row.get("same_cost_as")
    if key not in medians:
        return Cell("")
    estimated = timed.get("estimated_ms", {}).get(key)
    notes = [words.factor(speedups.get(key))]
    notes += [] if estimated is None else [f"estimated {words.milliseconds(estimated)}"]
    return Cell(words.milliseconds(medians[key]), ", ".join(filter(None, notes)))


def attack(data: ReportData) -> NetworkTable | None:
    """Accuracy under attack, and the local Lipschitz constant."""
    found = data.get("attack")
    if not found:
        return None
    rows = [
        (
            row["key"],
            row["label"],
            [
                *(Cell(words.percent(row[name])) for name in ("clean", "fgsm", "pgd")),
                Cell(words.three(row["lipschitz"])),
            ],
        )
        for row in found["networks"]
    ]
    heads = ["accuracy, clean", "under FGSM", "under PGD", "local Lipschitz constant"]
    return NetworkTable(heads, rows, words.attack_note(found))


def counts(data: ReportData) -> list[CountRow]:
    """The paper's count beside what was achieved, in weights and in FLOPs."""
    rows = []
    paper = data.get("paper_count")
    if paper:
        for what, name in (("weights", "weights"), ("FLOPs", "flops")):
            before, after = paper[f"full_{name}"], paper[f"alive_{name}"]
            rows.append(_count_row(what, "paper count", before, after))
    before_row, after_row = words.row_of(data, data.get("compacted_from", "rotated")), words.final_of(data)
    if before_row is not None and after_row is not None and before_row is not after_row:
        for what, name, scale in (("weights", "conv_linear_weights", 1), ("FLOPs", "macs", 2)):
            costs = [words.cost(data, row, name) for row in (before_row, after_row)]
            if None not in costs:
                rows.append(_count_row(what, "achieved", scale * costs[0], scale * costs[1]))
    order = {"weights": 0, "FLOPs": 1}
    return sorted(rows, key=lambda row: order[row.what])


def _count_row(what: str, how: str, before: float, after: float) -> CountRow:
    saved = 1 - after / before if before else 0.0
    return CountRow(what, how, words.count(before), words.count(after), saved)


def held(data: ReportData) -> list[tuple[str, list[HeldRow]]] | None:
    """What could not be removed, grouped by reason, most channels first; None if nothing was compacted."""
    rows = data.get("held")
    if rows is None:
        return None
    groups: dict[str, list[HeldRow]] = {}
    for row in rows:
        groups.setdefault(row["reason"], []).append(row)
    return sorted(groups.items(), key=lambda group: -sum(row["channels"] for row in group[1]))


def certificate(data: ReportData) -> str:
    """What was verified of the compacted network, in a sentence."""
    found = data.get("certificate")
    if not found:
        return ""
    shapes = found.get("inputs", [])
    tried = f" on {len(shapes)} sets of random inputs" if shapes else ""
    relative = found.get("max_relative_difference", 0.0)
    equal = "not a single bit" if relative == 0 else f"at most {relative:.1e} relative"
    absolute = found.get("max_absolute_difference")
    extra = f" ({absolute:.1e} absolute)" if absolute and relative else ""
    return (
        "Compaction changed nothing but rounding: the compacted network and the original with the slopes of the "
        f"dropped filters at zero differ by {equal}{extra}, computed in {found.get('dtype', 'float64')}{tried}."
    )


def made(data: ReportData) -> list[tuple[str, str]]:
    """How the run was made, as pairs of name and value."""
    return made_of(data.get("made", {}))


def made_of(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Plain data as pairs of name and value."""
    return list(_flat(values))


def _flat(values: Any, prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, value in values.items():
        label = f"{prefix}{str(name).replace('_', ' ')}"
        if isinstance(value, dict):
            if all(not isinstance(entry, (dict, list)) for entry in value.values()) and name == "versions":
                yield label, ", ".join(f"{key} {entry}" for key, entry in value.items())
            else:
                yield from _flat(value, "" if name == "environment" else f"{label}: ")
        elif isinstance(value, (list, tuple)):
            yield label, ", ".join(map(_plain, value))
        elif value is not None:
            yield label, _plain(value)


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def missing(data: ReportData, drawn: Iterable[str]) -> list[str]:
    """What the run has not got yet and the command that makes it, in the order to be done; at the end of the page."""
    figures, run = set(drawn), data.get("run", "RUN")
    final = words.final_of(data)
    rotated = any(row["key"] != "relu" for row in data.get("networks", []))
    lacks = [
        (rotated and not data.keys() & {"threshold", "held"}, "No filter has been removed", "prune {run}"),
        ("latency" not in figures, "Nothing has been timed", "measure {run}"),
        (
            final is not None and not isinstance(final.get("test_accuracy"), (int, float)),
            "The test images have not been read",
            "evaluate {run} --split test",
        ),
    ]
    hints = [f"{what}: rotated-relu {command.format(run=run)}" for lacking, what, command in lacks if lacking]
    return hints if "curves" in figures else [*hints, "There are no training curves."]
