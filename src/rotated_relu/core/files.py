"""Write a file beside its place and rename it, so that a file under its final name is complete.

Requires: nothing of the rest of the package.
Ensures: after a crash, a full disk, Ctrl-C or ``kill -9`` the previous version lies in place, whole. What a killed
process leaves behind are files whose names begin with a dot and end in ``.part``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

PART = ".part"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to; on success it takes the place of ``path``, on failure it is deleted.

    The content is on the disk before the name points to it, so that a power cut cannot leave an empty file.

    Raises:
        OSError: If writing fails; callers word it as an error of their own.
    """
    beside = _new_file(path)
    try:
        yield beside
        # Some libraries create their files readable by the owner alone.
        beside.chmod(0o666 & ~_umask())
        _flush(beside)
        os.replace(beside, path)
    finally:
        # Nothing to do after a rename; a disk that cannot even delete has raised above already.
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def check_place(path: Path) -> None:
    """Find out before the work whether a file of this name can be written.

    Raises:
        OSError: If its folder is missing or cannot be written to, a folder has its name, or the disk is full.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "a folder has this name", str(path))
    beside = _new_file(path)
    try:
        # Bytes, not just a name: on a full disk an empty file can still be made.
        beside.write_bytes(b"0" * 4096)
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Delete what killed processes left half-written in ``folder``; call it only while nobody else writes there."""
    with contextlib.suppress(OSError):
        for path in folder.glob(f".*{PART}"):
            path.unlink(missing_ok=True)


def _new_file(path: Path) -> Path:
    """An empty file beside another, under a name that nobody can foresee: a link laid there would lead elsewhere."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PART, dir=path.parent)
    os.close(handle)
    return Path(name)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    # The system has no call that only reads it.
    current = os.umask(0)
    os.umask(current)
    return current
