r"""A trained network in, a smaller one out, at nearly the same accuracy: the whole way in one call, in plain PyTorch.

1. A copy of the network gets slopes of 1: the same function.
2. It trains on; a :class:`~rotated_relu.SlopeBudget` takes just as many slopes to exactly 0 as the budget asks for, in
   the first part of the run, few at a time.
3. As soon as the last of them is 0 the network is compacted, optimizer and momentum included, and verified.
4. The small network trains for the rest of the steps: they are the cheap ones.

The learning rate follows one cosine over the whole run. Its default is 0.02 for batches of 128 and proportional to the
batch size: a fifth of what such networks are commonly trained with from scratch, since weights that are good already
are to be kept (the linear rule: Goyal et al., *Accurate, Large Minibatch SGD*, 2017).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from ..core.arguments import checked, need_number
from ..core.counting import count_macs, count_parameters
from ..core.errors import CaptureError, DataError, SlopeError
from ..core.modules import Inputs, eval_mode
from ..core.state import copy_of
from ..nn.distillation import distillation_loss
from ..nn.folding import fast_training, plain_training
from ..nn.rotate import rotate
from ..nn.slopes import slopes
from .budget import SlopeBudget
from .latency.table import LatencyTable
from .mask import zero_mask
from .removal import Compacted, remove_channels

Batch = Any
Loss = Callable[[nn.Module, Batch], Tensor]

LR, LR_BATCH = 0.02, 128
WARMUP = 0.02  # of the run
START, END, WINDOW = (
    0.02,
    0.45,
    0.05,
)  # of the run: slopes are chosen from start to end, and at 0 a window later


@dataclass(frozen=True)
class Shrunk:
    """Result of :func:`shrink`.

    Attributes:
        compacted: The small network with plan and certificate, for ``rr.save``.
        original_score: What ``evaluate`` said of the network that was brought; None without ``evaluate``.
        score: The same of the small one.
        macs_kept: Multiply-accumulates of the small network over those of the original, 0 to 1.
        parameters_kept: Likewise.
    """

    compacted: Compacted
    original_score: float | None
    score: float | None
    macs_kept: float
    parameters_kept: float

    @property
    def model(self) -> nn.Module:
        """The small network, in eval mode."""
        return self.compacted.model


@checked()
def shrink(
    net: nn.Module,
    train_loader: Iterable[Batch],
    evaluate: Callable[[nn.Module], float] | None = None,
    *,
    keep: float = 0.5,
    steps: int,
    unit: str = "macs",
    round_to: int | None = None,
    table: LatencyTable | None = None,
    loss: Loss | None = None,
    teacher: nn.Module | bool = False,
    weight: float = 0.9,
    temperature: float = 4.0,
    example_inputs: Inputs | None = None,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
    start: float = START,
    end: float = END,
    window: float = WINDOW,
    step_done: Callable[[int, float], None] | None = None,
) -> Shrunk:
    """Make a trained network smaller while it trains on; it is copied, and never changed.

    Args:
        net: The trained network, on the device to work on; with slopes or without.
        train_loader: Training batches, started again as often as it takes. For the default loss a batch is
            ``(inputs, class indices)``, for another one whatever that takes.
        evaluate: A score of a network in eval mode, higher is better, asked at the start and at the end. Use data
            that is neither trained on nor the test set.
        keep: Share of the ``unit`` that may remain, above 0 and at most 1.
        steps: Optimizer steps in all.
        unit: ``macs``, ``parameters``, ``channels`` or ``latency``.
        round_to: Widths that are left are multiples of it; see :class:`~rotated_relu.SlopeBudget`.
        table: Measured times, for ``latency``; likewise.
        loss: ``loss(net, batch)``, a scalar, for any task. Classification by cross entropy if None.
        teacher: Another network to learn from, or True for the one that was brought; for the default loss only. With a
            loss of your own, call :func:`~rotated_relu.distillation_loss` in it.
        weight: Of the teacher's part, see :func:`~rotated_relu.distillation_loss`.
        temperature: Likewise.
        example_inputs: As in :func:`rotated_relu.rotate`; the first two inputs of the first batch if None.
        optimizer: Makes one from parameters; its learning rates are those at the top of the schedule. If None, SGD with
            Nesterov momentum 0.9, weight decay 1e-4 and a learning rate of 0.02 per 128 examples of a batch.
        start: Share of the run after which slopes are chosen.
        end: Share of the run at which all are chosen; the last reach zero at ``end + window``.
        window: Share of the run that a chosen slope takes to reach zero.
        step_done: Called after every step with its number, from 1, and the loss.

    Returns:
        :class:`Shrunk`.

    Raises:
        SlopeError: If an option is out of range, or the network has no slopes and no place for them.
        DataError: If the loader is empty, or its batches are no pairs and there is no ``loss``.
        RotationError, CaptureError, CertificateError: As of ``rotate`` and ``compact``.

    Example::

        >>> shrunk = rr.shrink(net, train_loader, accuracy, keep=0.5, steps=20 * len(train_loader), teacher=True)
        >>> rr.save(shrunk.compacted, "small.safetensors")

    Source: the steps are ours; see the module's text.
    """
    if loss is not None and teacher:
        raise SlopeError(
            "teacher= belongs to the default loss; with a loss of your own, call rotated_relu.distillation_loss in it"
        )
    first = _first(train_loader)
    if loss is None:
        _check_pair(first)
    inputs = _examples(first) if example_inputs is None else example_inputs
    student = _with_slopes(net, inputs)
    budget = SlopeBudget(
        student,
        inputs,
        steps,
        keep,
        unit=unit,
        table=table,
        round_to=round_to,
        start=start,
        end=end,
        window=window,
    )
    original = None if evaluate is None else _score(evaluate, net)
    objective = loss or Classification(net if teacher is True else teacher or None, weight, temperature)
    trainer = _Trainer(student, budget, objective, optimizer or _default(first), inputs, steps)
    for batch, number in zip(_endless(train_loader), range(1, steps + 1), strict=False):
        value = trainer.step(batch, number)
        if step_done is not None:
            step_done(number, value)
    compacted = trainer.finish()
    kept = _kept(net, compacted.model, inputs)
    score = None if evaluate is None else _score(evaluate, compacted.model)
    return Shrunk(compacted, original, score, *kept)


class Classification:
    """Cross entropy of ``(inputs, class indices)``, with a teacher if there is one.

    Args:
        teacher: The network to learn from; None for the labels alone. It is asked in eval mode, without gradients.
        weight: As of :func:`~rotated_relu.distillation_loss`.
        temperature: Likewise.
    """

    def __init__(self, teacher: nn.Module | None, weight: float, temperature: float) -> None:
        self.teacher, self.weight, self.temperature = teacher, weight, temperature

    def __call__(self, net: nn.Module, batch: Batch) -> Tensor:
        """The loss of one batch, moved to the network's device."""
        device = next(net.parameters()).device
        inputs, targets = (part.to(device) for part in batch)
        scores = net(inputs)
        if self.teacher is None:
            return F.cross_entropy(scores, targets)
        with eval_mode(self.teacher), torch.no_grad():
            wanted = self.teacher(inputs)
        return distillation_loss(scores, wanted, targets, self.weight, self.temperature)


