"""A trained network in, a smaller one out: from weights and data to network, ONNX file, measurements and page.

The stages, each of which goes on where it was stopped:

1. **Bring** (:mod:`.original`). The network is built and filled, and its accuracy on the validation images is taken.
   One that guesses is refused: its weights or its preprocessing are not what they should be.
2. **Choose** (:mod:`.trainings`). Slopes of 1, the same function; in the first part of the epochs a budget takes slopes
   to exactly 0.
3. **Remove.** What depends on them goes; the result is verified.
4. **Train on.** The small network, for the rest of the epochs, along the same learning rate schedule.
5. **Deliver** (:mod:`.delivery`). Export, measurements beside the original, test accuracy of both, read once, and the
   page.

A trained network may have seen every training image, those that are held out here too. So nothing is *chosen* by
accuracy: the budget decides how much goes, and the validation images only tell how it fares.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...core import messages
from ...core.errors import RunError
from ...core.messages import Say
from ...core.run_directory import Run, write_json
from ..run_networks import RunNetworks
from . import delivery
from .original import copy_original, write_original
from .settings import BUDGETS, CHOOSING, TRAINING_ON, Shrinking, holds, record_of
from .trainings import shrink_network


def shrink_run(
    wanted: Shrinking,
    out: Path,
    *,
    openvino: bool = False,
    device: str = "auto",
    progress: str = "none",
    command: str | None = None,
    say: Say = messages.say,
) -> dict[str, Any]:
    """Shrink a trained network into a run directory; the same call again goes on where it was stopped.

    Args:
        wanted: What and how much. Code that ``wanted.model`` names is executed.
        out: The run directory; made if need be.
        openvino: Export for OpenVINO as well.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        progress: ``bar``, ``lines`` or ``none``.
        command: What made it, for the page.
        say: Called with what is about to be done.

    Returns:
        What ``summary.json`` holds.

    Raises:
        RunError: If ``out`` holds another run or several, or the network does no better than guessing.
        RotationError, PlanError, FileFormatError: If network and weights cannot be brought together.
        DataError: If the images cannot be read.
    """
    if runs_in(out):
        raise RunError(f"{out} holds runs of several budgets; choose another directory")
    loaded = made_small(wanted, out, device=device, progress=progress, say=say)
    if not delivery.is_complete(loaded.run, openvino):
        with clocked(loaded.run):
            delivery.export(loaded, openvino, say)
            delivery.measure(loaded, say)
    return delivery.finish(loaded, command, say)


def runs_in(folder: Path) -> list[Run]:
    """The runs of several budgets in a folder, each in one of its own."""
    found = [path for name in BUDGETS for path in folder.glob(f"{name}-*/shrinking.json")]
    return [Run(path.parent) for path in sorted(found)]


def made_small(
    wanted: Shrinking, out: Path, *, device: str, progress: str, say: Say, sibling: Run | None = None
) -> RunNetworks:
    """The run with its small network, before anything is made of it; arguments as of :func:`shrink_run`.

    Args:
        wanted: As there.
        out: As there.
        device: As there.
        progress: As there.
        say: As there.
        sibling: A run from the same original, from which that is taken instead of being brought again.
    """
    begun = time.monotonic()
    loaded = with_original(wanted, out, say, sibling, device)
    run = loaded.run
    if not run.has("compact"):
        with clocked(run, begun), run.claimed():
            shrink_network(loaded, device, progress, say)
    for folder in (CHOOSING, TRAINING_ON):
        run.discard_folder(folder)
    return loaded


def with_original(
    wanted: Shrinking, out: Path, say: Say, sibling: Run | None = None, device: str = "auto"
) -> RunNetworks:
    """The run with the network that is to be shrunk; arguments as of :func:`made_small`."""
    from ...training.engine.distributed import check_hardware

    wanted = wanted.located()
    _check_times(wanted)
    check_hardware(device, wanted.compile)
    run = Run.create(out)
    _trust(wanted)
    if not holds(run, wanted):
        with run.claimed():
            if sibling is None:
                write_original(wanted, run, say, device)
            else:
                copy_original(sibling, wanted, run)
    return RunNetworks(run)


def _check_times(wanted: Shrinking) -> None:
    """Find out before the work whether there are times to count by.

    Raises:
        FileFormatError: If the file is no table.
        UnknownNameError, MissingPackageError: If there is no such engine, or it is not installed.
    """
    from ...deploy.engines import engine_named
    from ...pruning.latency.table import LatencyTable

    if wanted.latency_table is not None:
        LatencyTable.load(wanted.latency_table)
    elif wanted.speedup is not None:
        engine_named(wanted.engine)


def _trust(wanted: Shrinking) -> None:
    """The person named that code."""
    from ...training.brought.trust import trust

    if wanted.model:
        trust(wanted.model)


@contextlib.contextmanager
def clocked(run: Run, begun: float | None = None) -> Iterator[None]:
    """Add the time within the ``with`` block to that of the run, which may take several calls."""
    begun = time.monotonic() if begun is None else begun
    try:
        yield
    finally:
        known = record_of(run)
        write_json(run.file("shrinking"), {**known, "seconds": known["seconds"] + time.monotonic() - begun})
