"""Torch-Pruning's sparse training: a penalty on groups of coupled channels while the network trains.

``GroupNormPruner.regularize`` is called between the backward pass and the optimizer's step, as its documentation asks:
it adds ``reg * 2^(4 * r)`` times a weight to its gradient, r from 0 (the most important channel of its group) to 1.
Source: Fang et al., *DepGraph: Towards Any Structural Pruning*, CVPR 2023.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from ...training import Config
from ...training.engine.schedules import total_shrinkage
from .coupled import left_alone, torch_pruning


@contextlib.contextmanager
def group_sparsity(
    net: nn.Module, example_inputs: Tensor, config: Config, strength: float, steps: int
) -> Iterator[None]:
    """Within the ``with`` block, the optimizer that trains ``net`` sees the penalty's gradient too.

    Args:
        net: A network without slopes.
        example_inputs: For one forward pass.
        config: How it trains.
        strength: The exponent of the decay of the most important channel over the whole run: without a loss it would
            end at ``exp(-strength)`` of its size, the least important one at ``exp(-16 * strength)``.
        steps: Optimizer steps of the run.
    """
    tp = torch_pruning()
    reg = strength / _shrinkage_of_one(config, steps)
    ignored = [net.get_submodule(name) for name in left_alone(net, example_inputs)]
    training = net.training
    pruner = tp.pruner.GroupNormPruner(
        net.eval(),
        example_inputs,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        reg=reg,
        global_pruning=True,
        ignored_layers=ignored,
    )
    net.train(training)

    def before_step(optimizer: Any, args: Any, kwargs: Any) -> None:
        pruner.regularize(net)

    handle = register_optimizer_step_pre_hook(before_step)
    try:
        yield
    finally:
        handle.remove()


def _shrinkage_of_one(config: Config, steps: int) -> float:
    """What a penalty of strength 1 adds up to over the run."""
    one = dataclasses.replace(
        config, slope_l1=1.0, total_shrinkage=0.0, penalized="norms", slope_l1_ramp=(0.0, 0.0)
    )
    return total_shrinkage(one, steps)
