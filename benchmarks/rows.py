"""A file of measurements that several commands fill: each row says which command made it, on which machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rotated_relu.core.environment import environment

Row = dict[str, Any]


class RowFile:
    """``runs``, a list of commands with their machine, and ``rows``, whose ``run`` is a place in that list.

    Args:
        path: Read if it is there.
        threads: Of every measurement.
    """

    def __init__(self, path: Path, threads: int) -> None:
        found = json.loads(path.read_text()) if path.is_file() else {"runs": [], "rows": []}
        self.path, self.threads = path, threads
        self.runs: list[Row] = found["runs"]
        self.rows: list[Row] = found["rows"]

    def add(self, *rows: Row) -> None:
        """Add rows of this very command, and write the file."""
        run = {"command": " ".join(["python", *sys.argv]), "environment": environment()}
        if run not in self.runs:
            self.runs.append(run)
        self.rows += [{"run": self.runs.index(run), **row} for row in rows]
        written = {"threads": self.threads, "runs": self.runs, "rows": self.rows}
        self.path.write_text(json.dumps(written, indent=1) + "\n")
