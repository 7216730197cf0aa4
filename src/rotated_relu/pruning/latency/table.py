"""A latency table: what each layer geometry costs in one engine on one machine, in memory and as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ...core.arguments import checked_fields, kind_of, need_path
from ...core.errors import ArgumentError, FileFormatError, LatencyError
from ...core.files import replacing
from ...core.plain_data import build
from .geometry import LayerGeometry
from .grid import LatencyGrid

FORMAT = "rotated-relu latency table"
VERSION = 1
PRECISIONS = ("fp32", "int8")


@checked_fields()
@dataclass(frozen=True)
class LatencyTable:
    """Measured times of layers, by their geometry.

    Attributes:
        engine: What ran them: ``onnxruntime``, ``openvino``, ``torch``, ``torch.compile``, or any name.
        engine_version: Its version.
        processor: On what.
        threads: Threads that the engine was given.
        batch_size: Examples per call; all times are for the whole batch.
        precision: ``fp32`` or ``int8``.
        call_ms: What a call costs whatever the network: the time of an empty graph, in ms.
        entries: The times, by geometry.
        reference_ms: What the program took, against which all times were measured, when nothing disturbed the machine,
            in ms; 0 if there was none. See :mod:`rotated_relu.deploy.latency.measuring`.
        networks: Times of whole networks, in ms, by :func:`rotated_relu.deploy.latency.whole.digest_of`.

    Raises:
        LatencyError: If a number is out of range, or the precision is none.
        ArgumentError: If a field is of another kind.
    """

    engine: str
    engine_version: str
    processor: str
    threads: int
    batch_size: int
    precision: str = "fp32"
    call_ms: float = 0.0
    entries: Mapping[LayerGeometry, LatencyGrid] = field(default_factory=dict)
    reference_ms: float = 0.0
    networks: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        """In words, for messages and reports."""
        threads = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        return (
            f"{self.engine} {self.engine_version}, {self.processor}, {threads}, batch {self.batch_size}, "
            f"{self.precision}"
        )

    def milliseconds(self, geometry: LayerGeometry, inputs: int, outputs: int) -> float:
        """Time of one layer with these widths, in ms.

        Raises:
            LatencyError: If the table does not have the geometry, or a width is beyond what was measured.
            ArgumentError: If a width is no number.
        """
        grid = self.grid(geometry)
        try:
            return grid.at(inputs, outputs)
        except (TypeError, RuntimeError):  # looked at afterwards: budgets ask for millions of times
            raise ArgumentError(
                f"widths must be whole numbers, got {kind_of(inputs)} and {kind_of(outputs)}"
            ) from None

    def steps(self, geometry: LayerGeometry) -> tuple[list[int], list[int]]:
        """Input and output widths of a layer at which its time may fall, ascending.

        Raises:
            LatencyError: If the table does not have the geometry.
        """
        return self.grid(geometry).steps()

    def grid(self, geometry: LayerGeometry) -> LatencyGrid:
        """The times of one geometry.

        Raises:
            LatencyError: If the table does not have it.
        """
        found = self.find(geometry)
        if found is None:
            raise LatencyError(
                f"the latency table ({self}) has no times of {geometry}: calibrate it for this network"
            )
        return found

    def find(self, geometry: LayerGeometry) -> LatencyGrid | None:
        """The times of one geometry, or of the form that an exported graph has it in; None if there are none.

        Raises:
            ArgumentError: If it is no geometry.
        """
        if not isinstance(geometry, LayerGeometry):
            raise ArgumentError(f"a table has times of a LayerGeometry, not of {kind_of(geometry)}")
        return self.entries.get(geometry) or self.entries.get(geometry.exported())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as JSON, beside its place and then renamed.

        Raises:
            LatencyError: If the file cannot be written.
        """
        target = need_path(path)
        try:
            with replacing(target) as beside:
                beside.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise LatencyError(f"cannot write {target}: {error.strerror or error}") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LatencyTable:
        """Read a table that :meth:`save` wrote, here or on another machine.

        Raises:
            FileFormatError: If there is no such file, or it is not such a table; says what is wrong with it.
        """
        source = need_path(path)
        try:
            data = json.loads(source.read_text(encoding="utf-8"))
            return cls.from_dict(data)
        except OSError as error:
            raise FileFormatError(f"cannot read {source}: {error.strerror or error}") from error
        except (ValueError, TypeError, LatencyError, RecursionError) as error:
            raise FileFormatError(f"{source} is no latency table: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; the inverse of :meth:`from_dict`."""
        fields = {key: value for key, value in vars(self).items() if key != "entries"}
        entries = [{"geometry": _lean(key), "grid": asdict(grid)} for key, grid in self.entries.items()]
        return {"format": FORMAT, "version": VERSION, **fields, "entries": entries}

    @classmethod
    def from_dict(cls, data: Any) -> LatencyTable:
        """A table from plain data.

        Raises:
            LatencyError: If the data is something else; says what is wrong.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise LatencyError(f'it has no "format": "{FORMAT}"')
        if data.get("version") != VERSION:
            raise LatencyError(
                f"it has version {data.get('version')!r}, this release reads version {VERSION}"
            )
        fields = {key: value for key, value in data.items() if key not in ("format", "version")}
        try:
            read = build(_TableData, fields, "the table")
        except TypeError as error:
            raise LatencyError(str(error)) from error
        entries = {entry.geometry: entry.grid for entry in read.entries}
        return cls(**{**vars(read), "entries": entries})

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise LatencyError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if min(self.threads, self.batch_size) < 1:
            raise LatencyError(
                f"threads and batch_size must be at least 1, got {self.threads} and {self.batch_size}"
            )
        for name in ("call_ms", "reference_ms"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise LatencyError(
                    f"{name} must be a finite number of milliseconds, got {getattr(self, name)}"
                )
        if not all(0 <= time < float("inf") for time in self.networks.values()):
            raise LatencyError("the times of whole networks must be finite numbers of milliseconds")


@dataclass
class _Entry:
    geometry: LayerGeometry
    grid: LatencyGrid


@dataclass
class _TableData:
    """The fields of a file, so that each is read with its type."""

    engine: str
    engine_version: str
    processor: str
    threads: int
    batch_size: int
    precision: str
    call_ms: float
    entries: list[_Entry]
    reference_ms: float = 0.0
    networks: dict[str, float] = field(default_factory=dict)


def _lean(geometry: LayerGeometry) -> dict[str, Any]:
    """Fields of a geometry without those that are as by default."""
    return {key: value for key, value in asdict(geometry).items() if value not in ((), "", False)}
