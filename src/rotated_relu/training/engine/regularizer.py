"""What drives slopes to zero within the training loop: nothing, the L1 penalty, a budget, or both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...nn.penalty import add_l1_subgradient, shrink
from ...nn.slopes import slopes
from ...pruning.budget import SlopeBudget
from ...pruning.latency.table import LatencyTable
from ..config import Config
from .schedules import in_strength, momentum_factor, penalty_strength


class Regularizer:
    """Acts before and after every optimizer step.

    Args:
        net: The network, with slopes folded into their consumers' weights or not, on its device.
        config: The run.
        image_shape: Channels, height and width.
        steps: Optimizer steps of the whole run.
    """

    def __init__(self, net: nn.Module, config: Config, image_shape: tuple[int, ...], steps: int) -> None:
        self._config = in_strength(config, steps)
        self._penalized = _penalized(net, config.penalized)
        self._slopes = slopes(net)
        self.budget: SlopeBudget | None = None
        if config.budget.keep < 1:
            self.budget = _budget(net, config, image_shape, steps)

    @property
    def acts(self) -> bool:
        """Whether there is anything to do."""
        return self.budget is not None or self._config.slope_l1 > 0

    @property
    def needs_gradients(self) -> bool:
        """Whether gradients are read, and so must not carry a loss scale."""
        return self.budget is not None or self._is("subgradient")

    def strength(self, position: float) -> float:
        """Of the L1 penalty at ``position``, in [0, 1], of the run."""
        return penalty_strength(self._config, position)

    def before(self, position: float) -> None:
        """Between the backward pass and the optimizer's step."""
        if self._is("subgradient"):
            add_l1_subgradient(self._penalized, self.strength(position))

    def after(self, position: float, lr: float, loss: Callable[[], float] | None) -> None:
        """After the optimizer's step, with the gradients still there; ``loss`` as of the budget's step."""
        if self._is("proximal"):
            shrink(self._penalized, self.strength(position) * lr * momentum_factor(self._config))
        if self.budget is not None:
            self.budget.step(loss)

    def zeros(self) -> dict[str, Tensor]:
        """Where slopes have come to exactly zero, by name: an average over the past would not be."""
        if self.budget is None and not self._is("proximal"):
            return {}
        return {name: slope.detach() == 0 for name, slope in self._slopes.items()}

    def left(self) -> dict[str, float]:
        """What a budget has left of its unit, in percent, as ``macs_left``; empty without a budget."""
        return {} if self.budget is None else {f"{self.budget.unit}_left": 100 * self.budget.left()}

    def state_dict(self) -> dict[str, Any]:
        """What a run that is resumed needs."""
        return {} if self.budget is None else {"budget": self.budget.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        if self.budget is not None:
            self.budget.load_state_dict(state["budget"])

    def _is(self, form: str) -> bool:
        return self._config.slope_l1 > 0 and self._config.penalty_form == form


def _budget(net: nn.Module, config: Config, image_shape: tuple[int, ...], steps: int) -> SlopeBudget:
    b = config.budget
    return SlopeBudget(
        net,
        torch.zeros(1, *image_shape),
        steps,
        b.keep,
        unit=b.unit,
        table=None if b.table is None or b.unit != "latency" else LatencyTable.load(b.table),
        score=b.score,
        start=b.start,
        end=b.end,
        window=b.window,
        round_to=b.round_to,
    )


def _penalized(net: nn.Module, what: str) -> list[nn.Parameter]:
    if what == "slopes":
        return list(slopes(net).values())
    norms = (module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
    return [norm.weight for norm in norms if norm.affine]
