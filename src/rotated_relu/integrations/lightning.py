"""Lightning callbacks: the L1 penalty on the slopes, or a budget that takes as many to zero as must go."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..core.arguments import checked
from ..core.errors import SlopeError
from ..core.extras import needs
from ..core.modules import Inputs
from ..nn.penalty import ALIVE_AT, add_l1_subgradient, alive_at
from ..nn.slopes import check_slopes
from ..pruning.budget import SlopeBudget

needs("lightning")
import lightning  # noqa: E402
from lightning.pytorch.callbacks import Callback  # noqa: E402


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

    @checked()
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


class KeepBudget(Callback):
    """Takes slopes to exactly zero until the rest of the network meets a budget: ``rr.SlopeBudget`` in a Trainer.

    It acts after every optimizer step, knows the length of the run from the Trainer, and is part of its checkpoints.

    Args:
        example_inputs: For one forward pass of the network.
        keep: Share of the ``unit`` that the compacted network may keep, above 0 and at most 1.
        part: Name of the submodule that is the network; the whole module if empty.
        options: ``unit``, ``score``, ``start``, ``end`` and ``window`` of :class:`~rotated_relu.SlopeBudget`.

    Raises:
        SlopeError: At the start of the fit, if the network has no slopes, an option is out of range, or the Trainer
            does not know how many steps it will take.

    Example::

        >>> lightning.Trainer(max_epochs=20, callbacks=[KeepBudget(images[:1], keep=0.5)]).fit(module, loader)
    """

    @checked()
    def __init__(self, example_inputs: Inputs, keep: float = 0.5, *, part: str = "", **options: Any) -> None:
        self.example_inputs, self.keep, self.part, self.options = example_inputs, keep, part, options
        self.budget: SlopeBudget | None = None
        self._kept: Mapping[str, Any] | None = None
        self._steps_seen = 0

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Set the budget up for the length of this run, or go on from a checkpoint."""
        steps = trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise SlopeError("a budget needs a Trainer that ends: give it max_epochs or max_steps")
        net = pl_module.get_submodule(self.part) if self.part else pl_module
        self.budget = SlopeBudget(net, self.example_inputs, int(steps), self.keep, **self.options)
        if self._kept is not None:
            self.budget.load_state_dict(self._kept)
        self._steps_seen = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Move the chosen slopes, if the optimizer has stepped: its gradients are still there."""
        if self.budget is not None and trainer.global_step > self._steps_seen:
            self._steps_seen = trainer.global_step
            self.budget.step()

    def state_dict(self) -> dict[str, Any]:
        """For the Trainer's checkpoint."""
        return {} if self.budget is None else self.budget.state_dict()

    @checked()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From the Trainer's checkpoint.

        Raises:
            ArgumentError: If it is no dictionary.
        """
        self._kept = state_dict or None
