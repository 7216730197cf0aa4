"""Where measured times are kept: a file for each engine, version, processor, threads, batch size and precision.

Requires: a folder that can be written to. Ensures: whatever happens, the file holds all that was measured before,
whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

from ...core.errors import FileFormatError, LatencyError
from ...core.extras import needs
from ...core.files import check_place
from ...pruning.latency.geometry import LayerGeometry
from ...pruning.latency.grid import LatencyGrid
from ...pruning.latency.table import LatencyTable

METHOD = 3  # of measuring: what was measured otherwise is measured again


@dataclass
class Store:
    """A table in its file; written after every geometry, so that nothing is measured twice.

    Attributes:
        table: What is known.
        path: Where it is kept.
    """

    table: LatencyTable
    path: Path

    @classmethod
    def open(cls, empty: LatencyTable, folder: str | os.PathLike[str] | None) -> Store:
        """The table of the same engine, machine and setting, if there is one.

        Raises:
            LatencyError: If the folder cannot be made or written to.
        """
        place = _cache_folder() if folder is None else Path(folder)
        path = place / f"{empty.engine}-{_digest(empty)}.json"
        try:
            place.mkdir(parents=True, exist_ok=True)
            check_place(path)
        except OSError as error:
            raise LatencyError(f"cannot keep latency tables in {place}: {error.strerror or error}") from error
        known = empty
        # What cannot be read is measured again; it is a cache.
        with contextlib.suppress(FileFormatError):
            known = LatencyTable.load(path)
        return cls(known if _identity(known) == _identity(empty) else empty, path)

    def keep(self, geometry: LayerGeometry, grid: LatencyGrid) -> None:
        """Add the times of a geometry."""
        self.table = replace(self.table, entries={**self.table.entries, geometry: grid})
        self.table.save(self.path)

    def keep_network(self, digest: str, milliseconds: float) -> None:
        """Add the time of a whole network."""
        self.table = replace(self.table, networks={**self.table.networks, digest: milliseconds})
        self.table.save(self.path)

    def keep_call(self, call_ms: float, reference_ms: float) -> None:
        """Set the time of a call, and that of what everything is measured against."""
        self.table = replace(self.table, call_ms=call_ms, reference_ms=reference_ms)


def _identity(table: LatencyTable) -> tuple[object, ...]:
    return (
        table.engine,
        table.engine_version,
        table.processor,
        table.threads,
        table.batch_size,
        table.precision,
    )


def _digest(table: LatencyTable) -> str:
    return hashlib.sha256(repr((METHOD, *_identity(table))).encode()).hexdigest()[:16]


def _cache_folder() -> Path:
    needs("platformdirs")
    from platformdirs import user_cache_path

    return user_cache_path("rotated-relu") / "latency"
