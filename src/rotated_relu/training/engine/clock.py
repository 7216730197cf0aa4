"""Where the time of a step goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable

import torch

PHASES = ("data", "forward", "backward", "optimizer", "penalty", "other")


class Clock:
    """Told at the end of each phase of a step; this one does not look at the time."""

    def lap(self, phase: str) -> None:
        """The phase that ends now."""


class Stopwatch(Clock):
    """Adds up the seconds of each phase; waits for the accelerator at every one, which slows training a little.

    Attributes:
        seconds: Per phase.
    """

    def __init__(self, device: torch.device) -> None:
        self._wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else _nothing
        self.seconds: dict[str, float] = defaultdict(float)
        self.restart()

    def restart(self) -> None:
        """Count from now, with nothing counted yet."""
        self.seconds.clear()
        self._wait()
        self._since = time.perf_counter()

    def lap(self, phase: str) -> None:
        """Add the time since the last call to ``phase``."""
        self._wait()
        now = time.perf_counter()
        self.seconds[phase] += now - self._since
        self._since = now


def _nothing() -> None: ...
