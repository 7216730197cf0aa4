"""Numbers with their units, in messages and in tables of a terminal; nothing where there is no number."""

from __future__ import annotations


def percent(value: float | None) -> str:
    """Accuracy, from percent."""
    return "" if value is None else f"{value:.2f} %"


def share(value: float | None) -> str:
    """Fraction of 1, as percent."""
    return "" if value is None else f"{100 * value:.1f} %"


def count(value: float | None) -> str:
    """A whole number with separators."""
    return "" if value is None else f"{value:,.0f}"


def plural(value: int, thing: str) -> str:
    """A count with its noun: 1 activation, 2 activations."""
    return f"{count(value)} {thing}" if value == 1 else f"{count(value)} {thing}s"


def decimal(value: float) -> str:
    """A number of no unit, with three digits or all those before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def milliseconds(value: float | None) -> str:
    """A time, from milliseconds."""
    return "" if value is None else f"{value:.3g} ms"


def kibibytes(value: float | None) -> str:
    """A size, from bytes."""
    return "" if value is None else f"{value / 1024:,.0f} KiB"


def duration(seconds: float) -> str:
    """A time that need not be exact: 40 s, 12 min, 3 h 05 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
