"""Torch-Pruning: one network at many sizes, in whole groups of coupled channels."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from ...core.extras import needs
from .methods import Method
from .prune import largest_within, macs


class CoupledGroups:
    """Torch-Pruning: whole groups of coupled channels, lowest importance first over the whole network.

    Args:
        net: Any network that Torch-Pruning can trace; classifier outputs stay.
        method: Its ``rank`` is ``filter_l1`` (Li et al. 2017: L1 norm of the filters) or ``group_l2`` (Fang et al.
            2023: L2 norm of all members of a group); with its ``isomorphic``, ``round_to`` and ``steps``.
        example_inputs: For one forward pass.

    Raises:
        MissingPackageError: If Torch-Pruning is not installed.
    """

    def __init__(self, net: nn.Module, method: Method, example_inputs: Tensor) -> None:
        self._tp = torch_pruning()
        self._net, self._method, self._inputs = net, method, example_inputs
        self._macs = macs(net, example_inputs)
        self._ignored = left_alone(net, example_inputs)

    def at(self, level: float) -> nn.Module | None:
        """See :class:`~.prune.Pruner`; the level is hit by bisection of the ratio, or step by step."""
        limit = (1 - level) * self._macs
        if self._method.steps > 1:
            return self._step_by_step(limit)
        return largest_within(self._pruned, limit, self._inputs)

    def _step_by_step(self, limit: float) -> nn.Module | None:
        """As Torch-Pruning's benchmark: small steps towards nothing until what is left is small enough."""
        net = copy.deepcopy(self._net).eval()
        pruner = self._pruner(net, 1.0, self._method.steps)
        for _ in range(self._method.steps):
            pruner.step()
            if macs(net, self._inputs) <= limit:
                return net
        return None

    def _pruned(self, ratio: float) -> nn.Module:
        net = copy.deepcopy(self._net).eval()
        self._pruner(net, ratio, 1).step()
        return net

    def _pruner(self, net: nn.Module, ratio: float, steps: int) -> Any:
        return self._tp.pruner.MetaPruner(
            net,
            self._inputs,
            importance=self._importance(),
            pruning_ratio=ratio,
            max_pruning_ratio=1.0,
            iterative_steps=steps,
            global_pruning=True,
            isomorphic=self._method.isomorphic,
            round_to=self._method.round_to,
            ignored_layers=[net.get_submodule(name) for name in self._ignored],
            customized_pruners=_rotated_pruners(net),
        )

    def _importance(self) -> Any:
        if self._method.rank == "filter_l1":
            return self._tp.importance.MagnitudeImportance(
                p=1, group_reduction="first", normalizer="mean", target_types=[nn.Conv2d]
            )
        return self._tp.importance.GroupMagnitudeImportance(p=2)


def left_alone(net: nn.Module, example_inputs: Tensor) -> list[str]:
    """The classifier, and layers whose channels are picked out by index later, which Torch-Pruning loses track of.

    Compacted networks have such layers where a residual stream is wider than what one block reads or writes, and so
    have residual networks whose shortcut pads with zeros.
    """
    tp, net = torch_pruning(), copy.deepcopy(net).eval()
    linear = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)][-1:]
    graph = tp.DependencyGraph().build_dependency(
        net, example_inputs, customized_pruners=_rotated_pruners(net)
    )
    broken = []
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            group = graph.get_pruning_group(
                module, tp.prune_conv_out_channels, list(range(module.out_channels))
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