class _Trainer:
    """The network in training: with all channels at first, compacted from the step on at which the budget is met."""

    def __init__(
        self,
        net: nn.Module,
        budget: SlopeBudget,
        loss: Loss,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        inputs: Inputs,
        steps: int,
    ) -> None:
        self.net, self.budget, self.loss, self.inputs, self.steps = net, budget, loss, inputs, steps
        self.optimizer = optimizer(net.parameters())
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.compacted: Compacted | None = None
        self.met_at = math.ceil((budget.end + budget.window) * steps)
        _fold(net, inputs)

    def step(self, batch: Batch, number: int) -> float:
        """One step; the loss."""
        self.net.train()
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * rate_factor((number - 1) / self.steps)
        value = self.loss(self.net, batch)
        if not bool(value.isfinite()):
            raise SlopeError(
                f"the loss became {float(value.detach())} at step {number}; lower the learning rate"
            )
        self.optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        if self.compacted is None:
            self.budget.step()
            if number >= self.met_at:
                self._compact()
        return float(value.detach())

    def _compact(self) -> None:
        """Go on with the small network, where the large one and its optimizer are."""
        plain_training(self.net)
        result = remove_channels(self.net, self.inputs, zero_mask(self.net), optimizer=self.optimizer)
        assert result.optimizer is not None
        self.compacted, self.net, self.optimizer = result, result.model, result.optimizer
        _fold(self.net, self.inputs)

    def finish(self) -> Compacted:
        """The small network as trained, in eval mode."""
        if self.compacted is None:
            self._compact()
        assert self.compacted is not None
        plain_training(self.net)
        self.net.zero_grad(set_to_none=True)
        return replace(self.compacted, model=self.net.eval(), optimizer=None)


