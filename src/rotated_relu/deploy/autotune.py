"""Choose widths and the layout of exported graphs by timing candidates, because fewer MACs are not always less time.

Engines compute channels in blocks (8 or 16 floats to a vector register), so that 19 channels can take as long as 32,
and a gather can cost more than what it saves. Both depend on processor, engine and batch size, and on what the engine
fuses: a model of single operations does not see that. So a handful of candidates are compacted and timed in turn, the
original among them. One of them replaces the original if it is faster twice: see :mod:`.selection`.

- Engines that run modules (``torch``, ``torch.compile``): the candidates are widths rounded up to 1, 8 and 16.
- Engines that run graphs (``onnxruntime``, ``openvino``): everything dead goes from the modules, and the candidates are
  layouts of the exported graph (:mod:`.layout`), in which zero channels fill up the widths. One more candidate has
  widths of 16 in the modules and is run as exported: with SiLU gates and squeeze-excite, which keep channels that are
  constant, selections inside blocks cost more than the channels they save.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from ..core.arguments import checked
from ..core.errors import CompactionError, NothingRemovedWarning, SlopeError
from ..core.graph_layout import GraphLayout, Tuned
from ..core.modules import Inputs, as_inputs, unwrap
from ..pruning.mask import threshold_mask
from ..pruning.removal import Compacted, remove_channels
from ..pruning.removal.optimizer_state import check_optimizer, cut_optimizer
from .conversion import apply_layout, raw_onnx
from .engines import engine_named
from .fastest import CandidateTimer, Setup, check_names, distinct, graph_setup, module_setup
from .layout import AS_EXPORTED, LAYOUTS
from .selection import Selection, select_fastest

AUTO = "auto"
THRESHOLD = 0.1  # of slopes, where neither a threshold nor a mask is given
CANDIDATES = (1, 8, 16)
BATCH_SIZES = (1, 64)
KEEP_ALL = 2**20  # a rounding that removes nothing
ORIGINAL = "original"
WIDE = 16
WIDE_MODULES = f"modules in widths of {WIDE}"


@dataclass(frozen=True)
class Fastest:
    """Outcome of :func:`compact_fastest`.

    Attributes:
        result: The compaction that was fastest; its ``plan.widths`` says what was chosen, its ``layout`` how to export
            it for engines that run graphs.
        round_to: Its rounding; None if no candidate was confirmed faster than the original, and everything stays.
        speedup: How many times faster than the original it is, per timing input, measured after the choice was made.
        milliseconds: For each candidate the median time of one call, in ms, per timing input.
    """

    result: Compacted
    round_to: int | None
    speedup: list[float]
    milliseconds: dict[str, list[float]]


@checked("mask", "round_to")
def compact(
    net: nn.Module,
    example_inputs: Inputs,
    threshold: float | None = None,
    round_to: int | str = 1,
    *,
    mask: Mapping[str, Tensor] | None = None,
    optimizer: Optimizer | None = None,
    engine: str = "onnxruntime",
    batch_size: int | Sequence[int] = BATCH_SIZES,
) -> Compacted:
    """Remove all channels that slopes under ``threshold``, or those that a ``mask`` names, make irrelevant.

    The slopes with ``|a| < threshold``, or of the channels that the mask takes, count as 0; everything that then cannot
    influence the output goes from the convolutions, linear layers and norms, wherever in the network it is. The result
    is compared in float64 with the original before it is returned.

    Args:
        net: A rotated network, in any mode, on any device. It is never changed.
        example_inputs: As in :func:`rotated_relu.rotate`; a batch of 1 is enough.
        threshold: zeta of the paper, in units of slope; 0.1 if there is no mask. 0 takes what is exactly 0.
        round_to: Widths are rounded up to multiples of it by keeping dead channels; 1 removes everything. ``"auto"``
            times candidates, the original among them, and keeps the fastest, with the layout of the exported graph
            that goes with it (``result.layout``).
        mask: Instead of a threshold: qualified name of a slope -> boolean (channels,), True where the channel goes;
            from :func:`rotated_relu.find_threshold` (``found.mask``), :func:`rotated_relu.select_channels`, or your
            own. Names that are left out keep all channels but those whose slope is 0.
        optimizer: What trains the network, to go on with after compaction: the result holds another one of the same
            class, groups and settings, whose momentum and moments are cut as the parameters are. The one passed in is
            unchanged.
        engine: For ``"auto"``: ``onnxruntime``, ``openvino``, ``torch`` or ``torch.compile``.
        batch_size: For ``"auto"``: the batch size to be fast at, or several.

    Returns:
        :class:`~rotated_relu.pruning.removal.Compacted`.

    Raises:
        SlopeError: If there are no slopes, some are NaN or infinite, the threshold or the mask kills all of them, or
            both are given.
        UnknownNameError: If the mask names a slope that there is not.
        ShapeError: If the network does not run on the inputs, or a mask is no boolean tensor of one entry per channel.
        CaptureError: If ``torch.export`` cannot capture it; names operation and module.
        CertificateError: If the result differs by more than 1e-9 relative; names the layer.
        CompactionError: If ``round_to`` is no positive integer and not ``"auto"``; if the optimizer is another
            network's, or its state cannot be cut.

    Source: the threshold is that of Nayak and Kalyani, TMLR 2024; what is removed is ours (see docs/compaction.md).
    """
    net = unwrap(net)
    gone = _mask(net, threshold, mask)
    if round_to != AUTO:
        return remove_channels(net, example_inputs, gone, _integer(round_to), optimizer=optimizer)
    if optimizer is not None:
        check_optimizer(optimizer, net)
    sizes = [batch_size] if isinstance(batch_size, int) else list(batch_size)
    timing = [as_inputs(example_inputs).of_size(size) for size in sizes]
    result = compact_fastest(net, example_inputs, gone, timing_inputs=timing, engine=engine).result
    if optimizer is None:
        return result
    return replace(result, optimizer=cut_optimizer(optimizer, net, result.model, result.plan))


def compact_fastest(
    net: nn.Module,
    example_inputs: Inputs,
    mask: Mapping[str, Tensor],
    candidates: Sequence[int] = CANDIDATES,
    *,
    timing_inputs: Sequence[Inputs] = (),
    engine: str = "onnxruntime",
    layouts: Sequence[GraphLayout] = LAYOUTS,
    rounds: int = 15,
    threads: int | None = None,
) -> Fastest:
    """Compact in several ways and keep the one that an engine runs fastest on this machine, or the original.

    What ``compact(..., round_to="auto")`` does, with the timings beside the result.

    A candidate replaces the original if it is confirmed faster over all timing inputs, and not slower at any, in two
    independent rounds of timing. That takes some seconds per timing input, longer for networks of seconds per call.

    Args:
        net: A rotated network; see :func:`compact`.
        example_inputs: As in :func:`rotated_relu.rotate`, for compaction; a batch of 1 is enough.
        mask: Which channels go; see :mod:`rotated_relu.pruning.mask`.
        candidates: Values of ``round_to`` to try, for engines that run modules.
        timing_inputs: Inputs to time, such as a batch of 1 and a large one; all count alike. ``example_inputs`` if
            there are none.
        engine: ``onnxruntime``, ``openvino``, ``torch`` or ``torch.compile``.
        layouts: Layouts of the graph to try, for engines that run graphs.
        rounds: Interleaved timing rounds; up to three times as many for fast networks, down to 8 for slow ones. With
            fewer than 5 none is confirmed.
        threads: Of the engine; torch's setting if None.

    Raises:
        CompactionError: If there is no candidate; and what :func:`compact` raises.
        UnknownNameError: If there is no such engine.
        ExportError: If the engine's package is missing, or it runs graphs and the network cannot be exported.
    """
    on_graphs = engine_named(engine).kind == "graph"
    if not (layouts if on_graphs else candidates):
        raise CompactionError("compact_fastest needs at least one candidate, such as round_to 1, 8 and 16")
    check_names([ORIGINAL, WIDE_MODULES, *(layout.name for layout in layouts)])
    net = unwrap(net)
    with _quiet():
        tried = _Tried(net, example_inputs, mask, list(timing_inputs) or [example_inputs], engine, threads)
        if on_graphs:
            return tried.graphs(layouts, rounds)
        return tried.modules(sorted(set(candidates)), rounds)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A large rounding may well keep everything; the plan says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NothingRemovedWarning)
        yield


@dataclass
class _Tried:
    """Compacts one network in several ways and times them."""

    net: nn.Module
    example_inputs: Inputs
    mask: Mapping[str, Tensor]
    timing_inputs: list[Inputs]
    engine: str
    threads: int | None

    def compacted(self, round_to: int) -> Compacted:
        return remove_channels(self.net, self.example_inputs, self.mask, round_to)

    def graphs(self, layouts: Sequence[GraphLayout], rounds: int) -> Fastest:
        """Everything dead goes and candidates are layouts of the exported graph, or widths are multiples of 16."""
        result, wide = self.compacted(1), self.compacted(WIDE)
        raw = raw_onnx(result.model, self.example_inputs)
        contents = {ORIGINAL: raw_onnx(self.net, self.example_inputs).content}
        contents |= {layout.name: apply_layout(raw, layout).content for layout in layouts}
        contents = distinct(contents | {WIDE_MODULES: raw_onnx(wide.model, self.example_inputs).content})
        found = self.selected(
            {name: graph_setup(content, self.engine, self.threads) for name, content in contents.items()},
            rounds,
        )
        layout = next((layout for layout in layouts if layout.name == found.chosen), AS_EXPORTED)
        return self.outcome(found, {found.chosen: result, WIDE_MODULES: wide}, layout)

    def modules(self, candidates: Sequence[int], rounds: int) -> Fastest:
        """Candidates are roundings of the modules' widths."""
        results = {_widths(round_to): self.compacted(round_to) for round_to in candidates}
        models = {ORIGINAL: self.net} | {name: result.model for name, result in results.items()}
        found = self.selected(
            {name: module_setup(model, self.engine, self.threads) for name, model in models.items()}, rounds
        )
        return self.outcome(found, results, None)

    def selected(self, setups: Mapping[str, Setup], rounds: int) -> Selection:
        """The fastest, if it beats the original."""
        timer = CandidateTimer(setups, self.timing_inputs)
        return select_fastest(timer, list(setups), len(self.timing_inputs), ORIGINAL, rounds)

    def outcome(
        self, found: Selection, results: Mapping[str, Compacted], layout: GraphLayout | None
    ) -> Fastest:
        """The chosen compaction with the reason in its plan."""
        chosen = found.chosen
        result = self.compacted(KEEP_ALL) if chosen == ORIGINAL else results[chosen]
        sizes = [as_inputs(inputs).batch_size for inputs in self.timing_inputs]
        where = f"in {self.engine} at batch {' and '.join(map(str, sizes))}"
        gains = " and ".join(f"{gain:.2f}" for gain in found.speedup)
        result.plan.widths = (
            f"everything stays: no candidate was confirmed faster than the original {where} (round_to=1 removes all "
            "that is dead)"
            if chosen == ORIGINAL
            else f"{chosen} was fastest of {len(found.milliseconds)} {where}: {gains} times as fast as the original"
        )
        round_to = None if chosen == ORIGINAL else result.plan.round_to
        result = replace(result, tuned=Tuned(self.engine, tuple(sizes), layout))
        return Fastest(result, round_to, found.speedup, found.milliseconds)


def _widths(round_to: int) -> str:
    """Name of a candidate for engines that run modules."""
    return "exact widths" if round_to == 1 else f"widths of {round_to}"


def _mask(net: nn.Module, threshold: float | None, mask: Mapping[str, Tensor] | None) -> Mapping[str, Tensor]:
    """The one mask that everything after works with."""
    if mask is None:
        return threshold_mask(net, THRESHOLD if threshold is None else threshold)
    if threshold is not None:
        raise SlopeError("give either threshold= or mask=, not both: a mask says already which channels go")
    return mask


def _integer(round_to: Any) -> int:
    if isinstance(round_to, str):
        raise CompactionError(f'round_to must be a positive integer (1, 8, 16) or "auto", got {round_to!r}')
    return round_to  # type: ignore[no-any-return]
