"""Signals during training: noted when they arrive, obeyed between two steps.

TERM and INT keep the state and stop; USR1, which schedulers send before a job's time is up, keeps it and goes on.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

STOPPING = (signal.SIGTERM, signal.SIGINT)
# Windows has no USR1.
KEEPING = tuple(getattr(signal, name) for name in ("SIGUSR1",) if hasattr(signal, name))


class Terminated(KeyboardInterrupt):
    """TERM stopped the training; its state was kept. Ctrl-C gives a plain ``KeyboardInterrupt``."""


class Signals:
    """Notes signals within a ``with`` block; the former handlers are back afterwards.

    Attributes:
        stop: The signal that asked to stop, if one did.
        keep: Whether one asked to keep the state.
    """

    def __init__(self) -> None:
        self.stop: int | None = None
        self.keep = False
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        # Python lets only the main thread handle signals.
        if threading.current_thread() is threading.main_thread():
            for number in (*STOPPING, *KEEPING):
                self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            # A handler that was not installed from Python is reported as None.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number in KEEPING:
            self.keep = True
        elif number == signal.SIGINT and self.stop == signal.SIGINT:
            # Asked twice: somebody does not want to wait for the step.
            raise KeyboardInterrupt
        else:
            self.stop = number


def reason(number: int) -> KeyboardInterrupt:
    """The exception that tells the caller which signal stopped the training."""
    return Terminated() if number == signal.SIGTERM else KeyboardInterrupt()


def ignore_signals(worker: int = 0) -> None:
    """Let a data worker live until its trainer ends: schedulers signal every process of a job."""
    for number in (*STOPPING, *KEEPING):
        signal.signal(number, signal.SIG_IGN)
