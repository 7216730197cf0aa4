"""One network at many sizes: prune it until a given share of its multiply-accumulates is saved.

Requires: a trained network. Ensures: each size is made from the trained network anew, the same one for the same level.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ...core.counting import count_macs
from ...core.errors import CompactionError, NothingRemovedWarning, SlopeError
from ...core.extras import needs
from ...pruning.estimate import CostEstimate
from ...pruning.mask import zero_mask
from ...pruning.removal import remove_channels

TRIALS = 10  # of the ratio that Torch-Pruning is given, to hit a level


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
        return self._removed(masks) if possible else None

    def _masks(self, count: int) -> dict[str, Tensor]:
        masks = {name: mask.clone() for name, mask in self._dead.items()}
        for name, index in self._order[:count]:
            masks.setdefault(name, torch.zeros(self._sizes[name], dtype=torch.bool))[index] = True
        return masks | {
            other: mask for name, mask in masks.items() for other in self._companions.get(name, [])
        }

    def _removed(self, masks: Mapping[str, Tensor]) -> nn.Module | None:
        net = copy.deepcopy(self._net)
        with torch.no_grad():
            for name, mask in masks.items():
                net.get_parameter(name)[mask] = 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NothingRemovedWarning)
            try:
                return remove_channels(net, self._inputs, zero_mask(net)).model
            except (SlopeError, CompactionError):  # nothing that works is left
                return None


class CoupledGroups:
    """Torch-Pruning: whole groups of coupled channels, lowest importance first over the whole network.

    Args:
        net: Any network that Torch-Pruning can trace; classifier outputs stay.
        rank: ``filter_l1`` (Li et al. 2017: L1 norm of the filters) or ``group_l2`` (Fang et al. 2023: L2 norm of all
            members of a group).
        example_inputs: For one forward pass.

    Raises:
        MissingPackageError: If Torch-Pruning is not installed.
    """

    def __init__(self, net: nn.Module, rank: str, example_inputs: Tensor) -> None:
        self._tp = torch_pruning()
        self._net, self._rank, self._inputs = net, rank, example_inputs
        self._macs = _macs(net, example_inputs)
        self._ignored = self._left_alone()

    def at(self, level: float) -> nn.Module | None:
        """See :class:`Pruner`; the level is hit by bisection of the ratio that Torch-Pruning takes."""
        limit, low, high, found = (1 - level) * self._macs, 0.0, 1.0, None
        for _ in range(TRIALS):
            middle = (low + high) / 2
            net = self._pruned(middle)
            if _macs(net, self._inputs) <= limit:
                high, found = middle, net
            else:
                low = middle
        return found

    def _pruned(self, ratio: float) -> nn.Module:
        net = copy.deepcopy(self._net).eval()
        pruner = self._tp.pruner.MetaPruner(
            net,
            self._inputs,
            importance=self._importance(),
            pruning_ratio=ratio,
            max_pruning_ratio=1.0,
            global_pruning=True,
            ignored_layers=[net.get_submodule(name) for name in self._ignored],
            customized_pruners=_rotated_pruners(net),
        )
        pruner.step()
        return net

    def _importance(self) -> Any:
        if self._rank == "filter_l1":
            return self._tp.importance.MagnitudeImportance(
                p=1, group_reduction="first", normalizer="mean", target_types=[nn.Conv2d]
            )
        return self._tp.importance.GroupMagnitudeImportance(p=2)

    def _left_alone(self) -> list[str]:
        """The classifier, and layers whose channels are picked out by index later, which Torch-Pruning loses track of.

        Compacted networks have such layers where a residual stream is wider than what one block reads or writes.
        """
        net = copy.deepcopy(self._net).eval()
        linear = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)][-1:]
        graph = self._tp.DependencyGraph().build_dependency(
            net, self._inputs, customized_pruners=_rotated_pruners(net)
        )
        broken = []
        for name, module in net.named_modules():
            if isinstance(module, nn.Conv2d):
                group = graph.get_pruning_group(
                    module, self._tp.prune_conv_out_channels, list(range(module.out_channels))
                )
                if any(not _fits(item) for item in group):
                    broken.append(name)
        return linear + broken


def _fits(item: Any) -> bool:
    """Whether the channels that Torch-Pruning would take from a layer exist there."""
    layer, channels = item.dep.target.module, max(item.idxs, default=-1)
    if isinstance(layer, nn.Conv2d):
        outwards = "out_channels" in item.dep.handler.__name__
        return bool(channels < (layer.out_channels if outwards else layer.in_channels))
    sizes = [len(parameter) for parameter in layer.parameters(recurse=False)]
    return all(channels < size for size in sizes)


def torch_pruning() -> Any:
    """The package.

    Raises:
        MissingPackageError: If it is not installed.
    """
    needs("torch_pruning")
    import torch_pruning as tp

    return tp


def _rotated_pruners(net: nn.Module) -> dict[type[nn.Module], Any]:
    """How Torch-Pruning takes channels out of a rotated activation: its interface for layers that it does not know."""
    from ...nn.activation import Rotated

    tp = torch_pruning()

    class Slopes(tp.pruner.function.BasePruningFunc):  # type: ignore[misc,name-defined]
        TARGET_MODULES = Rotated

        def prune_out_channels(self, layer: Rotated, idxs: list[int]) -> nn.Module:
            keep = [index for index in range(len(layer.slope)) if index not in set(idxs)]
            layer.slope = nn.Parameter(layer.slope.detach()[keep])
            return layer

        prune_in_channels = prune_out_channels

        def get_out_channels(self, layer: Rotated) -> int:
            return len(layer.slope)

        get_in_channels = get_out_channels

    kinds = {type(module) for module in net.modules() if isinstance(module, Rotated)}
    return dict.fromkeys(kinds, Slopes())


def _macs(net: nn.Module, example_inputs: Tensor) -> int:
    return sum(count_macs(net, example_inputs).values())
