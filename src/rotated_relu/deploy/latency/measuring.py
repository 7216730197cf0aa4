"""The times of operations in an engine, from the times of programs with and without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, TypeVar

from ...pruning.latency.geometry import LayerGeometry
from ..engines import Engine
from ..timing import Runnable, compare_latency
from .graphs import Program, call_graph, graph_of, tails_graph
from .modules import module_of
from .probe import Probe, copies_for, multiplications

Key = TypeVar("Key")
SAMPLE_MS = 0.3  # what runs faster is called several times per round
ROUNDS = (5, 15)  # fewest and most
SECONDS = 0.3  # per group of operations, between those
RATE = 2e7  # multiply-accumulates per millisecond, to guess how long a round takes
WARMUP = 2


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
    """

    engine: Engine
    threads: int
    batch_size: int

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

    def _undisturbed(self, runs: Mapping[Key, Runnable], rounds: int) -> dict[Key, float]:
        """Lower quartile of the times of each: what disturbs a round only ever makes it slower."""
        named = {str(number): run for number, run in enumerate(runs.values())}
        timed = compare_latency(named, rounds, WARMUP, SAMPLE_MS).milliseconds.values()
        return {key: sorted(times)[len(times) // 4] for key, times in zip(runs, timed, strict=True)}


def _bare_key(probe: Probe) -> Probe:
    """A probe whose bare program is that of this one, the same for as many as possible."""
    if not probe.on_images:
        return Probe(LayerGeometry("activation", activation="relu"), 1, 1, probe.batch_size, 1)
    if probe.shares_input and not probe.geometry.addition:
        # All that is left is the producer of the input.
        return replace(probe, geometry=LayerGeometry("conv", probe.geometry.size), outputs=1, copies=1)
    return probe
