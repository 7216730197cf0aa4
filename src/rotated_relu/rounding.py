"""Choose widths and the form of exported graphs by timing candidates, because fewer MACs are not always less time.

Engines compute channels in blocks (8 or 16 floats to a vector register), so that 19 channels can take as long as 32,
and a gather can cost more than what it saves. Both depend on processor, engine and batch size, and on what the engine
fuses: a model of single operations does not see that. So a handful of candidates are compacted, timed in turn, and the
fastest wins. The original is one of them; noise in the timing can still favour a slower form.

- Engines that run modules (``torch``, ``torch.compile``): the candidates are widths rounded up to 1, 8 and 16.
- Engines that run graphs (``onnxruntime``, ``openvino``): everything dead goes from the modules, and the candidates are
  forms of the exported graph (:mod:`.onnx_narrow`), where zero channels fill up the widths.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .compact import Compacted
from .compact import compact as compact_to
from .errors import CompactionError, NothingRemovedWarning
from .export import OnnxModel, finished, raw_onnx
from .graph import Inputs, as_inputs
from .latency import Runnable, compare_latency
from .measure import GRAPH_ENGINES, check_engine, graph_runner, runner
from .onnx_narrow import Form

AUTO = "auto"
CANDIDATES = (1, 8, 16)
UNTOUCHED = Form(enabled=False)
FORMS = (
    Form(1, 1, 192),
    Form(8, 4, 192),
    Form(16, 4, 192),
    Form(16, 4, 64),
    Form(1, math.inf, 1024),
    Form(16, 0, 0),
    UNTOUCHED,
)  # fmt: skip
BATCH_SIZES = (1, 64)
WORTH = 0.03  # a later candidate has to be this much faster, or the earlier one wins
NOISE = 0.01  # a candidate slower than the original by more than this is out
KEEP_ALL = 2**20  # a rounding that removes nothing
ORIGINAL = "original"
FINALISTS = 3


@dataclass(frozen=True)
class FastestForm:
    """Outcome of :func:`fastest_form`.

    Attributes:
        form: The form of the graph that the engine runs fastest.
        content: The ONNX model in that form.
        milliseconds: For each candidate the median time of one call, in ms, per timing input.
    """

    form: Form
    content: bytes
    milliseconds: dict[Form, list[float]]


@dataclass(frozen=True)
class Fastest:
    """Outcome of :func:`compact_fastest`.

    Attributes:
        result: The compaction that was fastest; its ``plan.widths`` says what was chosen.
        round_to: Its rounding; None if the original was fastest and keeps everything.
        form: The form to export it in, for engines that run graphs, else None.
        speedup: How many times faster than the original it is, per timing input.
        milliseconds: For each candidate the median time of one call, in ms, per timing input.
    """

    result: Compacted
    round_to: int | None
    form: Form | None
    speedup: list[float]
    milliseconds: dict[str, list[float]]


def compact(
    net: nn.Module,
    example_inputs: Inputs,
    threshold: float = 0.1,
    round_to: int | str = 1,
    *,
    optimizer: Optimizer | None = None,
    engine: str = "onnxruntime",
    batch_size: int | Sequence[int] = BATCH_SIZES,
) -> Compacted:
    """Remove all channels that slopes under ``threshold`` make irrelevant.

    The slopes with ``|a| < threshold`` count as 0; everything that then cannot influence the output goes from the
    convolutions, linear layers and norms, wherever in the network it is. The result is compared in float64 with the
    original before it is returned.

    Args:
        net: A rotated network, in any mode, on any device. It is never changed.
        example_inputs: Tensor or tuple of tensors for one forward pass; a batch of 1 is enough.
        threshold: zeta of the paper, in units of slope.
        round_to: Widths are rounded up to multiples of it by keeping dead channels; 1 removes everything. ``"auto"``
            times candidates, the original among them, and keeps the fastest: see :func:`compact_fastest`.
        optimizer: What trains the network, to go on with after compaction: the result holds another one of the same
            class, groups and settings, whose momentum and moments are cut as the parameters are. The one passed in is
            unchanged.
        engine: For ``"auto"``: ``onnxruntime``, ``openvino``, ``torch`` or ``torch.compile``.
        batch_size: For ``"auto"``: the batch size to be fast at, or several.

    Returns:
        :class:`~rotated_relu.compact.Compacted`.

    Raises:
        SlopeError: If there are no slopes, some are NaN or infinite, or the threshold kills all of them.
        ShapeError: If the network does not run on the inputs.
        CaptureError: If ``torch.export`` cannot capture it; names operation and module.
        CertificateError: If the result differs by more than 1e-9 relative; names the layer.
        CompactionError: If ``round_to`` is no positive integer and not ``"auto"``; if the optimizer is another
            network's, or its state cannot be cut.

    Source: the threshold is that of Nayak and Kalyani, TMLR 2024; what is removed is ours (see docs/compaction.md).
    """
    if round_to != AUTO:
        return compact_to(net, example_inputs, threshold, _integer(round_to), optimizer=optimizer)
    sizes = [batch_size] if isinstance(batch_size, int) else list(batch_size)
    timing = [_of_size(as_inputs(example_inputs), size) for size in sizes]
    found = compact_fastest(net, example_inputs, threshold, timing_inputs=timing, engine=engine)
    if optimizer is None:
        return found.result
    with _quiet():
        again = compact_to(net, example_inputs, threshold, found.result.plan.round_to, optimizer=optimizer)
    again.plan.widths = found.result.plan.widths
    return again


def compact_fastest(
    net: nn.Module,
    example_inputs: Inputs,
    threshold: float = 0.1,
    candidates: Sequence[int] = CANDIDATES,
    *,
    timing_inputs: Sequence[Inputs] = (),
    engine: str = "onnxruntime",
    forms: Sequence[Form] = FORMS,
    rounds: int = 15,
    threads: int | None = None,
) -> Fastest:
    """Compact in several ways and keep the one that an engine runs fastest on this machine, or the original.

    Args:
        net: A rotated network; see :func:`compact`.
        example_inputs: For compaction; a batch of 1 is enough.
        threshold: zeta, in units of slope.
        candidates: Values of ``round_to`` to try, for engines that run modules.
        timing_inputs: Inputs to time, such as a batch of 1 and a large one; all count alike. ``example_inputs`` if
            there are none.
        engine: ``onnxruntime``, ``openvino``, ``torch`` or ``torch.compile``.
        forms: Forms of the graph to try, for engines that run graphs.
        rounds: Interleaved timing rounds.
        threads: Of the engine; torch's setting if None.

    Raises:
        CompactionError: If there is no candidate; and what :func:`compact` raises.
        UnknownNameError: If there is no such engine.
        ExportError: If the engine's package is missing, or it runs graphs and the network cannot be exported.
    """
    check_engine(engine)
    if not (forms if engine in GRAPH_ENGINES else candidates):
        raise CompactionError("compact_fastest needs at least one candidate, such as round_to 1, 8 and 16")
    with _quiet():
        tried = _Tried(
            net, example_inputs, threshold, list(timing_inputs) or [example_inputs], engine, threads
        )
        if engine in GRAPH_ENGINES:
            return tried.graphs(forms, rounds)
        return tried.modules(sorted(set(candidates)), rounds)


def fastest_form(
    net: nn.Module,
    example_inputs: Inputs,
    *,
    engine: str = "onnxruntime",
    timing_inputs: Sequence[Inputs] = (),
    forms: Sequence[Form] = FORMS,
    rounds: int = 9,
    threads: int | None = None,
) -> FastestForm:
    """Find the form in which an engine runs a network fastest, for the ``form`` of ``export_onnx``.

    Args:
        net: Any network that can be exported.
        example_inputs: For the export.
        engine: ``onnxruntime`` or ``openvino``.
        timing_inputs: Inputs to time; all count alike. ``example_inputs`` if there are none.
        forms: The candidates.
        rounds: Interleaved timing rounds.
        threads: Of the engine; torch's setting if None.

    Raises:
        ExportError: If the network cannot be exported, or the engine's package is missing.
    """
    check_engine(engine)
    timing = list(timing_inputs) or [example_inputs]
    raw = raw_onnx(net, example_inputs)
    return fastest_graph(raw, timing, engine=engine, forms=forms, rounds=rounds, threads=threads)


def fastest_graph(
    raw: OnnxModel,
    timing_inputs: Sequence[Inputs],
    *,
    engine: str = "onnxruntime",
    forms: Sequence[Form] = FORMS,
    rounds: int = 9,
    threads: int | None = None,
) -> FastestForm:
    """:func:`fastest_form` of a network that :func:`rotated_relu.export.raw_onnx` has exported already."""
    graphs = _different({str(form): finished(raw, form).content for form in forms})
    makers = {name: _graph_maker(content, engine, threads) for name, content in graphs.items()}
    times = _timed(makers, timing_inputs, rounds)
    chosen = choose(times)
    form = next(form for form in forms if str(form) == chosen)
    return FastestForm(form, graphs[chosen], {form: times[str(form)] for form in forms if str(form) in times})


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A large rounding may well keep everything; the plan says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NothingRemovedWarning)
        yield


Maker = Callable[[Inputs], Runnable]


@dataclass
class _Tried:
    """Compacts one network in several ways and times them."""

    net: nn.Module
    example_inputs: Inputs
    threshold: float
    timing_inputs: list[Inputs]
    engine: str
    threads: int | None

    def compacted(self, round_to: int) -> Compacted:
        return compact_to(self.net, self.example_inputs, self.threshold, round_to)

    def graphs(self, forms: Sequence[Form], rounds: int) -> Fastest:
        """Everything dead goes; candidates are forms of the exported graph."""
        result = self.compacted(1)
        raw = raw_onnx(result.model, self.example_inputs)
        contents = _different({str(form): finished(raw, form).content for form in forms})
        contents[ORIGINAL] = raw_onnx(self.net, self.example_inputs).content
        makers = {
            name: _graph_maker(content, self.engine, self.threads) for name, content in contents.items()
        }
        times = _timed(makers, self.timing_inputs, rounds)
        chosen = choose(times)
        form = next((form for form in forms if str(form) == chosen), UNTOUCHED)
        return self.outcome(chosen, {chosen: result}, form, times)

    def modules(self, candidates: Sequence[int], rounds: int) -> Fastest:
        """Candidates are roundings of the modules' widths."""
        results = {str(round_to): self.compacted(round_to) for round_to in candidates}
        models = {name: result.model for name, result in results.items()} | {ORIGINAL: self.net}
        makers = {name: _module_maker(model, self.engine, self.threads) for name, model in models.items()}
        times = _timed(makers, self.timing_inputs, rounds)
        return self.outcome(choose(times), results, None, times)

    def outcome(
        self, chosen: str, results: Mapping[str, Compacted], form: Form | None, times: dict[str, list[float]]
    ) -> Fastest:
        """The chosen compaction with the reason in its plan."""
        result = self.compacted(KEEP_ALL) if chosen == ORIGINAL else results[chosen]
        speedup = [slow / fast for slow, fast in zip(times[ORIGINAL], times[chosen], strict=True)]
        sizes = [len(as_inputs(inputs)[0]) for inputs in self.timing_inputs]
        where = f"in {self.engine} at batch {' and '.join(map(str, sizes))}"
        gains = " and ".join(f"{gain:.2f}" for gain in speedup)
        result.plan.widths = (
            f"everything stays: no candidate was faster than the original {where}"
            if chosen == ORIGINAL
            else f"{chosen} was fastest of {len(times)} {where}: {gains} times as fast as the original"
        )
        round_to = None if chosen == ORIGINAL else result.plan.round_to
        return Fastest(result, round_to, form, speedup, times)


