"""A Lightning callback: the L1 penalty on the slopes, and how many of them are alive."""

from __future__ import annotations

from collections.abc import Sequence

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from ..nn.penalty import ALIVE_AT, add_l1_subgradient, alive_at
from ..nn.slopes import check_slopes


class SlopePenalty(Callback):
    """Adds ``strength * sign(a)`` to the gradient of every slope, and logs the slopes alive after every epoch.

    The gradients are touched after unscaling and after reduction over the processes, so the penalty is the same under
    any precision, accumulation and number of machines. The module itself is not changed.

    Args:
        strength: Of the L1 penalty, published as 1e-4.
        thresholds: Log ``alive_at_<zeta>`` for each, the number of slopes with ``|a| >= zeta``.

    Raises:
        SlopeError: At the start of the fit, if the module has no slopes or one is not finite.

    Source: Nayak and Kalyani, TMLR 2024.

    Example::

        >>> lightning.Trainer(callbacks=[SlopePenalty(1e-4)]).fit(module, loader)
    """

    def __init__(self, strength: float = 1e-4, thresholds: Sequence[float] = ALIVE_AT) -> None:
        self.strength = strength
        self.thresholds = tuple(thresholds)

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Refuse a module that has nothing to pull."""
        check_slopes(pl_module)

    def on_before_optimizer_step(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Add the penalty's subgradient to the slopes that this optimizer steps."""
        own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        slopes = check_slopes(pl_module).values()
        add_l1_subgradient((slope for slope in slopes if id(slope) in own), self.strength)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Log the counts."""
        pl_module.log_dict({key: float(n) for key, n in alive_at(pl_module, self.thresholds).items()})
