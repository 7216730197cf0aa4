"""Time the pruned networks of a comparison beside the plain one."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ...deploy.conversion import raw_onnx
from ...deploy.engines import engine_named, graph_runner
from ...deploy.fastest import fastest_graph
from ...deploy.timing import compare_latency
from .task import Task


def check_engines(names: tuple[str, ...]) -> dict[str, str]:
    """The engines with their versions.

    Raises:
        UnknownNameError: If there is no such engine that runs graphs.
        MissingPackageError: If its package is not installed.
    """
    return {name: engine_named(name, "graph").version() for name in names}


def latencies(task: Task, plain: nn.Module, small: nn.Module) -> list[dict[str, Any]]:
    """Both networks in turn, in every engine and at every batch size of the settings.

    The plain one as torch exports it, the small one, whatever made it, in the layout that runs fastest there.

    Returns:
        For each pair ``engine``, ``batch_size``, ``ms`` and ``plain_ms`` of the whole batch, and ``speedup``.
    """
    found = []
    for batch_size in task.settings.batch_sizes:
        inputs = task.images.validation.normalised(torch.arange(batch_size) % len(task.images.validation))
        exported = {"plain": raw_onnx(plain, inputs), "small": raw_onnx(small, inputs)}
        for engine in task.settings.engines:
            contents = {
                "plain": exported["plain"].content,
                "small": fastest_graph(exported["small"], [inputs], engine=engine).content,
            }
            runs = {name: graph_runner(content, inputs, engine=engine) for name, content in contents.items()}
            timed = compare_latency(runs, task.settings.latency_repeats)
            found.append(
                {
                    "engine": engine,
                    "batch_size": batch_size,
                    "ms": timed.medians_ms["small"],
                    "plain_ms": timed.medians_ms["plain"],
                    "speedup": timed.speedup("small", over="plain"),
                }
            )
    return found