def _different(graphs: Mapping[str, bytes]) -> dict[str, bytes]:
    """Without the graphs that are the same as an earlier one: there is no need to time it twice."""
    first: dict[bytes, str] = {}
    for name, content in graphs.items():
        first.setdefault(content, name)
    return {name: content for name, content in graphs.items() if first[content] == name}


def _graph_maker(content: bytes, engine: str, threads: int | None) -> Maker:
    return lambda inputs: graph_runner(content, inputs, engine=engine, threads=threads)


def _module_maker(model: nn.Module, engine: str, threads: int | None) -> Maker:
    return lambda inputs: runner(model, inputs, engine=engine, threads=threads)


def _timed(
    makers: Mapping[str, Maker], timing_inputs: Sequence[Inputs], rounds: int
) -> dict[str, list[float]]:
    """Median time per candidate and input: a few rounds of all, then all rounds of those in front."""
    times: dict[str, list[float]] = {name: [] for name in makers}
    for inputs in timing_inputs:
        medians = _medians(makers, inputs, max(3, rounds // 4))
        front = sorted((name for name in medians if name != ORIGINAL), key=medians.__getitem__)[:FINALISTS]
        final = {name: makers[name] for name in makers if name in front or name == ORIGINAL}
        medians |= _medians(final, inputs, rounds)
        for name, value in medians.items():
            times[name].append(value)
    return times


def _medians(makers: Mapping[str, Maker], inputs: Inputs, rounds: int) -> dict[str, float]:
    return compare_latency({name: make(inputs) for name, make in makers.items()}, rounds, warmup=2).medians_ms


def choose(milliseconds: Mapping[str, list[float]]) -> str:
    """The candidate with the lowest geometric mean time; an earlier one wins within 3 %.

    The original is taken if every other candidate is slower than it at some input.
    """
    limit = milliseconds.get(ORIGINAL)
    allowed = {
        name: sum(math.log(ms) for ms in times) / len(times)
        for name, times in milliseconds.items()
        if limit is None or all(ms <= most * (1 + NOISE) for ms, most in zip(times, limit, strict=True))
    }
    best = min(allowed.values())
    return next(name for name, value in allowed.items() if value <= best - math.log(1 - WORTH))


def _integer(round_to: Any) -> int:
    if isinstance(round_to, str):
        raise CompactionError(f'round_to must be a positive integer (1, 8, 16) or "auto", got {round_to!r}')
    return round_to  # type: ignore[no-any-return]


def _of_size(inputs: tuple[Any, ...], size: int) -> tuple[Any, ...]:
    """Example inputs repeated to a batch size."""
    batch = len(inputs[0])
    return tuple(
        value[torch.arange(size, device=value.device) % batch]
        if isinstance(value, Tensor) and value.dim() and len(value) == batch
        else value
        for value in inputs
    )
