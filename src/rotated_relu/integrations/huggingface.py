"""Callbacks for the Hugging Face ``Trainer``: the L1 penalty on the slopes, or a budget of what may remain.

Needs ``pip install 'rotated-relu[huggingface]'``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..core.arguments import checked
from ..core.errors import SlopeError
from ..core.extras import needs
from ..core.modules import Inputs
from ..nn.penalty import ALIVE_AT, add_l1_subgradient, alive_at
from ..nn.slopes import check_slopes
from ..pruning.budget import SlopeBudget

needs("transformers", "accelerate")
from transformers import TrainerCallback  # noqa: E402


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

    @checked()
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


class KeepBudget(TrainerCallback):  # type: ignore[misc]
    """Takes slopes to exactly zero until the rest of the model meets a budget: ``rr.SlopeBudget`` in a Trainer.

    It acts after every optimizer step and knows the length of the run from the Trainer. It is not part of the Trainer's
    checkpoints: a run that is resumed is refused.

    Args:
        example_inputs: For one forward pass of the model.
        keep: Share of the ``unit`` that the compacted model may keep, above 0 and at most 1.
        part: Name of the submodule that is cut; the whole model if empty.
        options: ``unit``, ``score``, ``start``, ``end`` and ``window`` of :class:`~rotated_relu.SlopeBudget`.

    Raises:
        SlopeError: At the start of the training, if the model has no slopes, an option is out of range, or the run is
            resumed from a checkpoint.

    Example::

        >>> Trainer(model, arguments, train_dataset=images, callbacks=[KeepBudget(examples, keep=0.5)]).train()
    """

    @checked()
    def __init__(self, example_inputs: Inputs, keep: float = 0.5, *, part: str = "", **options: Any) -> None:
        self.example_inputs, self.keep, self.part, self.options = example_inputs, keep, part, options
        self.budget: SlopeBudget | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        """Set the budget up for the length of this run."""
        if state.global_step:
            raise SlopeError(
                f"the budget began before step {state.global_step} of a run that is resumed, and its state is not in "
                "the Trainer's checkpoints; train from the start"
            )
        net = model.get_submodule(self.part) if self.part else model
        self.budget = SlopeBudget(net, self.example_inputs, int(state.max_steps), self.keep, **self.options)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the chosen slopes, while the gradients are there."""
        if self.budget is not None:
            self.budget.step()
