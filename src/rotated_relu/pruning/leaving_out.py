"""What leaving channels out does to the loss, measured: the network runs without them, and gets them back.

First-order scores add up what single channels do. That fails for a whole branch before a normalization: to shrink all
of its channels alike changes nothing, whatever is lost when they are gone, and the gradients of its slopes grow by as
much as the slopes shrink.

Requires: a rotated network and its loss on some images. Ensures: slopes, buffers and random numbers are as before.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import ArgumentError
from ..nn.slopes import slopes
from .mask import masked
from .steps.selector import StepSelector

MOST = 1e6  # stands for a loss that is not finite


class LossIncrease:
    """By how much the loss rises without some channels.

    Args:
        net: A rotated network, in the mode in which it is to be judged.
        loss: Gives the loss of the network as it is, always on the same images.

    Raises:
        ArgumentError: If that is no number.
    """

    def __init__(self, net: nn.Module, loss: Callable[[], Tensor | float]) -> None:
        self._net, self._loss = net, loss
        self._devices = {p.device.index for p in net.parameters() if p.device.type == "cuda"}
        self._whole = self._now()
        self._names = list(slopes(net))
        self._known: dict[tuple[Any, ...], float] = {}

    def __call__(self, masks: Mapping[str, Tensor]) -> float:
        """With the channels of some masks gone, by name of their slope; 0 where it falls, ``MOST`` if none is left."""
        if all(name in masks and bool(masks[name].all()) for name in self._names):
            return MOST
        key = tuple((name, gone.numpy().tobytes()) for name, gone in masks.items())
        if key not in self._known:
            with masked(self._net, masks):
                self._known[key] = max(0.0, self._now() - self._whole)
        return self._known[key]

    @torch.no_grad()
    def _now(self) -> float:
        with torch.random.fork_rng(sorted(self._devices)):
            torch.manual_seed(0)  # dropout takes the same away every time
            found = self._loss()
        try:
            value = float(found)
        except (TypeError, ValueError, RuntimeError) as error:
            what = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else repr(found)
            raise ArgumentError(f"loss must return a number or a tensor of one, got {what}") from error
        return value if math.isfinite(value) else MOST


def planned(
    selector: StepSelector,
    share: float,
    keep: float,
    scores: Mapping[str, Tensor],
    dead: Mapping[str, Tensor],
    measure: LossIncrease,
) -> dict[str, Tensor]:
    """The first part of what is to go in the end: as much of it as meets the share of this point of the run.

    What is cheapest for a small share is no beginning of what is cheapest for a large one, where steps are coarse.

    Args:
        selector: Of the network.
        share: That may be left now.
        keep: That may be left in the end.
        scores: Of the channels, by name.
        dead: What is gone already, by name; every activation.
        measure: Of the network as it is.
    """
    plan = selector.choose(keep, scores, dead, measure=measure)
    if share <= keep:
        return plan
    only = {name: score.masked_fill(~plan[name].to(score.device), MOST) for name, score in scores.items()}
    return selector.choose(share, only, dead, measure=measure)


@contextlib.contextmanager
def buffers_kept(net: nn.Module) -> Iterator[None]:
    """Within the ``with`` block forward passes may change running statistics; afterwards they are as before."""
    saved = [(buffer, buffer.clone()) for buffer in net.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in saved:
                buffer.copy_(value)
