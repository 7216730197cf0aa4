"""A callback for the Hugging Face ``Trainer``: the L1 penalty on the slopes, and how many of them are alive.

Needs ``pip install transformers accelerate``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..nn.penalty import ALIVE_AT, add_l1_subgradient, alive_at
from ..nn.slopes import check_slopes

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise ImportError(
        "rotated_relu.integrations.huggingface needs the package transformers: pip install transformers accelerate"
    ) from error


class SlopePenalty(TrainerCallback):  # type: ignore[misc]
    """Adds ``strength * sign(a)`` to the gradient of every slope before each optimizer step, after clipping.

    Whatever the Trainer logs also gets ``alive_at_<zeta>``, the number of slopes with ``|a| >= zeta``. With fp16, keep
    ``max_grad_norm`` above 0, as it is by default: clipping is what unscales the gradients.

    Args:
        strength: Of the L1 penalty, published as 1e-4.
        thresholds: The zetas.

    Raises:
        SlopeError: At the start of the training, if the model has no slopes or one is not finite.

    Source: Nayak and Kalyani, TMLR 2024.

    Example::

        >>> Trainer(model, arguments, train_dataset=images, callbacks=[SlopePenalty(1e-4)]).train()
    """

    def __init__(self, strength: float = 1e-4, thresholds: Sequence[float] = ALIVE_AT) -> None:
        self.strength = strength
        self.thresholds = tuple(thresholds)

    def on_train_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        """Refuse a model that has nothing to pull."""
        check_slopes(model)

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any
    ) -> None:
        """Add the penalty's subgradient."""
        add_l1_subgradient(check_slopes(model).values(), self.strength)

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: nn.Module,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the counts to what was logged."""
        counts = alive_at(model, self.thresholds)
        if logs is not None:
            logs.update(counts)
        if state.log_history:
            state.log_history[-1].update(counts)
