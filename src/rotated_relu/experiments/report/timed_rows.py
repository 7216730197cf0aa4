"""What the rows of a comparison say of times: plain data, as ``compare.json`` holds it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

Row = Mapping[str, Any]


def timed_in(rows: Iterable[Row]) -> list[tuple[str, int]]:
    """Engines and batch sizes in which networks were timed, in the order of the rows."""
    return list(dict.fromkeys((t["engine"], t["batch_size"]) for row in rows for t in row.get("latency", [])))


def speedup_in(engine: str, batch_size: int) -> Callable[[Row], float | None]:
    """Reads how many times as fast as the plain network a row's network is there; None where it was not timed."""

    def read(row: Row) -> float | None:
        for timed in row.get("latency", []):
            if (timed["engine"], timed["batch_size"]) == (engine, batch_size):
                return float(timed["speedup"])
        return None

    return read
