"""Train a network on, once: into a run directory that goes on where it was stopped, and is read when it is done."""

from __future__ import annotations

import contextlib
from pathlib import Path

from torch import nn

from ...core.run_directory import Run
from ...training import Config, finetune
from ...training.trained import read_weights, write_weights
from .group_sparsity import group_sparsity
from .task import Task


def trained_on(
    task: Task,
    net: nn.Module,
    config: Config,
    path: Path,
    *,
    teacher: nn.Module | None = None,
    group_strength: float = 0.0,
) -> nn.Module:
    """The network after its training, in eval mode; ``net`` itself is changed.

    Args:
        task: The comparison.
        net: What begins.
        config: How it trains.
        path: The run directory.
        teacher: What it learns from beside the labels, as ``config.distill`` says.
        group_strength: Of Torch-Pruning's penalty on groups; 0 is none.
    """
    run = Run(path)
    if run.has("weights"):
        return read_weights(net, run.file("weights"))
    with contextlib.ExitStack() as stack:
        if group_strength:
            steps = len(task.images.train) // config.batch_size * config.epochs
            stack.enter_context(
                group_sparsity(net, task.example_inputs, config, group_strength, max(1, steps))
            )
        finetune(
            net,
            config,
            task.images,
            run.path,
            progress=task.progress,
            device=task.device,
            teacher=teacher if config.distill.weight > 0 else None,
        )
    write_weights(run, net)
    return net
