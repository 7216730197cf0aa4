"""What would remain of a network if some of its parameters were 0: multiply-accumulates, parameters, channels.

Requires: a rotated network that can be captured. Ensures: the numbers of an exact compaction with nothing held back,
without doing one: the network is captured once, each question then costs one liveness analysis.
"""

from __future__ import annotations

import copy
from bisect import bisect_left
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ..core.modules import Inputs, as_inputs
from ..graph.capture import capture
from ..graph.liveness import Liveness, analyse
from ..graph.needed_macs import ideal_work
from ..nn.folding import as_plain
from ..nn.slopes import check_slopes, slopes
from .removal.surgery import named_states

# Qualified name of a parameter, as a rule a slope -> boolean (channels,), True where its entries are 0.
Dead = Mapping[str, Tensor]
UNITS = ("macs", "parameters", "channels")


class Remaining:
    """Counts what a network would keep. The network itself is copied, and never changed.

    Args:
        net: A rotated network, in any mode and form.
        example_inputs: Tensor or tuple of tensors for one forward pass; multiply-accumulates are those of these inputs.

    Attributes:
        macs: Of the whole network.
        parameters: Of the whole network.
        channels: Its slopes.

    Raises:
        SlopeError: If there are no slopes, or some are not finite.
        CaptureError: If ``torch.export`` cannot capture it.
    """

    def __init__(self, net: nn.Module, example_inputs: Inputs) -> None:
        check_slopes(net)
        self._net = copy.deepcopy(as_plain(net)).cpu().float().requires_grad_(True)
        for parameter in self._net.parameters():
            # Zeros among the weights are no business of the slopes; and a dead channel must not look dead twice.
            nn.init.ones_(parameter)
        self._graph = capture(self._net, as_inputs(_as_float32(example_inputs)))
        self._states = named_states(self._net)
        self._slopes = slopes(self._net)
        self._touched: set[str] = set()
        whole = self.of({})
        self.macs, self.parameters, self.channels = whole["macs"], whole["parameters"], whole["channels"]

    def of(self, dead: Dead) -> dict[str, int]:
        """``{"macs": ..., "parameters": ..., "channels": ...}`` with those at 0; all others are alive.

        Raises:
            KeyError: If there is no such parameter.
        """
        liveness = self._liveness(dead)
        work = ideal_work(self._graph, liveness, self._states)
        parameters = {name for name, _ in self._net.named_parameters()}
        return {
            "macs": sum(part.ideal for part in work.values()),
            "parameters": sum(int(liveness.needed(name, self._states).sum()) for name in parameters),
            "channels": sum(int((slope != 0).sum()) for slope in self._slopes.values()),
        }

    def fewest(self, share: float, unit: str, dead: Callable[[int], Dead], most: int) -> int:
        """The smallest n with which at most ``share`` of the whole is left; ``most`` if no smaller one is enough.

        Args:
            share: Of the ``unit``, 0 to 1.
            unit: ``macs``, ``parameters`` or ``channels``.
            dead: What is at 0 for each n; it must grow with n.
            most: Largest n.
        """
        limit = share * float(getattr(self, unit))
        return bisect_left(range(most), True, key=lambda n: self.of(dead(n))[unit] <= limit)

    def connected(self, dead: Dead) -> bool:
        """Whether the output still depends on the inputs with those at 0."""
        liveness = self._liveness(dead)
        consumers = {user for node in self._graph.inputs for user in node.users}
        return any(bool(vector.any()) for node in consumers for vector in liveness.alive.get(node, []))

    def _liveness(self, dead: Dead) -> Liveness:
        with torch.no_grad():
            for name in self._touched:
                self._states[name].fill_(1.0)
            for name, mask in dead.items():
                self._states[name][mask.cpu()] = 0.0
        self._touched = set(dead)
        return analyse(self._graph, self._states)

    def per_channel(self, dead: Dead, unit: str = "macs") -> dict[str, float]:
        """How much one more channel of each activation would save, given those that are dead already.

        An activation whose channels are all dead saves nothing. Channels of one activation are taken to cost the same.
        """
        now = self.of(dead)[unit]
        return {name: self._saved(name, dead, now, unit) for name in self._slopes}

    def _saved(self, name: str, dead: Dead, now: int, unit: str) -> float:
        known = dead.get(name)
        mask = (
            torch.zeros(len(self._slopes[name]), dtype=torch.bool) if known is None else known.cpu().clone()
        )
        if bool(mask.all()):
            return 0.0
        mask[int((~mask).nonzero()[0])] = True
        return float(now - self.of({**dead, name: mask})[unit])


def dead_slopes(net: nn.Module) -> dict[str, Tensor]:
    """Which slopes are exactly 0: by name, boolean (channels,), on the CPU."""
    return {name: (slope.detach() == 0).cpu() for name, slope in slopes(net).items()}


def _as_float32(example_inputs: Inputs) -> Inputs:
    """On the CPU, in the one precision that the copy of the network has, whatever it trains in."""
    if isinstance(example_inputs, Tensor):
        here = example_inputs.cpu()
        return here.float() if here.is_floating_point() else here
    return tuple(_as_float32(value) if isinstance(value, Tensor) else value for value in example_inputs)
