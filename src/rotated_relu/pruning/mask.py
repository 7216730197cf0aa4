"""Which channels go: made once, from a threshold, from scores or from a budget, and handed on as a mask.

A mask is a mapping from the qualified name of a slope to a boolean tensor of shape (channels,), **True where the
channel goes**. Activations that it does not name keep all that they have; slopes that are 0 stay 0 either way.

Requires: a rotated network. Ensures: a mask names slopes of this network only, has one entry per channel, and leaves at
least one channel of the whole network; or there is an error, and nothing was changed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..core.arguments import checked, checked_fields, need_number
from ..core.criteria import Criterion
from ..core.errors import ShapeError, SlopeError, UnknownNameError
from ..nn.slopes import check_slopes, slopes


@checked_fields()
@dataclass(frozen=True, eq=False, repr=False)
class Mask(Mapping[str, Tensor]):
    """A mask that knows how it came about; wherever one is taken, a plain dictionary of tensors will do as well.

    Args:
        channels: Qualified name of a slope -> boolean (channels,), True where the channel goes; on the CPU.
        criterion: How it came about.
    """

    channels: Mapping[str, Tensor]
    criterion: Criterion = field(default_factory=Criterion)

    def __getitem__(self, name: str) -> Tensor:
        return self.channels[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.channels)

    def __len__(self) -> int:
        return len(self.channels)

    def __repr__(self) -> str:
        return f"Mask({self.gone} of {self.total} channels go: {self.criterion.describe()})"

    @property
    def gone(self) -> int:
        """How many channels go."""
        return sum(int(torch.count_nonzero(mask)) for mask in self.values())

    @property
    def total(self) -> int:
        """How many channels it speaks of."""
        return sum(mask.numel() for mask in self.values())


def criterion_of(mask: Mapping[str, Tensor]) -> Criterion:
    """How a mask came about; that it was given, where it does not say."""
    return mask.criterion if isinstance(mask, Mask) else Criterion()


def zero_mask(net: nn.Module) -> Mask:
    """The channels whose slope is exactly 0, as after training with a :class:`~rotated_relu.SlopeBudget`."""
    zeros = {name: (slope.detach() == 0).cpu() for name, slope in slopes(net).items()}
    return Mask(zeros, Criterion("slope", threshold=0.0))


def threshold_mask(net: nn.Module, threshold: float, scores: Mapping[str, Tensor] | None = None) -> Mask:
    """The channels with ``|a| < threshold``, or whose score is below it, and those whose slope is 0 already.

    Args:
        net: A rotated network; it is only read.
        threshold: zeta of the paper, in units of slope (or of the scores).
        scores: Name of each slope to a score per channel, shape (channels,); see :mod:`.importance`.

    Raises:
        SlopeError: If there are no slopes, some are not finite, the scores are not those of this network, the threshold
            is negative or not finite, or nothing would be left.
    """
    found = check_slopes(net)
    threshold = need_number(threshold, "threshold")
    if not 0 <= threshold < math.inf:
        raise SlopeError(f"threshold must be 0 or a positive number, got {threshold!r}")
    if scores is not None:
        check_scores(found, scores)
    sizes = {
        name: (slope.abs() if scores is None else scores[name]).detach() for name, slope in found.items()
    }
    channels = {
        name: (sizes[name].cpu() < threshold) | (slope.detach() == 0).cpu() for name, slope in found.items()
    }
    if all(bool(mask.all()) for mask in channels.values()):
        largest, what = (
            max(float(size.max()) for size in sizes.values()),
            "|slope|" if scores is None else "score",
        )
        raise SlopeError(
            f"threshold {threshold:g} kills every slope of the network (the largest {what} is {largest:.4g}); "
            "choose a smaller one, for example with rotated_relu.find_threshold"
        )
    return Mask(channels, criterion_by(scores, threshold))


def criterion_by(scores: Mapping[str, Tensor] | None, threshold: float) -> Criterion:
    """The criterion of a threshold on slopes, or on scores, which may say what they are."""
    if scores is None:
        return Criterion("slope", threshold=threshold)
    return Criterion(getattr(scores, "kind", "custom"), getattr(scores, "per", ""), threshold)


def check_mask(net: nn.Module, mask: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    """Return the network's slopes, having checked that a mask fits them.

    Raises:
        SlopeError: If there are no slopes, some are not finite, or no channel of the whole network would be left.
        UnknownNameError: If the mask names a slope that there is not.
        ShapeError: If it is no mapping, or an entry is no boolean tensor of one entry per channel.
    """
    found = check_slopes(net)
    if not isinstance(mask, Mapping):
        raise ShapeError(
            f"a mask maps names of slopes to boolean tensors, got {type(mask).__name__}; a threshold goes to threshold="
        )
    for name, gone in mask.items():
        if name not in found:
            raise UnknownNameError("slope in the mask", name, found)
        if not isinstance(gone, Tensor) or gone.dtype != torch.bool:
            kind = gone.dtype if isinstance(gone, Tensor) else type(gone).__name__
            raise ShapeError(
                f"mask of {name}: must be a boolean tensor, True where a channel goes, got {kind}"
            )
        if gone.shape != found[name].shape:
            raise ShapeError(
                f"mask of {name}: the activation has {len(found[name])} channels, shape {tuple(found[name].shape)}, "
                f"got {tuple(gone.shape)}"
            )
    if not any(_left(slope, mask.get(name)) for name, slope in found.items()):
        raise SlopeError(
            f"the mask takes every channel of the network ({sum(map(len, found.values()))}); leave some at False"
        )
    return found


@torch.no_grad()
def apply_mask(net: nn.Module, mask: Mapping[str, Tensor]) -> dict[str, int]:
    """Set the slopes of the channels that go to exactly 0, in place; the others stay as they are.

    Args:
        net: A rotated network.
        mask: Qualified name of a slope -> boolean (channels,), True where the channel goes; from
            :func:`~rotated_relu.find_threshold`, :func:`~rotated_relu.select_channels`, or your own.

    Returns:
        ``{qualified name: number of slopes that are not zero}``.

    Raises:
        SlopeError: If there are no slopes, some are not finite, or no channel of the whole network would be left.
        UnknownNameError: If the mask names a slope that there is not.
        ShapeError: If an entry of the mask is no boolean tensor of one entry per channel.
    """
    found = check_mask(net, mask)
    for name, gone in mask.items():
        found[name].masked_fill_(gone.to(found[name].device), 0.0)
    return {name: int(torch.count_nonzero(slope)) for name, slope in found.items()}


@checked()
def apply_threshold(
    net: nn.Module, threshold: float, scores: Mapping[str, Tensor] | None = None
) -> dict[str, int]:
    """Set every slope with ``|a| < threshold`` to exactly 0, in place; given scores, those whose score is below.

    Args:
        net: A rotated network.
        threshold: zeta of the paper, in units of slope (or of the scores); 0 leaves all slopes as they are.
        scores: Name of each slope to a score per channel, shape (channels,); see ``pruning.importance``.

    Returns:
        ``{qualified name: number of slopes that are not zero}``.

    Raises:
        SlopeError: If there are no slopes, some are not finite, the scores are not those of this network, or the
            threshold is negative, not finite, or kills every slope; nothing was changed.
    """
    return apply_mask(net, threshold_mask(net, threshold, scores))


@contextlib.contextmanager
def masked(net: nn.Module, mask: Mapping[str, Tensor]) -> Iterator[int]:
    """Within the ``with`` block the mask is applied; afterwards all slopes are as before, bit for bit.

    Restores after an exception and after Ctrl-C too. Yields the number of slopes left alive.
    """
    parameters = slopes(net)
    saved = {name: slope.detach().clone() for name, slope in parameters.items()}
    try:
        yield sum(apply_mask(net, mask).values())
    finally:
        with torch.no_grad():
            for name, slope in parameters.items():
                slope.copy_(saved[name])


def check_scores(found: Mapping[str, nn.Parameter], scores: Mapping[str, Tensor]) -> None:
    """Raise :class:`SlopeError` unless every slope has one finite score per channel, not negative."""
    for name, slope in found.items():
        if name not in scores or scores[name].shape != slope.shape:
            got = tuple(scores[name].shape) if name in scores else "none"
            raise SlopeError(
                f"{name} needs one score per channel, shape {tuple(slope.shape)}, got {got}; score this network anew"
            )
        if not bool((scores[name].isfinite() & (scores[name] >= 0)).all()):
            raise SlopeError(f"{name}: scores must be finite and not negative; check the images and the loss")


def _left(slope: Tensor, gone: Tensor | None) -> bool:
    alive = slope.detach() != 0
    return bool(alive.any()) if gone is None else bool((alive & ~gone.to(alive.device)).any())
