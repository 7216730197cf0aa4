"""Arguments of the wrong kind, named before any work: one error instead of Python's own further in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .errors import ArgumentError


def need_number(value: Any, name: str) -> float:
    """A number, and no flag or text.

    Raises:
        ArgumentError: If it is something else; names the argument.
    """
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise ArgumentError(f"{name} must be a number, got {_kind(value)}")
    return float(value)


def need_path(value: Any, name: str = "the file") -> Path:
    """A path, from text or a path.

    Raises:
        ArgumentError: If it is something else, or empty.
    """
    if not isinstance(value, (str, os.PathLike)) or not str(value):
        raise ArgumentError(f"{name} is named by text or a path, got {_kind(value)}")
    return Path(value)


def need_callable(value: Any, name: str) -> None:
    """Something that can be called.

    Raises:
        ArgumentError: If it cannot.
    """
    if not callable(value):
        raise ArgumentError(f"{name} must be a function, got {_kind(value)}")


def _kind(value: Any) -> str:
    return repr(value) if value is None or isinstance(value, (bool, str)) else type(value).__name__
