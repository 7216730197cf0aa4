"""What pulls slopes to zero during training, and which parameters decay.

With s the strength, the published penalty adds ``s * sign(a)`` to the gradient of every slope ``a``. Under
SGD with momentum m this moves a slope that the loss does not hold by ``s * lr / (1 - m)`` per step, so over a
run by ``s * sum(lr) / (1 - m)`` in all: a short run needs a stronger pull than a long one to take a slope
from 1 to 0. The proximal form takes the same total off the absolute value after each step, and stops at
exactly zero.

Source: Nayak and Kalyani, TMLR 2024; the penalty is that of Liu et al., *Network Slimming*, 2017.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .slopes import slopes

ALIVE_AT = (0.001, 0.01, 0.04, 0.1)  # thresholds at which slopes are counted while they train


def slope_l1(net: nn.Module) -> Tensor:
    """Sum of the absolute values of all slopes: a differentiable scalar, 0 if the network has none.

    Example::

        >>> loss = cross_entropy(net(images), labels) + 1e-4 * rr.slope_l1(net)
    """
    sizes = [slope.abs().sum() for slope in slopes(net).values()]
    return torch.stack(sizes).sum() if sizes else torch.zeros(())


@torch.no_grad()
def add_l1_subgradient(parameters: Iterable[nn.Parameter], strength: float) -> None:
    """Add ``strength * sign(a)`` to the gradients of those slopes that have one."""
    for slope in parameters:
        if slope.grad is not None:
            slope.grad.add_(slope.sign(), alpha=strength)


def alive_at(net: nn.Module, thresholds: Sequence[float] = ALIVE_AT) -> dict[str, int]:
    """Count the slopes with ``|a| >= zeta``: ``{"alive_at_0.01": 600, ...}``; empty without slopes."""
    return count_alive(slopes(net).values(), thresholds)


def count_alive(values: Iterable[Tensor], thresholds: Sequence[float] = ALIVE_AT) -> dict[str, int]:
    """The same for the slopes themselves."""
    sizes = [slope.detach().abs().flatten() for slope in values]
    if not sizes:
        return {}
    return {f"alive_at_{zeta:g}": int((torch.cat(sizes) >= zeta).sum()) for zeta in thresholds}


@torch.no_grad()
def shrink(parameters: Iterable[nn.Parameter], amount: float) -> None:
    """Take ``amount`` off the absolute value of every slope, stopping at exactly 0 (proximal step of L1)."""
    for slope in parameters:
        slope.copy_(slope.sign() * (slope.abs() - amount).clamp_min(0))


def parameter_groups(net: nn.Module, weight_decay: float, decay_slopes: bool = True) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer.

    Args:
        net: The network.
        weight_decay: For every parameter, as published.
        decay_slopes: False puts the slopes into a group of their own without weight decay.
    """
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    apart = {id(slope) for slope in slopes(net).values()}
    if decay_slopes or not apart:
        return [{"params": trained, "weight_decay": weight_decay}]
    return [
        {"params": [p for p in trained if id(p) not in apart], "weight_decay": weight_decay},
        {"params": [p for p in trained if id(p) in apart], "weight_decay": 0.0},
    ]
