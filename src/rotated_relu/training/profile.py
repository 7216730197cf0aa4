"""Where a training step's time goes."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from typing import Any

from .config import Config
from .data.splits import ImageData
from .engine.clock import PHASES, Stopwatch
from .engine.distributed import quieten_lightning, start
from .engine.loop import Loop
from .fitting import loop_over
from .trained import build_model

WARM_UP, STEPS = 5, 40


def profile(
    config: Config, images: ImageData, device: str = "auto", *, warm_up: int = WARM_UP, steps: int = STEPS
) -> dict[str, Any]:
    """Train a fresh network for some steps and time their phases; nothing is written.

    Args:
        config: The run.
        images: Its images.
        device: What to train on.
        warm_up: Steps before the timed ones.
        steps: Timed steps.

    Returns:
        Plain data: ``milliseconds_per_step``, ``images_per_second`` (over all processes), ``steps``, ``device``, and
        per phase ``milliseconds`` and ``share``: ``data`` (fetching, moving, varying, normalising), ``forward``
        (network and loss), ``backward``, ``optimizer``, ``penalty`` (the slopes' L1) and ``other`` (counting, average).
    """
    net = build_model(config, images)
    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        quieten_lightning()
        fabric = start(config, device)
        loop = loop_over(net, config, images, None, fabric, "none", stack)
        watch = Stopwatch(fabric.device)
        loop.stepper.clock = watch
        _run(loop, warm_up, watch)
        watch.restart()
        _run(loop, steps, watch)
    total = sum(watch.seconds.values())
    return {
        "milliseconds_per_step": 1000 * total / steps,
        "images_per_second": loop.batches.batch_size * steps / total,
        "steps": steps,
        "device": str(fabric.device),
        "phases": {
            phase: {
                "milliseconds": 1000 * watch.seconds[phase] / steps,
                "share": watch.seconds[phase] / total,
            }
            for phase in PHASES
        },
    }


def _run(loop: Loop, steps: int, watch: Stopwatch) -> None:
    """That many steps, over as many epochs as they need."""
    progress = loop.progress
    loop.stepper.net.train()
    epochs = (pieces for epoch in itertools.count(progress.epoch) for pieces in loop.batches.epoch(epoch))
    for pieces in itertools.islice(epochs, steps):
        watch.lap("data")
        loop.stepper.step(pieces, progress)
        # The schedule knows no position beyond the run's end.
        progress.step %= len(loop.batches)
