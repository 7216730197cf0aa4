"""What a network would cost if some of its channels were gone: multiply-accumulates, parameters, channels, latency.

Requires: a rotated network that can be captured. Ensures: the numbers of an exact compaction with nothing held back,
without doing one: the network is captured once, each question then costs one liveness analysis, and only what is asked
for is counted. A further unit is a further entry of ``CostEstimate._counters`` and of ``core.criteria.Unit``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from functools import cached_property

import torch
from torch import Tensor, nn

from ..core.criteria import UNITS
from ..core.errors import ArgumentError, UnknownNameError
from ..core.modules import Call, Inputs, as_inputs, unwrap
from ..core.state import copy_of, ordinary_tensors
from ..graph.capture import capture, check_static
from ..graph.liveness import Liveness, analyse, state_patterns
from ..graph.needed_macs import ideal_work
from ..nn.folding import as_plain
from ..nn.slopes import check_slopes, slopes
from .latency.model import LatencyModel
from .latency.operations import find_operations
from .latency.table import LatencyTable
from .removal.surgery import named_states

# Qualified name of a parameter, as a rule a slope -> boolean (channels,), True where its entries are 0: a mask.
Dead = Mapping[str, Tensor]
ROUNDING = 1e-9  # a share of 5/22 of 22 is 5, whatever floating point makes of it


class CostEstimate:
    """Counts what a network would cost. The network itself is copied, and never changed.

    Args:
        net: A rotated network, in any mode and form.
        example_inputs: As in :func:`rotated_relu.rotate`; multiply-accumulates are those of these inputs.
        table: Times of layers, for the unit ``latency``; without one there is no such unit.

    Attributes:
        net: The copy that is counted, all of its parameters at 1.
        slopes: Its slopes by name.
        graph: The same, captured.
        states: Its parameters and buffers by name, with those at 0 that the last question was about.
        latency: The times of the network's operations; None without a table.

    Raises:
        SlopeError: If there are no slopes, or some are not finite.
        CaptureError: If ``torch.export`` cannot capture it.
        LatencyError: If the table lacks a layer of this network.
    """

    @ordinary_tensors()
    def __init__(self, net: nn.Module, example_inputs: Inputs, table: LatencyTable | None = None) -> None:
        check_slopes(net)
        self.net = copy_of(as_plain(unwrap(net))).cpu().float().requires_grad_(True)
        for parameter in self.net.parameters():
            # Zeros among the weights are no business of the slopes; and a dead channel must not look dead twice.
            nn.init.ones_(parameter)
        inputs = _as_float32(as_inputs(example_inputs))
        self.graph = capture(self.net, inputs)
        check_static(self.graph)
        self.latency = (
            None if table is None else LatencyModel(find_operations(self.graph, inputs.batch_size), table)
        )
        self.states = named_states(self.net)
        self.slopes = slopes(self.net)
        self._touched: set[str] = set()
        self._whole: dict[str, float] = {}
        self._counters: dict[str, Callable[[Dead], float]] = {
            "macs": self._macs,
            "parameters": self._parameters,
            "channels": self._channels,
            "latency": self._latency,
        }

    def use_table(self, table: LatencyTable) -> None:
        """Count milliseconds by another table from now on; the network is not captured again.

        Raises:
            ArgumentError: If none was given before.
            LatencyError: If the table lacks a layer of this network.
        """
        check_table(self.latency)
        assert self.latency is not None
        self.latency = LatencyModel(self.latency.operations, table)
        self._whole.pop("latency", None)

    def whole(self, unit: str) -> float:
        """Cost of the network with nothing gone; counted once.

        Raises:
            UnknownNameError: If there is no such unit.
        """
        if unit not in self._whole:
            self._whole[unit] = self.of({}, unit)
        return self._whole[unit]

    def of(self, dead: Dead, unit: str) -> float:
        """Cost with those at 0; all others are alive.

        Args:
            dead: Name of a parameter to which of its entries are 0.
            unit: ``macs``, ``parameters`` or ``channels``, which are whole numbers, or ``latency``, in ms for the
                table's batch size.

        Raises:
            UnknownNameError: If there is no such unit.
            ArgumentError: If it is ``latency`` and there is no table.
            KeyError: If there is no such parameter.
        """
        if unit not in self._counters:
            raise UnknownNameError("unit of cost", unit, UNITS)
        return self._counters[unit](dead)

    def share(self, dead: Dead, unit: str) -> float:
        """Cost with those at 0 over that of the whole network, 0 to 1; 1 if that costs nothing."""
        return self.of(dead, unit) / self.whole(unit) if self.whole(unit) else 1.0

    def removals_needed(self, share: float, unit: str, dead: Callable[[int], Dead], most: int) -> int:
        """The smallest n with which at most ``share`` of the whole is left; ``most`` if no smaller one is enough.

        Args:
            share: Of the ``unit``, 0 to 1.
            unit: One of ``core.criteria.UNITS``.
            dead: What is at 0 for each n; it must grow with n.
            most: Largest n.
        """
        return bisect_left(range(most), True, key=lambda n: self.fits(dead(n), share, unit))

    def fits(self, dead: Dead, share: float, unit: str) -> bool:
        """Whether at most ``share`` of the whole is left with those at 0."""
        return self.of(dead, unit) <= share * self.whole(unit) * (1 + ROUNDING)

    def connected(self, dead: Dead) -> bool:
        """Whether the output still depends on the inputs with those at 0."""
        liveness = self.liveness(dead)
        consumers = {user for node in self.graph.inputs for user in node.users}
        return any(bool(vector.any()) for node in consumers for vector in liveness.alive.get(node, []))

    def saved_per_channel(self, dead: Dead, unit: str) -> dict[str, float]:
        """How much one more channel of each activation would save, given those that are dead already.

        An activation whose channels are all dead saves nothing. Channels of one activation are taken to cost the same.
        """
        now = self.of(dead, unit)
        return {name: self._saved(name, dead, now, unit) for name in self.slopes}

    @ordinary_tensors()
    def liveness(self, dead: Dead) -> Liveness:
        """What the output depends on with those at 0; :attr:`states` are left like that."""
        with torch.no_grad():
            for name in self._touched:
                self.states[name].fill_(1.0)
            patterns = self._patterns
            for name, mask in dead.items():
                self.states[name][mask.cpu()] = 0.0
        self._touched = set(dead)
        changed = {id(self.states[name]) for name in dead}  # a tensor may have several names
        known = {name: one for name, one in patterns.items() if id(self.states[name]) not in changed}
        return analyse(self.graph, self.states, known=known)

    @cached_property
    def _patterns(self) -> dict[str, Tensor]:
        """Of all parameters and buffers with nothing gone: what stays as it is need not be read for every question."""
        return state_patterns(self.graph, self.states)

    def _macs(self, dead: Dead) -> int:
        liveness = self.liveness(dead)
        return sum(part.ideal for part in ideal_work(self.graph, liveness, self.states).values())

    def _parameters(self, dead: Dead) -> int:
        liveness = self.liveness(dead)
        names = [name for name, _ in self.net.named_parameters()]
        return sum(int(liveness.needed(name, self.states).sum()) for name in names)

    def _latency(self, dead: Dead) -> float:
        check_table(self.latency)
        assert self.latency is not None
        return self.latency.milliseconds(self.liveness(dead))

    def _channels(self, dead: Dead) -> int:
        gone = (dead[name] for name in self.slopes if name in dead)
        return sum(map(len, self.slopes.values())) - sum(int(mask.sum()) for mask in gone)

    def _saved(self, name: str, dead: Dead, now: float, unit: str) -> float:
        known = dead.get(name)
        mask = torch.zeros(len(self.slopes[name]), dtype=torch.bool) if known is None else known.cpu().clone()
        if bool(mask.all()):
            return 0.0
        mask[int((~mask).nonzero()[0])] = True
        return float(now - self.of({**dead, name: mask}, unit))


def check_table(table: object | None) -> None:
    """Raise unless there is what the unit ``latency`` is measured with.

    Raises:
        ArgumentError: If there is none.
    """
    if table is None:
        raise ArgumentError(
            "the unit 'latency' needs a table of measured times: pass table=rr.calibrate(net, example_inputs), or "
            "rr.LatencyTable.load(path) for another machine's"
        )


def _as_float32(inputs: Call) -> Call:
    """On the CPU, in the one precision that the copy of the network has, whatever it trains in."""
    return inputs.map(lambda value: value.cpu().float() if value.is_floating_point() else value.cpu())
