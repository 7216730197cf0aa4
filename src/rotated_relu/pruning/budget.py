r"""A regularizer that takes just as many slopes to exactly zero as a budget asks for, and then stops.

The published L1 acts on every slope all the time: those that matter pay for those that do not, and where it ends
depends on its strength, the learning rate and the length of the run. Here it acts on a few slopes at a time, and the
rest are left alone:

1. Every slope has a score, the running mean of :math:`(a \, \partial L / \partial a)^2`: the first-order estimate of
   what removing the channel does to the loss, squared. It needs no extra pass, and it does not change when a slope
   grows and its consumer's weights shrink by the same factor, which ``|a|`` does.
2. At fixed points of the run the slopes are sorted by score per saved cost, and so many of the first are chosen that
   the remaining network meets the budget *of that point*. The budget falls from 1 to its end value along a cubic: fast
   while unimportant channels abound, slowly towards the end.
3. The absolute value of a chosen slope may not exceed a bound that falls linearly from where the slope was to 0 (a
   projection, the proximal step of that constraint): it arrives at exactly 0 whatever the loss says. One that is no
   longer among the chosen meanwhile is free again. But the score of a bounded slope counts a quarter, and only as far
   as its bound has not fallen, lest slopes that matter alike take turns, none arrive, and all go at once at the end.
4. The last choice frees what there is room for, whether it is at 0 or on the way: a channel that saves much may have
   gone after many that save little.
5. Where channels go in steps, blocks of them, a loss that the loop gives says what a block is worth: the network runs
   without it (:mod:`.leaving_out`), for a few batches before each choice. There are ten choices then, or as few as
   keep that within a tenth of the run. Each plans for the end of the run and takes as much of the plan as meets the
   budget of its point, the cheapest first, and what was chosen goes.

All times are shares of the run, so that the same setting means the same for 10 epochs and for 1,200.

Sources: the score is that of Molchanov et al., *Importance Estimation for Neural Network Pruning*, CVPR 2019, equation
8, on the slope as the gate; the cubic is that of Zhu and Gupta, *To prune, or not to prune*, 2017, equation 1. The rest
is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from ..core.arguments import accepts, checked, need_number
from ..core.criteria import TRAINING_SCORES
from ..core.errors import SlopeError, UnknownNameError
from ..core.modules import Inputs, unwrap
from ..nn.slopes import check_slopes
from .estimate import CostEstimate, check_table
from .latency.table import LatencyTable
from .leaving_out import Loss, LossIncreases, planned
from .mask import zero_mask
from .select import Selector, check_budget, selector_for, unreachable
from .steps.selector import StepSelector

UPDATES = 50  # choices within the ramp
UPDATES_MEASURED = 10  # at most, where each takes forward passes
BATCHES = 4  # at most, over which what is lost is averaged before each
FEWEST = 2  # choices, and batches before each: by one the choice is chance to a large part
MEASURING = 0.1  # of the time of the run may go into that
PASSES = 3  # forward passes take as long as a step
MEMORY = 0.02  # of the run: time constant of the mean score
HELD = 0.25  # of its score a chosen slope has so much; Taylor's is a square: half of the change of the loss
REVIVED = 1e-3  # what a channel that is gone is worth of what it was, where there is room for it
COSTS_AGAIN = 0.1  # what a channel saves is found anew when so much of the whole has gone since


class SlopeBudget:
    """Takes slopes to zero until the rest of the network meets a budget; call :meth:`step` after every optimizer step.

    Args:
        net: The rotated network in training, wrapped or not, in plain or fast form.
        example_inputs: As in :func:`rotated_relu.rotate`.
        steps: Optimizer steps of the whole run.
        keep: Share of the ``unit`` that the compacted network may keep, above 0 and at most 1.
        unit: ``macs``, ``parameters``, ``channels``, or ``latency``: milliseconds of a call in the table's engine.
        table: Measured times, for the unit ``latency``: from ``rr.calibrate`` or ``rr.LatencyTable.load``.
        round_to: Widths that are left are multiples of it, such as 8 or 16, whole branches go too, and channels that
            save nothing stay; None and 1 take the steps of the table for ``latency``, single channels for other units.
        score: ``taylor`` (see the module's text) or ``slope`` (``|a|``).
        start: Share of the run after which slopes are chosen.
        end: Share of the run at which all are chosen; the last reach zero at ``end + window``.
        window: Share of the run that a chosen slope takes to reach zero.

    Raises:
        SlopeError: If a share is out of range or less can be kept than there must be left, there are no slopes, or some
            are not finite.
        UnknownNameError: If there is no such unit or score.
        ArgumentError: If the unit is ``latency`` and there is no table, or ``round_to`` is no positive integer.
        LatencyError: If the table lacks a layer of this network.
        CaptureError: If the network cannot be captured.

    Example::

        >>> budget = rr.SlopeBudget(net, images[:1], steps=epochs * len(loader), keep=0.5)
        >>> loss.backward(); optimizer.step(); budget.step(); optimizer.zero_grad()
    """

    @checked()
    def __init__(
        self,
        net: nn.Module,
        example_inputs: Inputs,
        steps: int,
        keep: float = 0.5,
        *,
        unit: str = "macs",
        table: LatencyTable | None = None,
        round_to: int | None = None,
        score: str = "taylor",
        start: float = 0.2,
        end: float = 0.7,
        window: float = 0.05,
    ) -> None:
        check_budget(keep, unit, round_to)
        if unit == "latency":
            check_table(table)
        _check(steps, score, start, end, window)
        self.steps, self.keep, self.unit, self.score = steps, keep, unit, score
        self.start, self.end, self.window = start, end, window
        self._net: nn.Module = unwrap(net)
        self._slopes = check_slopes(self._net)
        self._estimate = CostEstimate(self._net, example_inputs, table)
        self._selector = selector_for(self._estimate, unit, round_to)
        least = self._selector.least(zero_mask(self._net), keep)
        if least > keep:
            raise SlopeError(unreachable(keep, self._selector, least))
        self._number, self._seen = 0, False
        self._scores = {name: torch.zeros_like(slope) for name, slope in self._slopes.items()}
        # Where the bound on a slope began: step and absolute value; infinite for those that are free.
        self._since = {name: torch.full_like(slope, torch.inf) for name, slope in self._slopes.items()}
        self._from = {name: torch.zeros_like(slope) for name, slope in self._slopes.items()}
        self._saves: dict[str, float] = {}
        self._saves_at = 1.0
        self._increases = LossIncreases()
        if isinstance(self._selector, StepSelector):
            self._choices, self._batches = choices_and_batches(steps, self._selector.measurements)

    @torch.no_grad()
    @checked()
    def step(self, loss: Loss | None = None) -> None:
        """Take in the gradients of this step, choose where it is time to, and move the chosen slopes.

        After ``optimizer.step()`` (unscaled gradients, if a loss scaler is used) and before ``zero_grad()``.

        Args:
            loss: Gives the loss of the present images, a number or a tensor of one: ``lambda: criterion(net(images),
                labels)``. Where channels go in steps, it is called without gradients in the last few steps before each
                of at most ten choices, once for every block that could be left out, and tells what that is worth. That
                takes a tenth of the time of the run, or more where the run is short for the network.

        Raises:
            SlopeError: If there are no gradients to judge by: the loop has zeroed them, or they are another network's.
                Nothing has been changed.
            ArgumentError: If what ``loss`` gives is no number.
        """
        if self.score == "taylor":
            self._check_gradients()
        self._observe()
        self._number += 1
        self._bound()  # what the optimizer has moved off 0 is at 0 again where it is looked at
        selector = self._selector
        if loss is None or not isinstance(selector, StepSelector):
            due = self._until_choice(UPDATES) == 0
        else:
            wait = self._until_choice(self._choices)
            due = wait == 0
            if wait is not None and wait < self._batches:
                self._measure(selector, loss, last=self._number + wait >= round(self.end * self.steps))
        if due:
            self._choose(self.share())
            self._bound()

    @checked()
    def follow(self, optimizer: Optimizer) -> RemovableHandle:
        """Call :meth:`step` by itself after every step of ``optimizer``, in loops that are not yours to change.

        Returns:
            Its ``remove()`` ends that.

        Raises:
            SlopeError: If the optimizer steps none of the network's slopes.
        """
        stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        if not any(id(slope) in stepped for slope in self._slopes.values()):
            raise SlopeError(
                "this optimizer holds none of the network's slopes; follow the one that trains them, made from "
                "net.parameters() after rotated_relu.rotate"
            )
        return optimizer.register_step_post_hook(lambda *_: self.step())

    def share(self) -> float:
        """Share of the unit that is to be kept at this point of the run."""
        first, last = self.start * self.steps, self.end * self.steps
        if self._number >= round(last):  # the step of the last choice
            return self.keep
        done = max(0.0, (self._number - first) / (last - first))
        return 1 - (1 - self.keep) * (1 - (1 - done) ** 3)

    @torch.no_grad()
    def left(self) -> float:
        """Share of the unit that is left now, 0 to 1: slopes of exactly 0 are gone, all others count as whole."""
        return self._estimate.share(zero_mask(self._net), self.unit)

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the run depends on: tensors, numbers and names."""
        return {
            "number": self._number,
            "scores": dict(self._scores),
            "since": dict(self._since),
            "from": dict(self._from),
            "saves": dict(self._saves),
            "saves_at": self._saves_at,
            "increases": self._increases.state_dict(),
        }

    @torch.no_grad()
    @checked()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from another budget's :meth:`state_dict`.

        Raises:
            SlopeError: If it is of another network, or no state; nothing was changed.
        """
        self._check_state(state)
        self._increases.load_state_dict(state["increases"])
        self._number, self._saves_at = int(state["number"]), float(state["saves_at"])
        self._saves = {name: float(value) for name, value in state["saves"].items()}
        for mine, key in ((self._scores, "scores"), (self._since, "since"), (self._from, "from")):
            for name, value in mine.items():
                value.copy_(state[key][name])

    def _check_state(self, state: Mapping[str, Any]) -> None:
        missing = {"number", "scores", "since", "from", "saves", "saves_at", "increases"} - set(state)
        if missing:
            raise SlopeError(f"this is no state of a budget: it has no {', '.join(sorted(missing))}")
        tables = {"scores": Tensor, "since": Tensor, "from": Tensor, "saves": float}
        numbers = accepts(int, state["number"]) and accepts(float, state["saves_at"])
        wrong = [key for key, kind in tables.items() if not accepts(Mapping[str, kind], state[key])]  # type: ignore[valid-type]
        if wrong or not numbers:
            raise SlopeError(
                f"this is no state of a budget: {wrong[0] if wrong else 'its number'} is of another kind"
            )
        for name, slope in self._slopes.items():
            shapes = {
                tuple(state[key][name].shape) for key in ("scores", "since", "from") if name in state[key]
            }
            if shapes != {tuple(slope.shape)}:
                raise SlopeError(f"the state is another network's: {name} has {len(slope)} channels here")

    def _check_gradients(self) -> None:
        """Refuse to choose blindly: a score that saw no gradient would call every channel equally unimportant."""
        gradients = [slope.grad for slope in self._slopes.values() if slope.grad is not None]
        if not gradients:
            raise SlopeError(
                "no slope has a gradient: call budget.step() after loss.backward() and optimizer.step() and before "
                "optimizer.zero_grad(); slopes must be trained (requires_grad) and be those of the network in training"
            )
        # Zeros are looked for once: that makes a GPU wait. With a head that starts at 0 only the slopes' are 0.
        if not self._seen and not any(bool(gradient.any()) for gradient in gradients):
            every = (parameter.grad for parameter in self._net.parameters() if parameter.grad is not None)
            if not any(bool(gradient.any()) for gradient in every):
                raise SlopeError(
                    "every gradient of the network is 0: call budget.step() before optimizer.zero_grad(), which sets "
                    "them to 0, and on the network that the loss is of"
                )
        self._seen = True

    def _observe(self) -> None:
        """Move the mean scores by this step's; a gradient that overflowed (fp16 with a loss scaler) tells nothing."""
        rate = 1 / min(self._number + 1, max(10, MEMORY * self.steps))
        for name, slope in self._slopes.items():
            if self.score == "slope":
                now = self._size(name)
            elif slope.grad is None:
                continue
            else:
                now = (self._size(name) * slope.grad).square()
            mean, counts = self._scores[name], now.isfinite()
            if isinstance(self._selector, StepSelector):
                # A branch that shrinks as a whole before a norm: its gradients grow by as much, whatever it matters.
                counts &= self._since[name].isinf()
            mean.lerp_(torch.where(counts, now, mean), rate)

    def _size(self, name: str) -> Tensor:
        """Absolute slopes; for one that is bounded, that of before, lest the bound make its own case."""
        return torch.maximum(self._slopes[name].detach().abs(), self._from[name])

    def _until_choice(self, choices: int) -> int | None:
        """Steps from this one to the next choice; None after the last."""
        first, last = self.start * self.steps, self.end * self.steps
        for number in range(1, choices + 1):
            wait = round(first + (last - first) * number / choices) - self._number
            if wait >= 0:
                return wait
        return None

    def _choose(self, share: float) -> None:
        """Bound the slopes that must go to meet ``share``; free those that need not go after all."""
        selector = self._selector
        if isinstance(selector, StepSelector):
            chosen = self._in_steps(selector, share)
        else:
            chosen = self._one_by_one(selector, share)
        for name, slope in self._slopes.items():
            mask = chosen[name].to(slope.device)
            new = mask & self._since[name].isinf()
            self._from[name][new] = slope.detach().abs()[new]
            self._since[name][new] = self._number
            self._from[name][~mask] = 0
            self._since[name][~mask] = torch.inf

    def _one_by_one(self, selector: Selector, share: float) -> Mapping[str, Tensor]:
        """What is at 0 stays there; single channels go besides. The last choice gives back what there is room for."""
        dead, left = zero_mask(self._net), self._left()
        self._refresh_costs(dead)
        held = {
            name: torch.where(since.isinf(), 1.0, HELD * left[name]) for name, since in self._since.items()
        }
        scores = {name: score * held[name] for name, score in self._scores.items()}
        masks = selector.choose(share, scores, dead, self._saves, fill=False)
        if share > self.keep:
            return masks
        return selector.filled(share, self._worth(REVIVED), self._others(dead), masks)

    def _in_steps(self, selector: StepSelector, share: float) -> Mapping[str, Tensor]:
        """Where nothing was measured blocks are chosen anew each time; what a channel has lost is not lost again."""
        last = share <= self.keep
        # The last choice gives back what there is room for, although it is gone: the rest of the run can use it.
        worth = self._worth(REVIVED if last else 0.0)
        if not self._increases.batches:
            return selector.choose(share, worth, self._others(zero_mask(self._net)))
        lost = self._increases.means()
        self._increases.clear()
        return planned(selector, share, self.keep, worth, self._settled(last), lost)

    def _measure(self, selector: StepSelector, loss: Loss, last: bool) -> None:
        """What each block is worth on these images, for the next choice."""
        worth = self._worth(REVIVED if last else 0.0)
        self._increases.add(self._net, loss, selector, worth, self._settled(last))

    def _settled(self, last: bool) -> dict[str, Tensor]:
        """What cannot come back where blocks are measured: before the last choice what was chosen goes."""
        others = self._others(zero_mask(self._net))
        if last:
            return others
        return {name: mask | self._since[name].isfinite().cpu() for name, mask in others.items()}

    def _worth(self, least: float) -> dict[str, Tensor]:
        """Scores, as far as a bound has not fallen, and at least ``least`` of them."""
        left = self._left()
        return {name: score * left[name].clamp(min=least) for name, score in self._scores.items()}

    def _others(self, zero: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Which slopes are at 0, but not from anywhere: that was no choice of this budget, and stays."""
        return {name: mask & (self._from[name] == 0).cpu() for name, mask in zero.items()}

    def _left(self) -> dict[str, Tensor]:
        """Share of each slope that its bound leaves; 1 for those that are free."""
        if self._number >= self.steps:  # the last chance, also where a window is less than a step
            return {name: since.isinf().to(since) for name, since in self._since.items()}
        length = max(1.0, self.window * self.steps)
        return {
            name: (1 - (self._number - since) / length).clamp(0, 1) for name, since in self._since.items()
        }

    def _refresh_costs(self, dead: Mapping[str, Tensor]) -> None:
        now = self._estimate.share(dead, self.unit)
        if not self._saves or self._saves_at - now >= COSTS_AGAIN:
            self._saves, self._saves_at = self._estimate.saved_per_channel(dead, self.unit), now

    def _bound(self) -> None:
        """Project the chosen slopes into their falling bounds."""
        left = self._left()
        for name, slope in self._slopes.items():
            chosen = self._since[name].isfinite()
            bound = torch.where(chosen, self._from[name] * left[name], torch.inf)
            slope.copy_(torch.minimum(torch.maximum(slope, -bound), bound))


def choices_and_batches(steps: int, levels: int) -> tuple[int, int]:
    """How often blocks are chosen by what they are worth, and over how many batches that is measured before each.

    Args:
        steps: Of the run.
        levels: Forward passes that one batch takes.
    """
    affordable = MEASURING * PASSES * steps / (levels + 1)
    choices = min(UPDATES_MEASURED, max(FEWEST, int(affordable / FEWEST)))
    return choices, min(BATCHES, max(FEWEST, int(affordable / choices)))


def _check(steps: int, score: str, start: float, end: float, window: float) -> None:
    if score not in TRAINING_SCORES:
        raise UnknownNameError("score", score, TRAINING_SCORES)
    if need_number(steps, "steps") < 1:
        raise SlopeError(f"a budget needs the number of steps of the run, got steps={steps}")
    start, end, window = (need_number(v, "start, end and window") for v in (start, end, window))
    if not (0 <= start <= end and window > 0 and end + window <= 1):
        raise SlopeError(
            f"start, end and window must be shares of the run with start <= end and end + window <= 1, got {start}, "
            f"{end} and {window}"
        )
