"""What the networks of a run cost, timed side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...core import messages
from ...core.environment import environment
from ...core.messages import Say
from ...core.run_directory import write_json
from ..run_networks import RunNetworks, reference_key
from .calibrate import table_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ...deploy.timing import LatencyComparison
    from ...pruning.latency.table import LatencyTable

BATCH_SIZES = (1, 64)
COSTS = ("parameters", "conv_linear_weights", "macs", "file_bytes", "peak_memory_bytes")


def measure_run(
    loaded: RunNetworks,
    reference: RunNetworks | None = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    *,
    engines: Sequence[str] = ("onnxruntime",),
    repeats: int = 30,
    threads: int | None = None,
    say: Say = messages.say,
) -> dict[str, Any]:
    """Measure the networks of a run, and the one of another run, side by side; keep it in ``measure.json``.

    Args:
        loaded: The run.
        reference: The run whose network the others are compared with; the run's own trained network if None.
        batch_sizes: Those to time.
        engines: Of :data:`rotated_relu.deploy.engines.ENGINES`, or ``all``: those whose packages are installed.
        repeats: Timed rounds.
        threads: Of the engines; torch's setting if None.
        say: Called with the engines that are left out.

    Returns:
        See :func:`measure_networks`.

    Raises:
        UnknownNameError: If there is no such engine.
        MissingPackageError: If the package of one that was asked for is not installed.
        RunError: If the run cannot be written to, or one has not been trained.
    """
    names = _engines(engines, say)
    loaded.run.check_writable()
    nets = networks_of(loaded, reference)
    data = measure_networks(
        nets,
        loaded.example_inputs,
        batch_sizes,
        engine=names,
        repeats=repeats,
        threads=threads,
    )
    table = table_of(loaded.run)
    if table is not None:
        _add_estimates(data, nets, loaded.example_inputs(1), table)
    write_json(loaded.run.file("measure"), data)
    return data


def _add_estimates(
    data: dict[str, Any], nets: Mapping[str, nn.Module], one: Tensor, table: LatencyTable
) -> None:
    """Beside what was timed as the run's latency table has it: what the table says, in all and per layer, in ms."""
    fitting = [
        timed
        for engine in data["engines"]
        if engine["engine"] == f"{table.engine} {table.engine_version}"
        and data["environment"]["threads"] == table.threads
        for timed in engine["latency"]
        if timed["batch_size"] == table.batch_size
    ]
    layers = {name: found for name, net in nets.items() if (found := _layers(net, one, table)) is not None}
    for timed in fitting:
        timed["estimated_layer_ms"] = layers
        timed["estimated_ms"] = {name: table.call_ms + sum(found.values()) for name, found in layers.items()}


def _layers(net: nn.Module, one: Tensor, table: LatencyTable) -> dict[str, float] | None:
    """Time per layer; None if the table lacks one, as it may for another run's network."""
    from ...core.errors import CaptureError, LatencyError
    from ...pruning.latency.model import layer_milliseconds

    try:
        return layer_milliseconds(net, one, table)
    except (CaptureError, LatencyError):
        return None


def _engines(names: Sequence[str], say: Say) -> list[str]:
    """The engines asked for; ``all`` means those whose packages are installed."""
    from ...core.errors import MissingPackageError
    from ...deploy.engines import ENGINES, engine_named

    found = []
    for name in ENGINES if "all" in names else names:
        try:
            engine_named(name)
        except MissingPackageError as error:
            if "all" not in names:
                raise
            say(f"{name} is left out: {error}")
            continue
        found.append(name)
    return list(dict.fromkeys(found))


def networks_of(loaded: RunNetworks, reference: RunNetworks | None = None) -> dict[str, nn.Module]:
    """The networks of a run to measure, by the names that reports use; fine-tuning changes no cost."""
    nets = {} if reference is None else {reference_key(reference, loaded): reference.network("trained")}
    nets[loaded.trained_key] = loaded.network("trained")
    if loaded.newest() != "trained":
        nets["compact"] = loaded.network(loaded.newest())
    return nets


def measure_networks(
    nets: Mapping[str, nn.Module],
    example_inputs: Callable[[int], Tensor],
    batch_sizes: Sequence[int] = BATCH_SIZES,
    *,
    engine: str | Sequence[str] = "onnxruntime",
    repeats: int = 30,
    threads: int | None = None,
) -> dict[str, Any]:
    """Measure networks side by side; the first is what the others are compared with.

    Args:
        nets: Name to network.
        example_inputs: Gives inputs of a batch size.
        batch_sizes: Those to time; the last is the one that verdicts quote.
        engine: One or several of :data:`rotated_relu.deploy.engines.ENGINES`.
        repeats: Timed rounds.
        threads: Of the engine; torch's setting if None.

    Returns:
        Plain data: ``reference`` (name of the first), ``networks`` (name to costs), ``saved`` (name to shares
        of the reference's costs), ``layer_macs`` and ``layer_weights`` (name to layer to count), ``latency``
        (per batch size ``milliseconds`` of each round, ``medians_ms``, ``speedup``, and ``measured_layer_ms`` where
        the engine has a profiler) and ``engine`` of the first engine, ``engines`` (the same for each), ``fastest``
        (per batch size the engine that runs the smallest network fastest), ``environment``.
    """
    from ...core.counting import count_macs, count_weights

    one = example_inputs(1)
    names = list(nets)
    costs = {name: _costs(net, one) for name, net in nets.items()}
    bench = _Bench(nets, example_inputs, list(batch_sizes), repeats, threads)
    engines = [bench.run(name) for name in ([engine] if isinstance(engine, str) else engine)]
    return {
        "reference": names[0],
        "networks": costs,
        "saved": {name: _saved(costs[name], costs[names[0]]) for name in names[1:]},
        "layer_macs": {name: count_macs(net, one) for name, net in nets.items()},
        "layer_weights": {name: count_weights(net) for name, net in nets.items()},
        "latency": engines[0]["latency"],
        "engine": engines[0]["engine"],
        "engines": engines,
        "fastest": _fastest(engines, names[-1]),
        "environment": environment() | ({} if threads is None else {"threads": threads}),
    }


