"""The optimizer, and the moving average of the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ...nn.penalty import parameter_groups
from ...nn.slopes import slopes
from ..config import OptimizerConfig


def build_optimizer(net: nn.Module, settings: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer over the parameters of ``net`` that want gradients; slopes decay or not as the settings say."""
    groups = parameter_groups(net, settings.weight_decay, settings.decay_slopes)
    if settings.name == "adam":
        return torch.optim.Adam(groups, lr=settings.lr)
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr)
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.nesterov)


@contextlib.contextmanager
def training_only(net: nn.Module, trains: str) -> Iterator[None]:
    """Within the ``with`` block only the slopes, or only the rest, want gradients; afterwards what did before.

    The rest of the training needs no other rule: a parameter that wants no gradient is in no group of the optimizer, so
    neither weight decay nor momentum moves it.

    Args:
        net: The network.
        trains: ``all``, ``slopes`` or ``weights``, as :attr:`Config.trains`.
    """
    every = list(net.parameters())
    frozen = []
    if trains != "all":
        of_slopes = {id(slope) for slope in slopes(net).values()}
        frozen = [p for p in every if p.requires_grad and (id(p) in of_slopes) == (trains == "weights")]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


class Average:
    """Exponential moving average of a network's floating-point tensors, batch statistics included.

    After update n (from 0) it is ``d * average + (1 - d) * value`` with ``d = min(decay, (1 + n) / (10 + n))``, so that
    the initial weights do not weigh on a short run.

    Attributes:
        values: Name to average, as in the network's state dict.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.decay = decay
        self._live = {key: value for key, value in net.state_dict().items() if value.is_floating_point()}
        self.values: dict[str, Tensor] = {key: value.clone() for key, value in self._live.items()}

    @torch.no_grad()
    def update(self, number: int) -> None:
        """Take in the weights after step ``number`` (from 0) of the run."""
        decay = min(self.decay, (1 + number) / (10 + number))
        torch._foreach_lerp_(list(self.values.values()), list(self._live.values()), 1 - decay)

    @torch.no_grad()
    def clear(self, where: dict[str, Tensor]) -> None:
        """Set averages to 0 where a boolean mask of the same name says so."""
        for key, mask in where.items():
            self.values[key].masked_fill_(mask, 0)

    @torch.no_grad()
    def load(self, values: dict[str, Tensor]) -> None:
        """Take over the averages of an earlier part of the run."""
        for key, value in values.items():
            self.values[key].copy_(value)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within the ``with`` block the network computes with the averages."""
        former = {key: value.clone() for key, value in self._live.items()}
        self._copy(self.values)
        try:
            yield
        finally:
            self._copy(former)

    def apply(self) -> None:
        """Put the averages into the network for good."""
        self._copy(self.values)

    @torch.no_grad()
    def _copy(self, values: dict[str, Tensor]) -> None:
        for key, value in values.items():
            self._live[key].copy_(value)