def rate_factor(position: float) -> float:
    """Learning rate at ``position``, in [0, 1], of the run, as a share of the largest: short warm-up, then a cosine."""
    if position < WARMUP:
        return (position + WARMUP / 10) / (WARMUP * 1.1)
    return 0.5 * (1 + math.cos(math.pi * (position - WARMUP) / (1 - WARMUP)))


def _with_slopes(net: nn.Module, inputs: Inputs) -> nn.Module:
    """A copy with slopes of 1, or with those that it has."""
    student = copy_of(net)
    if not slopes(student):
        rotate(student, inputs)
    return student


def _fold(net: nn.Module, inputs: Inputs) -> None:
    """Slopes on their consumers' weights while it trains; a network that cannot be captured trains as it is."""
    try:
        fast_training(net, inputs)
    except CaptureError:
        plain_training(net)


def _endless(loader: Iterable[Batch]) -> Iterator[Batch]:
    while True:
        yield from loader


def _first(loader: Iterable[Batch]) -> Batch:
    for batch in loader:
        return batch
    raise DataError("the training loader is empty: it gave no batch")


def _check_pair(batch: Batch) -> None:
    pair = isinstance(batch, tuple | list) and len(batch) == 2
    if not (pair and all(isinstance(part, Tensor) for part in batch)):
        raise DataError(
            f"the default loss takes batches of (inputs, class indices), two tensors; got {type(batch).__name__}: give "
            "a loss of your own, loss(net, batch)"
        )


def _examples(batch: Batch) -> Tensor:
    found = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if not isinstance(found, Tensor):
        raise DataError("example_inputs= is needed: the first item of a batch is no tensor")
    return found[:2]


def _default(batch: Batch) -> Callable[[Iterable[nn.Parameter]], Optimizer]:
    """SGD at a rate that suits the batch size."""
    count = len(batch[0] if isinstance(batch, tuple | list) else batch)
    return lambda parameters: torch.optim.SGD(
        parameters, LR * count / LR_BATCH, momentum=0.9, weight_decay=1e-4, nesterov=True
    )


def _score(evaluate: Callable[[nn.Module], float], net: nn.Module) -> float:
    with eval_mode(net), torch.no_grad():
        return need_number(evaluate(net), "what evaluate returns")


def _kept(net: nn.Module, small: nn.Module, inputs: Inputs) -> tuple[float, float]:
    """Multiply-accumulates and parameters of ``small`` over those of ``net``."""
    macs = [sum(count_macs(each, inputs).values()) for each in (small, net)]
    return macs[0] / macs[1], count_parameters(small) / count_parameters(net)
