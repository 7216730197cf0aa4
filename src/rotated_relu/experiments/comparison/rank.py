"""Score the channels of one trained network in the way of a method."""

from __future__ import annotations

import copy
import dataclasses

from torch import Tensor, nn

from ...nn.rotate import rotate
from ...nn.slopes import slopes
from ...pruning.importance import random_scores, slope_scores
from ...training import Config, build_model, loss_scores
from .prune import RankedChannels
from .task import Task


def ranked(task: Task, net: nn.Module, config: Config, rank: str) -> RankedChannels:
    """What prunes single channels of ``net``, the lowest score first.

    Args:
        task: The comparison.
        net: A trained network, with slopes or without.
        config: How it was trained.
        rank: ``slope``, ``taylor`` (per multiply-accumulate), ``random`` or ``norm`` (scales of the batch norms).
    """
    net = net if slopes(net) else with_slopes(task, net, config)
    companions: dict[str, list[str]] = {}
    scores: dict[str, Tensor]
    if rank == "slope":
        scores = slope_scores(net)
    elif rank == "taylor":
        scores = loss_scores(net, task.images, config, task.example_inputs)
    elif rank == "random":
        scores = random_scores(net, config.seed)
    else:
        norms = [n for n, m in net.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        scores = {f"{n}.weight": net.get_parameter(f"{n}.weight").detach().abs() for n in norms}
        companions = {f"{n}.weight": [f"{n}.bias"] for n in norms}
    return RankedChannels(net, scores, task.example_inputs, companions)


def with_slopes(task: Task, net: nn.Module, config: Config) -> nn.Module:
    """A plain network as a rotated one with all slopes 1: the same function, and channels can be taken out."""
    if task.settings.weights is not None:
        return rotate(copy.deepcopy(net), task.example_inputs, init="ones").eval()
    model = dataclasses.replace(config.model, rotated=True, slope_init="ones")
    baseline = build_model(
        dataclasses.replace(config, model=model, penalized="slopes", total_shrinkage=0.0), task.images
    )
    baseline.load_state_dict({**baseline.state_dict(), **net.state_dict()})
    return baseline.eval()
