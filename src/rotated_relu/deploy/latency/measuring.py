"""The times of operations in an engine, from the times of programs with and without them.

Machines are slower at times, by a third on shared ones, for longer than a group of operations is timed. So a
*reference* program runs in turn with every group: what counts is the time over that of the reference, and what the
reference takes when nothing disturbs it.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

from ...core.modules import Call
from ...pruning.latency.geometry import LayerGeometry
from ..engines import Engine
from ..timing import Runnable, compare_latency
from .graphs import Program, call_graph, graph_of, tails_graph
from .modules import module_of
from .probe import Probe, copies_for, multiplications

Key = TypeVar("Key")
SAMPLE_MS = 0.3  # what runs faster is called several times per round
ROUNDS = (9, 40)  # fewest and most
SECONDS = 1.0  # per group of operations, between those
RATE = 2e7  # multiply-accumulates per millisecond, to guess how long a round takes
WHOLE_SECONDS = 3.0  # for a network as a whole
WHOLE_SAMPLE_MS = 5.0  # of one that is timed in turn with another
WARMUP = 2
REFERENCE = Probe(LayerGeometry("conv", (28, 28), (3, 3), (1, 1), (1, 1), (1, 1)), 64, 64, 1, 1)
REFERENCE_ROUNDS, REFERENCE_SAMPLE_MS = 400, 5.0  # two seconds: longer than most disturbances


class Layer(NamedTuple):
    """One operation with its widths."""

    geometry: LayerGeometry
    inputs: int
    outputs: int


@dataclass
class Bench:
    """Times operations in one engine.

    Attributes:
        engine: It.
        threads: That it is given.
        batch_size: Examples per call.
        known_reference_ms: What the reference takes undisturbed, from an earlier bench on this machine; 0 measures it.
    """

    engine: Engine
    threads: int
    batch_size: int
    known_reference_ms: float = 0.0

    def times(self, layers: Sequence[Layer]) -> list[float]:
        """Time of each operation, in ms; all of them are timed in turn.

        Raises:
            LatencyError: If operations of such a kind cannot be measured.
        """
        probes = [self._probe(layer) for layer in layers]
        bare = {probe: replace(_bare_key(probe), bare=True) for probe in probes}
        programs = {probe: self._program(probe) for probe in dict.fromkeys([*probes, *bare.values()])}
        found = self._undisturbed({probe: run for probe, (run, _) in programs.items()}, self._rounds(layers))

        def of(probe: Probe) -> float:
            other = bare[probe]
            tails = programs[probe][1] - programs[other][1]
            difference = found[probe] - found[other] - tails * (self.tail_ms if tails else 0.0)
            return max(difference, 0.0) / probe.copies

        return [of(probe) for probe in probes]

    @cached_property
    def call_ms(self) -> float:
        """Time of a call that does next to nothing, in ms."""
        probe = Probe(LayerGeometry("activation", activation="relu"), 1, 1, self.batch_size, 1, bare=True)
        run = self._start(call_graph(self.batch_size))[0] if self._runs_graphs else self._program(probe)[0]
        return self._undisturbed({probe: run}, ROUNDS[1])[probe]

    @cached_property
    def tail_ms(self) -> float:
        """Time of one tail, in ms."""
        few, many = 1, 9
        runs = {count: self._start(tails_graph(self.batch_size, count))[0] for count in (few, many)}
        times = self._undisturbed(runs, ROUNDS[1])
        return max(0.0, times[many] - times[few]) / (many - few)

    @property
    def _runs_graphs(self) -> bool:
        return self.engine.kind == "graph"

    def _probe(self, layer: Layer) -> Probe:
        return Probe(*layer, self.batch_size, copies_for(*layer, self.batch_size))

    def _program(self, probe: Probe) -> tuple[Runnable, int]:
        """A program, started, and the tails in it."""
        if self._runs_graphs:
            return self._start(graph_of(probe))
        module, inputs = module_of(probe)
        return self.engine.started(module, inputs, self.threads), 0

    def _start(self, program: Program) -> tuple[Runnable, int]:
        return self.engine.started(program.content, program.inputs, self.threads), program.tails

    def _rounds(self, layers: Sequence[Layer]) -> int:
        work = sum(
            multiplications(*layer, self.batch_size) * copies_for(*layer, self.batch_size) for layer in layers
        )
        fewest, most = ROUNDS
        return max(fewest, min(most, int(SECONDS * 1000 / max(work / RATE, 1e-3))))

    def program_ms(self, program: Any, inputs: Call) -> float:
        """Time of a whole network in ms: a serialised model, or a module in eval mode."""
        run = self.engine.started(program, inputs, self.threads)
        once = compare_latency({"": run}, 3, WARMUP, 0.0).medians_ms[""]
        return self._undisturbed({"": run}, _whole_rounds(once))[""]

    def share(self, part: Any, whole: Any, inputs: Call) -> float:
        """Time of a whole network over that of another, timed in turn; programs as of :meth:`program_ms`."""
        runs = {
            name: self.engine.started(program, inputs, self.threads)
            for name, program in (("part", part), ("whole", whole))
        }
        once = compare_latency(runs, 3, WARMUP, 0.0).medians_ms
        timed = compare_latency(runs, _whole_rounds(sum(once.values())), WARMUP, WHOLE_SAMPLE_MS)
        return 1 / timed.speedup("part", over="whole")

    @cached_property
    def reference(self) -> Runnable:
        """The program that everything is timed against."""
        return self._program(REFERENCE)[0]

    @cached_property
    def reference_ms(self) -> float:
        """Time of the reference when nothing disturbs the machine, in ms: the lower decile of many."""
        if self.known_reference_ms:
            return self.known_reference_ms
        found = compare_latency({"": self.reference}, REFERENCE_ROUNDS, WARMUP, REFERENCE_SAMPLE_MS)
        times = sorted(found.milliseconds[""])
        return times[len(times) // 10]

    def _undisturbed(self, runs: Mapping[Key, Runnable], rounds: int) -> dict[Key, float]:
        """Time of each on the undisturbed machine, in ms, by the reference between them."""
        named = {str(number): run for number, run in enumerate(runs.values())}
        timed = compare_latency(named | {"": self.reference}, rounds, WARMUP, SAMPLE_MS)
        shares = [statistics.median(timed.ratios("", over=name)) for name in named]
        return {key: self.reference_ms * share for key, share in zip(runs, shares, strict=True)}


def _whole_rounds(once_ms: float) -> int:
    """Rounds of timing whole networks, one of which takes so long."""
    fewest, most = ROUNDS
    return max(fewest, min(most, int(WHOLE_SECONDS * 1000 / max(once_ms, SAMPLE_MS))))


def _bare_key(probe: Probe) -> Probe:
    """A probe whose bare program is that of this one, the same for as many as possible."""
    if not probe.on_images:
        return Probe(LayerGeometry("activation", activation="relu"), 1, 1, probe.batch_size, 1)
    if probe.shares_input and not probe.geometry.addition:
        # All that is left is the producer of the input.
        return replace(probe, geometry=LayerGeometry("conv", probe.geometry.size), outputs=1, copies=1)
    return probe