def _costs(net: nn.Module, one: Tensor) -> dict[str, int]:
    from ...core.counting import count_macs, count_parameters, count_weights, file_bytes, peak_memory

    return {
        "parameters": count_parameters(net),
        "conv_linear_weights": sum(count_weights(net).values()),
        "macs": sum(count_macs(net, one).values()),
        "file_bytes": file_bytes(net),
        "peak_memory_bytes": peak_memory(net, one)[0],
    }


def _saved(costs: dict[str, int], reference: dict[str, int]) -> dict[str, float]:
    return {key: 1 - costs[key] / reference[key] if reference[key] else 0.0 for key in COSTS}


@dataclass
class _Bench:
    """Times networks side by side, one engine after the other; each network is exported once."""

    nets: Mapping[str, nn.Module]
    example_inputs: Callable[[int], Tensor]
    batch_sizes: list[int]
    repeats: int
    threads: int | None
    raw: dict[str, Any] = field(default_factory=dict)

    def run(self, engine: str) -> dict[str, Any]:
        """Timings in one engine, as plain data."""
        from ...deploy.engines import engine_named

        return {
            "engine": engine_named(engine).label,
            "latency": [self.timed(engine, size) for size in self.batch_sizes],
        }

    def timed(self, engine: str, size: int) -> dict[str, Any]:
        """Timings at one batch size, as plain data."""
        from ...deploy.engines import engine_named, graph_runner, runner
        from ...deploy.timing import compare_latency

        inputs = self.example_inputs(size)
        settings: dict[str, Any] = {"engine": engine, "threads": self.threads}
        if engine_named(engine).kind == "module":
            found = compare_latency(
                {name: runner(net, inputs, **settings) for name, net in self.nets.items()}, self.repeats
            )
            return self.plain(size, found)
        graphs = {name: self.graph(name, engine, inputs) for name in self.nets}
        runs = {name: graph_runner(graph, inputs, **settings) for name, graph in graphs.items()}
        found = compare_latency(runs, self.repeats)
        return self.plain(size, found) | self.per_layer(graphs, inputs, found, settings)

    def plain(self, size: int, found: LatencyComparison) -> dict[str, Any]:
        """Timings and what they say."""
        return {"batch_size": size, **found.to_dict(), "speedup": self.speedup(found)}

    def per_layer(
        self,
        graphs: Mapping[str, bytes],
        inputs: Tensor,
        found: LatencyComparison,
        settings: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Each network's median time, divided among its layers as the engine's profiler divides it; ms."""
        from ...deploy.profiling import layer_shares

        shares = {
            name: layer_shares(graph, inputs, self.nets[name], **settings) for name, graph in graphs.items()
        }
        times = {
            name: {layer: share * found.medians_ms[name] for layer, share in of_layer.items()}
            for name, of_layer in shares.items()
            if of_layer is not None
        }
        return {"measured_layer_ms": times} if times else {}

    def graph(self, name: str, engine: str, inputs: Tensor) -> bytes:
        """A network as a serialised model, in the layout that is fastest at this batch size.

        The one that the others are compared with is as torch exports it: our exporter would take dead channels out.
        """
        from ...deploy.conversion import raw_onnx
        from ...deploy.fastest import fastest_graph

        if name not in self.raw:
            self.raw[name] = raw_onnx(self.nets[name], self.example_inputs(1))
        content = self.raw[name].content
        if name != next(iter(self.nets)) or len(self.nets) == 1:
            content = fastest_graph(self.raw[name], [inputs], engine=engine, threads=self.threads).content
        return bytes(content)

    def speedup(self, found: LatencyComparison) -> dict[str, float]:
        """Of each network over the first."""
        first, *others = self.nets
        return {name: found.speedup(name, over=first) for name in others}


def _fastest(engines: Sequence[Mapping[str, Any]], network: str) -> dict[str, str]:
    """Per batch size the engine with the lowest median for a network."""
    sizes = [timed["batch_size"] for timed in engines[0]["latency"]]
    medians = [[timed["medians_ms"][network] for timed in engine["latency"]] for engine in engines]
    best = [min(range(len(engines)), key=lambda i, n=n: medians[i][n]) for n in range(len(sizes))]  # type: ignore[misc]
    return {str(size): str(engines[index]["engine"]) for size, index in zip(sizes, best, strict=True)}
