"""The sentences of a report, and numbers as people write them."""

from __future__ import annotations

from typing import Any

from ...core.criteria import Criterion
from .schema import AttackPart, NetworkRow, ReportData

MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
NARROW_SPACE = "\N{NARROW NO-BREAK SPACE}"
SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def percent(value: float | None, digits: int = 1) -> str:
    """A percentage that is already 0 to 100."""
    return "" if value is None else f"{value:.{digits}f}{NARROW_SPACE}%"


def share(fraction: float | None) -> str:
    """A fraction, 0 to 1, as whole percent; tenths where that would read 0 or 100 without being so."""
    if fraction is None:
        return ""
    value = 100 * fraction
    digits = 0 if round(value) not in (0, 100) or value in (0, 100) else 1
    return f"{value:.{digits}f}{NARROW_SPACE}%".replace("-", MINUS)


def points(difference: float) -> str:
    """A signed difference of two percentages, in words."""
    rounded = round(difference, 1)
    sign = "+" if rounded > 0 else MINUS if rounded < 0 else "±"
    return f"{sign}{abs(rounded):.1f}"


def count(value: float | None) -> str:
    """A count with three digits and a suffix: 1,234 stays, 1.23 M, 4.09 G."""
    if value is None:
        return ""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{three(value / (1e3 if suffix == 'k' else limit))}{NARROW_SPACE}{suffix}"
    return f"{value:,.0f}"


def paths(value: int) -> str:
    """A number of paths: large powers of two as such."""
    if value < 1e5 or value & (value - 1):
        return count(value) if value >= 1e5 else f"{value:,}"
    return "2" + str(value.bit_length() - 1).translate(SUPERSCRIPT)


def size(value: float | None) -> str:
    """Bytes in decimal units."""
    if value is None:
        return ""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(value) >= limit:
            return f"{three(value / limit)}{NARROW_SPACE}{unit}"
    return f"{value:.0f}{NARROW_SPACE}B"


def milliseconds(value: float | None) -> str:
    """A time in ms with three digits."""
    return "" if value is None else f"{three(value)}{NARROW_SPACE}ms"


def factor(value: float | None) -> str:
    """A ratio: 2.3 x."""
    return "" if value is None else f"{value:.2f}{TIMES}"


def three(value: float) -> str:
    """A number with three digits, more if it is large."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f}"


def sentence_case(text: str) -> str:
    """First letter upper case, the rest as it is."""
    return text[:1].upper() + text[1:]


def row_of(data: ReportData, key: str | None) -> NetworkRow | None:
    """The network of that key."""
    return next((row for row in data.get("networks", []) if row["key"] == key), None)


def cost(data: ReportData, row: NetworkRow | None, name: str) -> Any:
    """A figure of a network, or of the network that has the same shape."""
    if row is None:
        return None
    value = row.get(name)
    baseline = row.get("same_cost_as")
    if value is None and baseline is not None and baseline != row["key"]:
        return cost(data, row_of(data, baseline), name)
    return value


def criterion_of(data: ReportData) -> Criterion | None:
    """How it came about which filters go; data without it speak of a threshold on slopes. None if nothing went."""
    if "criterion" in data:
        return Criterion(**data["criterion"])
    found = data.get("threshold")
    return None if found is None else Criterion("slope", threshold=found.get("value", 0.0))


def reference_of(data: ReportData) -> NetworkRow | None:
    """The network that others are compared with."""
    rows = data.get("networks", [])
    return row_of(data, data.get("reference")) or (rows[0] if rows else None)


def final_of(data: ReportData) -> NetworkRow | None:
    """The network that the verdict is about."""
    rows = data.get("networks", [])
    return row_of(data, data.get("final")) or (rows[-1] if rows else None)


def accuracy_of(row: NetworkRow | None) -> tuple[float, str] | None:
    """Accuracy in percent and the split it is from; the test split if there is one."""
    for split in ("test", "validation"):
        value = row.get(f"{split}_accuracy") if row else None
        if isinstance(value, (int, float)):
            return float(value), split
    return None


def speedup_of(data: ReportData, row: NetworkRow | None) -> tuple[float, int] | None:
    """How many times faster a network is at the last batch size timed, and that batch size."""
    timed = data.get("latency", [])
    if row is None or not timed:
        return None
    speedups = timed[-1].get("speedup", {})
    key = row["key"] if row["key"] in speedups else row.get("same_cost_as")
    return (speedups[key], timed[-1]["batch_size"]) if key in speedups else None


def saved(data: ReportData, name: str) -> float | None:
    """Fraction of the reference's cost that the final network saves."""
    before, after = (cost(data, row, name) for row in (reference_of(data), final_of(data)))
    return 1 - after / before if before and after is not None else None


def verdict(data: ReportData) -> str:
    """The outcome in one sentence."""
    reference, final = reference_of(data), final_of(data)
    if final is None:
        return "Nothing has been measured yet."
    gains = [] if final is reference else _gains(data, final)
    reached = accuracy_of(final)
    if not gains:
        label = sentence_case(final["label"])
        return (
            f"{label} reaches {percent(reached[0])} {reached[1]} accuracy."
            if reached
            else f"{label}: no result yet."
        )
    sentence = f"The network is {' and '.join(gains)}"
    if reached is None:
        return f"{sentence}."
    return f"{sentence} at {percent(reached[0])} {reached[1]} accuracy{_change(reference, reached)}."


def _gains(data: ReportData, final: NetworkRow) -> list[str]:
    gains = []
    faster = speedup_of(data, final)
    if faster is not None:
        value = round(faster[0], 1)
        if value == 1:
            gains.append("as fast")
        else:
            gains.append(f"{value:.1f}{TIMES} faster" if value > 1 else f"{1 / faster[0]:.1f}{TIMES} slower")
    smaller = saved(data, "parameters")
    if smaller is not None:
        gains.append(f"{share(abs(smaller))} {'smaller' if smaller >= 0 else 'larger'}")
    return gains


def _change(reference: NetworkRow | None, reached: tuple[float, str]) -> str:
    before = accuracy_of(reference)
    if before is None or before[1] != reached[1]:
        return ""
    return f" ({points(reached[0] - before[0])} points)"


def attack_note(found: AttackPart) -> str:
    """What was attacked, with what, and what the last column is."""
    how = found["settings"]
    used = f"{how['images']:,} test images"
    if how["pgd_images"] != how["images"]:
        used += f", {how['pgd_images']:,} of them for PGD and the last column"
    start = "a random place" if how["random_start"] else "the image"
    return (
        f"Pixels of [0, 1] change by at most ε = {how['eps']:g} (L∞); {used}. PGD: {how['steps']} steps of ε / 5 from "
        f"{start}; no network was trained against attacks. FGSM and PGD: {found['library']}. Last column: mean over "
        "the images of the largest KL divergence of the class probabilities, per change of a pixel, that as many steps "
        "found (nats)."
    )


def lead(data: ReportData) -> str:
    """What the verdict compares, and how it was measured."""
    reference, final = reference_of(data), final_of(data)
    parts = []
    if reference is not None and final is not None and reference is not final:
        parts.append(f"{sentence_case(final['label'])} against {reference['label']}.")
    reached = accuracy_of(final)
    if reached is not None:
        parts.append(
            "Accuracy on test images; every choice was made on validation images."
            if reached[1] == "test"
            else "Accuracy on validation images, the ones that choices are made on."
        )
    faster = speedup_of(data, final)
    if faster is not None:
        parts.append(f"Speed in {data.get('engine', 'the same engine')} at batch {faster[1]}, timed in turn.")
    return " ".join(parts)
