"""Time candidates in an engine: set-ups for :mod:`.selection`, which decides, and the fastest layout of a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from ..core.arguments import checked
from ..core.errors import ExportError
from ..core.graph_layout import GraphLayout
from ..core.modules import Inputs
from ..core.progress import task
from .conversion import apply_layout, raw_onnx
from .engines import engine_named, graph_runner, runner
from .layout import LAYOUTS
from .onnx_model import OnnxModel
from .selection import SAMPLE_MS, select_fastest
from .timing import LatencyComparison, Runnable, compare_latency

Setup = Callable[[Inputs], Runnable]  # starts an engine on a candidate, for some inputs


@dataclass(frozen=True)
class FastestLayout:
    """Outcome of :func:`fastest_layout`.

    Attributes:
        layout: The layout of the graph that the engine runs fastest.
        content: The ONNX model in that layout.
        milliseconds: For the name of each layout the median time of one call, in ms, per timing input.
    """

    layout: GraphLayout
    content: bytes
    milliseconds: dict[str, list[float]]


@checked("threads")
def fastest_layout(
    net: nn.Module,
    example_inputs: Inputs,
    *,
    engine: str = "onnxruntime",
    timing_inputs: Sequence[Inputs] = (),
    layouts: Sequence[GraphLayout] = LAYOUTS,
    rounds: int = 15,
    threads: int | None = None,
) -> FastestLayout:
    """Find the layout in which an engine runs a network fastest, for the ``layout`` of ``export_onnx``.

    Args:
        net: Any network that can be exported.
        example_inputs: As in :func:`rotated_relu.rotate`, for the export.
        engine: An engine that runs graphs, such as ``onnxruntime`` or ``openvino``.
        timing_inputs: Inputs to time; all count alike. ``example_inputs`` if there are none.
        layouts: The candidates, the preferred first: a later one has to be faster twice.
        rounds: Interleaved timing rounds, as in :func:`~.autotune.compact_fastest`.
        threads: Of the engine; torch's setting if None.

    Raises:
        UnknownNameError: If there is no such engine.
        ExportError: If the network cannot be exported, or the engine's package is missing.
    """
    engine_named(engine, "graph")  # before the network is exported
    timing = list(timing_inputs) or [example_inputs]
    raw = raw_onnx(net, example_inputs)
    return fastest_graph(raw, timing, engine=engine, layouts=layouts, rounds=rounds, threads=threads)


def fastest_graph(
    raw: OnnxModel,
    timing_inputs: Sequence[Inputs],
    *,
    engine: str = "onnxruntime",
    layouts: Sequence[GraphLayout] = LAYOUTS,
    rounds: int = 15,
    threads: int | None = None,
) -> FastestLayout:
    """:func:`fastest_layout` of a network that :func:`rotated_relu.deploy.conversion.raw_onnx` has exported already."""
    check_names([layout.name for layout in layouts])
    graphs = distinct({layout.name: apply_layout(raw, layout).content for layout in layouts})
    timer = CandidateTimer(
        {name: graph_setup(content, engine, threads) for name, content in graphs.items()}, timing_inputs
    )
    found = select_fastest(timer, list(graphs), len(timing_inputs), rounds=rounds)
    layout = next(layout for layout in layouts if layout.name == found.chosen)
    return FastestLayout(layout, graphs[found.chosen], found.milliseconds)


def check_names(names: Sequence[str]) -> None:
    """Raise unless there are candidates, and each has a name of its own.

    Raises:
        ExportError: If not.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ExportError(f"two candidates are called {twice[0]!r}: give each layout a name of its own")
    if not names:
        raise ExportError("there is no layout to time; leave layouts out to time all of LAYOUTS")


def distinct(graphs: Mapping[str, bytes]) -> dict[str, bytes]:
    """Without the graphs that are the same as an earlier one: there is no need to time it twice."""
    first: dict[bytes, str] = {}
    for name, content in graphs.items():
        first.setdefault(content, name)
    return {name: content for name, content in graphs.items() if first[content] == name}


def graph_setup(content: bytes, engine: str, threads: int | None) -> Setup:
    """How to start an engine on a serialised ONNX model."""
    return lambda inputs: graph_runner(content, inputs, engine=engine, threads=threads)


def module_setup(model: nn.Module, engine: str, threads: int | None) -> Setup:
    """How to start an engine on a module."""
    return lambda inputs: runner(model, inputs, engine=engine, threads=threads)


@dataclass(frozen=True)
class CandidateTimer:
    """Times candidates at some inputs, set up anew each time; those of one input at a time are in memory."""

    setups: Mapping[str, Setup]
    timing_inputs: Sequence[Inputs]

    def __call__(self, names: Sequence[str], rounds: Sequence[int]) -> list[LatencyComparison]:
        """One comparison per input."""
        found = []
        with task(f"timing {len(names)} layouts", len(self.timing_inputs)) as work:
            for inputs, count in zip(self.timing_inputs, rounds, strict=True):
                found.append(self.compared(names, inputs, count))
                work.advance()
        return found

    def compared(self, names: Sequence[str], inputs: Inputs, rounds: int) -> LatencyComparison:
        """The candidates in turn at one input."""
        runs = {name: self.setups[name](inputs) for name in names}
        return compare_latency(runs, rounds, warmup=1, min_sample_ms=SAMPLE_MS)
