"""One network at many sizes: prune it until a given share of its multiply-accumulates is saved.

Requires: a trained network. Ensures: each size is made from the trained network anew, the same one for the same level.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from ...core.counting import count_macs
from ...core.errors import CompactionError, MissingPackageError, NothingRemovedWarning, SlopeError
from ...pruning.estimate import CostEstimate
from ...pruning.mask import zero_mask
from ...pruning.removal import remove_channels

TRIALS = 10  # of the ratio that a tool is given, to hit a level
RATIOS = 40  # that are gone through where bisection finds none


class Pruner(Protocol):
    """Prunes one network to any size."""

    def at(self, level: float) -> nn.Module | None:
        """The largest network that saves at least ``level`` of the multiply-accumulates, or None if there is none."""


class RankedChannels:
    """Sets single channels to zero, the lowest score first over the whole network, and removes what that leaves idle.

    Args:
        net: A rotated network.
        scores: Name of a parameter to the score of each of its channels, shape (channels,).
        example_inputs: For one forward pass.
        companions: Parameters that go to zero along with those of ``scores``: name to names.
    """

    def __init__(
        self,
        net: nn.Module,
        scores: Mapping[str, Tensor],
        example_inputs: Tensor,
        companions: Mapping[str, list[str]] | None = None,
    ) -> None:
        self._net, self._inputs = net, example_inputs
        self._companions = companions or {}
        self._sizes = {name: len(values) for name, values in scores.items()}
        entries = ((float(v), name, i) for name, values in scores.items() for i, v in enumerate(values))
        self._order = [(name, index) for _, name, index in sorted(entries)]
        self._estimate = CostEstimate(net, example_inputs)
        zeros = {name: (parameter == 0).detach() for name, parameter in net.named_parameters()}
        self._dead = {name: zeros[name] for name in scores if bool(zeros[name].any())}

    def at(self, level: float) -> nn.Module | None:
        """See :class:`Pruner`."""
        count = self._estimate.removals_needed(1 - level, "macs", self._masks, len(self._order))
        masks = self._masks(count)
        possible = count < len(self._order) and self._estimate.connected(masks)
        return removed(self._net, masks, self._inputs) if possible else None

    def _masks(self, count: int) -> dict[str, Tensor]:
        masks = {name: mask.clone() for name, mask in self._dead.items()}
        for name, index in self._order[:count]:
            masks.setdefault(name, torch.zeros(self._sizes[name], dtype=torch.bool))[index] = True
        return masks | {
            other: mask for name, mask in masks.items() for other in self._companions.get(name, [])
        }


def removed(net: nn.Module, masks: Mapping[str, Tensor], example_inputs: Tensor) -> nn.Module | None:
    """A copy with entries of parameters set to zero, and without what that leaves idle; None if nothing works then.

    Args:
        net: A rotated network.
        masks: Name of a parameter to where it goes to zero, shape (channels,).
        example_inputs: For one forward pass.
    """
    net = copy.deepcopy(net)
    with torch.no_grad():
        for name, mask in masks.items():
            net.get_parameter(name)[mask] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NothingRemovedWarning)
        try:
            return remove_channels(net, example_inputs, zero_mask(net)).model
        except (SlopeError, CompactionError):
            return None


def largest_within(
    pruned: Callable[[float], nn.Module | None], limit: float, example_inputs: Tensor
) -> nn.Module | None:
    """Look for the ratio that a tool is given: the largest network of at most ``limit`` multiply-accumulates.

    By bisection. A tool that rounds widths, and spares a layer that it would empty, leaves more at a large ratio than
    at a smaller one: where bisection finds none, ratios are gone through from below, and the first that fits is taken.

    Args:
        pruned: The network for a ratio between 0 and 1, or None if there is none.
        limit: For one image.
        example_inputs: One image.
    """

    def fits(net: nn.Module | None) -> bool:
        return net is None or macs(net, example_inputs) <= limit

    low, high, found = 0.0, 1.0, None
    for _ in range(TRIALS):
        middle = (low + high) / 2
        net = pruned(middle)
        if fits(net):
            high, found = middle, net or found
        else:
            low = middle
    if found is None:
        every = (pruned(number / RATIOS) for number in range(1, RATIOS))
        found = next((net for net in every if net is not None and fits(net)), None)
    return found


def macs(net: nn.Module, example_inputs: Tensor) -> int:
    """Multiply-accumulates of one forward pass."""
    return sum(count_macs(net, example_inputs).values())


class Guarded:
    """Another tool's pruner: what it raises is kept, not raised, so that the other methods go on.

    Attributes:
        failure: What it raised last, in words; None if it did not.
    """

    def __init__(self, pruner: Callable[[], Pruner]) -> None:
        self._make = pruner
        self._pruner: Pruner | None = None
        self.failure: str | None = None

    def at(self, level: float) -> nn.Module | None:
        """See :class:`Pruner`."""
        self.failure = None
        try:
            if self._pruner is None:
                self._pruner = self._make()
            return self._pruner.at(level)
        except (MissingPackageError, MemoryError):
            raise
        except Exception as error:  # whatever the tool raises on this network
            self.failure = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            return None
