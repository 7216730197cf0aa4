"""The slope penalty inside the criterion, for loops that take a loss function: timm's, or your own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..core.arguments import checked
from ..nn.penalty import slope_l1


class PenalisedLoss(nn.Module):
    """``criterion(scores, targets) + strength * slope_l1(net)``; in eval mode the criterion alone.

    Args:
        criterion: Any loss function, timm's ``LabelSmoothingCrossEntropy`` for example.
        net: The network, wrapped or not; its parameters do not become those of the loss.
        strength: Of the L1 penalty, published as 1e-4.

    Source: Nayak and Kalyani, TMLR 2024.

    Example::

        >>> train_loss_fn = PenalisedLoss(timm.loss.LabelSmoothingCrossEntropy(0.1), net, 1e-4)
    """

    @checked()
    def __init__(self, criterion: Callable[..., Tensor], net: nn.Module, strength: float = 1e-4) -> None:
        super().__init__()
        self.criterion = criterion
        self.strength = strength
        self._net = (net,)  # in a tuple: not a submodule

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The criterion's value, plus the penalty in training."""
        loss = self.criterion(*args, **kwargs)
        return loss + self.strength * slope_l1(self._net[0]) if self.training else loss
