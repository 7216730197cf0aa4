"""What leaving channels out does to the loss, measured: the network runs without them, and gets them back.

First-order scores add up what single channels do. That fails for a whole branch before a normalization: to shrink all
of its channels alike changes nothing, whatever is lost when they are gone, and the gradients of its slopes grow by as
much as the slopes shrink.

One batch leaves much to chance, so a mean over several is taken. What blocks lose together is more than what they lose
one by one, which no number of batches tells (``benchmarks/block_batches.py``): a choice among several, between which
the network trains, sees some of that.

Requires: a rotated network and its loss on some images. Ensures: slopes, buffers and random numbers are as before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from ..core.arguments import accepts
from ..core.errors import ArgumentError, SlopeError
from ..core.state import buffers_kept, random_kept
from .mask import masked
from .steps.selector import Level, StepSelector

MOST = 1e6  # stands for a loss that is not finite
Loss = Callable[[], Tensor | float]


class LossIncreases:
    """By how much the loss rises at each level of each axis, as a mean over batches.

    Attributes:
        batches: How many have been added.
    """

    def __init__(self) -> None:
        self.batches = 0
        self._found: dict[Level, list[float]] = {}

    def add(
        self,
        net: nn.Module,
        loss: Loss,
        selector: StepSelector,
        scores: Mapping[str, Tensor],
        dead: Mapping[str, Tensor],
    ) -> None:
        """Measure every level once more.

        Args:
            net: The rotated network, in the mode in which it is to be judged.
            loss: Gives the loss of the network as it is, always on the same images within this call.
            selector: Of the network.
            scores: Of the channels, by name; the least important of an axis go first.
            dead: What is gone already, by name; every activation.

        Raises:
            ArgumentError: If the loss is no number.
        """
        for level, found in loss_increases(net, loss, selector.levels(scores, dead)).items():
            self._found.setdefault(level, []).append(found)
        self.batches += 1

    def means(self) -> dict[Level, float]:
        """By axis and number of bundles left; 0 where the loss falls.

        Over the batches in which a level was measured: an axis of which a slope has come to 0 has others.
        """
        return {level: max(0.0, fmean(found)) for level, found in self._found.items()}

    def clear(self) -> None:
        """Begin anew."""
        self.batches, self._found = 0, {}

    def state_dict(self) -> dict[str, Any]:
        """Plain data."""
        found = {f"{axis}/{count}": [*values] for (axis, count), values in self._found.items()}
        return {"batches": self.batches, "found": found}

    def load_state_dict(self, state: Any) -> None:
        """Go on from there.

        Raises:
            SlopeError: If it is no such state; nothing was changed.
        """
        if not (
            accepts(Mapping[str, Any], state)
            and accepts(int, state.get("batches"))
            and accepts(Mapping[str, list[float]], state.get("found"))
            and all(state["found"].values())
        ):
            raise SlopeError("this is no state of a budget: what was measured is of another kind")
        try:
            found = {_level(name): [*map(float, values)] for name, values in state["found"].items()}
        except ValueError as error:
            raise SlopeError(f"this is no state of a budget: {error} is no level of an axis") from None
        self.batches, self._found = int(state["batches"]), found


def loss_increases(
    net: nn.Module, loss: Loss, levels: Iterable[tuple[Level, Mapping[str, Tensor]]]
) -> dict[Level, float]:
    """By how much the loss rises at each level; negative where it falls, ``MOST`` where nothing is left.

    Args:
        net: The rotated network, in the mode in which it is to be judged; buffers are put back.
        loss: Gives the loss of the network as it is, always on the same images.
        levels: With the masks of what is gone there, every activation by name.

    Raises:
        ArgumentError: If the loss is no number.
    """
    found: dict[Level, float] = {}
    with buffers_kept(net):
        whole = _measured(net, loss)
        for level, masks in levels:
            found[level] = MOST
            if not all(bool(gone.all()) for gone in masks.values()):
                with masked(net, masks):
                    found[level] = _measured(net, loss) - whole
    return found


def planned(
    selector: StepSelector,
    share: float,
    keep: float,
    scores: Mapping[str, Tensor],
    dead: Mapping[str, Tensor],
    lost: Mapping[Level, float],
) -> dict[str, Tensor]:
    """The first part of what is to go in the end: as much of it as meets the share of this point of the run.

    What is cheapest for a small share is no beginning of what is cheapest for a large one, where steps are coarse.

    Args:
        selector: Of the network.
        share: That may be left now.
        keep: That may be left in the end.
        scores: Of the channels, by name.
        dead: What is gone already, by name; every activation.
        lost: What is lost at each level, measured with those gone.
    """
    plan = selector.choose(keep, scores, dead, lost=lost)
    if share <= keep:
        return plan
    only = {name: score.masked_fill(~plan[name].to(score.device), MOST) for name, score in scores.items()}
    return selector.choose(share, only, dead, lost=lost)


@torch.no_grad()
def _measured(net: nn.Module, loss: Loss) -> float:
    with random_kept(net.parameters()):
        torch.manual_seed(0)  # dropout takes the same away every time
        found = loss()
    try:
        value = float(found)
    except (TypeError, ValueError, RuntimeError) as error:
        what = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else repr(found)
        raise ArgumentError(f"loss must return a number or a tensor of one, got {what}") from error
    return value if math.isfinite(value) else MOST


def _level(name: str) -> Level:
    axis, _, count = name.partition("/")
    if not (axis.isdecimal() and count.isdecimal()):
        raise ValueError(repr(name))
    return int(axis), int(count)
