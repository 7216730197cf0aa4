"""Checkpoints: the last two, each whole, read without unpickling anything but tensors."""

from __future__ import annotations

import contextlib
import os
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ...core.errors import CheckpointWarning, RunError
from ...core.run_directory import Run, explained, replacing
from ..config import Config
from ..images import resolved

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
FORMAT = 2  # 1 was that of Lightning's trainer


class _Unusable(Exception):
    """A checkpoint that cannot be read, and why."""


def write(run: Run, state: dict[str, Any]) -> None:
    """Write beside, keep the last one as the previous one, rename.

    Raises:
        RunError: If the directory is not writable or the disk is full; what was there is kept then.
    """
    last, previous = run.checkpoints / LAST, run.checkpoints / PREVIOUS
    with explained(run.checkpoints):
        run.checkpoints.mkdir(parents=True, exist_ok=True)
    with replacing(last) as beside:
        with _true_cause(), beside.open("wb") as file:
            torch.save({"format": FORMAT, **state}, file)
        if last.is_file():
            # Killed between the two renames, the run has no last checkpoint, but a previous one.
            os.replace(last, previous)


def read(run: Run, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The newest checkpoint that can be read; None if there is none at all.

    Args:
        run: The run.
        identity: Its settings (:meth:`Config.identity`); the checkpoint must have the same.

    Warns:
        CheckpointWarning: If one cannot be read, and the one before is taken.

    Raises:
        RunError: If none of those that exist can be read, or one is of other settings or of another version.
    """
    refused: list[str] = []
    for path in (run.checkpoints / LAST, run.checkpoints / PREVIOUS):
        if not os.path.lexists(path):
            continue
        if path.is_dir():  # no checkpoint could be written either, after an epoch of work
            raise RunError(f"{path} is a folder, where a checkpoint is to be; move it away")
        try:
            state = _load(path)
        except _Unusable as error:
            refused.append(f"{path} {error}")
            continue
        _check(path, state, identity)
        if refused:
            message = f"{'; '.join(refused)}; going on from {path.name} instead"
            warnings.warn(message, CheckpointWarning, stacklevel=2)
        return state
    if refused:
        raise RunError(
            f"no checkpoint can be read: {'; '.join(refused)}; put back a copy, or delete {run.checkpoints} to "
            "start over"
        )
    return None


def _load(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _Unusable(
            "is damaged, or holds more than tensors and numbers (a pickle can run any code); it was not executed"
        ) from error
    except Exception as error:  # a damaged archive raises whatever its reader meets first
        raise _Unusable(f"is truncated or damaged ({type(error).__name__})") from error
    if not isinstance(state, dict):
        raise _Unusable("is no checkpoint of a run")
    return state


def _check(path: Path, state: dict[str, Any], identity: dict[str, Any]) -> None:
    if state.get("format") != FORMAT:
        raise RunError(
            f"{path} was written by another version of rotated-relu (format {state.get('format', 1)}, this one reads "
            f"{FORMAT}); finish the run with that version, or delete {path.parent} to start over"
        )
    # A setting that came later than the checkpoint has its default there.
    found = resolved(Config.from_dict(state.get("config"))).identity()
    if found != identity:
        different = ", ".join(differences(found, identity))
        raise RunError(
            f"{path} belongs to a run with other settings ({different}); put back the checkpoints of this run, or "
            f"delete {path.parent} to start over"
        )


def differences(found: Any, wanted: Any, prefix: str = "") -> list[str]:
    """Each setting that differs, with both values."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = sorted(found.keys() | wanted.keys())
        return [
            text
            for key in keys
            for text in differences(found.get(key), wanted.get(key), f"{prefix}.{key}".lstrip("."))
        ]
    return [] if found == wanted else [f"{prefix} {found!r}, asked for {wanted!r}"]


@contextlib.contextmanager
def _true_cause() -> Iterator[None]:
    """torch words a full disk as an error of its archive writer; the system's error is what helps."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
