"""What must hold for every network: liveness is sound and sharp, compaction is exact and never grows.

Independent of the library where it can be: outputs are compared here, costs are counted by torch, and the brute-force
answer to "does this weight matter" differentiates the real network at random points.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import rotated_relu as rr
from rotated_relu.core.errors import NothingRemovedWarning, RotatedReLUError
from rotated_relu.graph.capture import Graph
from rotated_relu.graph.liveness import analyse
from rotated_relu.pruning.removal.surgery import named_states

TOLERANCE = 1e-9
compact_file = importlib.import_module("rotated_relu.pruning.removal.compact")  # the name is also a function


@dataclass
class Verdict:
    """Outcome for one network.

    Attributes:
        refused: The library's own error message, or "".
        unsound: What moved the output although it was called irrelevant.
        inexact: How the compacted network differs.
        misses: Entries per parameter that are called relevant, while brute force finds no influence.
        parameters: Before, after, and entries that are relevant and not zero.
        macs: Before, after.
        certificate: The library's own relative difference.
        unhandled: Operations without a liveness rule.
        retried: Failures of the certificate after which compaction tried again with some modules at full width.
    """

    refused: str = ""
    unsound: str = ""
    inexact: str = ""
    misses: dict[str, int] = field(default_factory=dict)
    parameters: tuple[int, int, int] = (0, 0, 0)
    macs: tuple[int, int] = (0, 0)
    certificate: float = 0.0
    unhandled: dict[str, int] = field(default_factory=dict)
    retried: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Sound, exact, not refused."""
        return not (self.refused or self.unsound or self.inexact)


def check(net: nn.Module, inputs: tuple[Tensor, ...], threshold: float, *, sharp: bool = True) -> Verdict:
    """All checks on one network in eval mode; ``inputs`` are float64 with a batch of at least 2."""
    verdict = Verdict()
    masked = masked_double(net, threshold)
    example = tuple(value[:1].float() for value in inputs)
    with observed() as (graphs, verdict.retried):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NothingRemovedWarning)
                result = rr.compact(net, example, threshold)
        except RotatedReLUError as error:
            verdict.refused = f"{type(error).__name__}: {error}"
            if not graphs:
                return verdict
            result = None
    states = named_states(masked)
    verdict.unsound = soundness(masked, graphs[0], inputs)
    if sharp and not verdict.unsound:
        relevant = analyse(graphs[0], states).relevant
        verdict.misses, wrong = sharpness(masked, relevant, inputs)
        if wrong:
            verdict.unsound = f"called irrelevant, but moves the output: {wrong}"
    if result is not None:
        verdict.certificate = result.certificate.max_relative_difference
        verdict.unhandled = dict(result.plan.unhandled)
        live = analyse(graphs[0], states).relevant
        useful = sum(
            int((live[name] & (value != 0)).sum()) if name in live else 0
            for name, value in masked.named_parameters()
        )
        before, after = (sum(p.numel() for p in m.parameters()) for m in (masked, result.model))
        verdict.parameters = (before, after, useful)
        verdict.inexact = exactness(masked, result.model, inputs)
        if not verdict.inexact:
            verdict.macs = (
                count_macs(masked, inputs),
                count_macs(copy.deepcopy(result.model).double(), inputs),
            )
            if after > before or verdict.macs[1] > verdict.macs[0]:
                verdict.inexact = f"grew: parameters {before} -> {after}, MACs {verdict.macs}"
    return verdict


@contextlib.contextmanager
def observed() -> Iterator[tuple[list[Graph], list[str]]]:
    """Note the graphs that compaction captures (exporting takes most of the time, once is enough) and the
    certificates that it did not get at first."""
    graphs: list[Graph] = []
    failures: list[str] = []
    capture, certify = compact_file.capture, compact_file.certify

    def noting_graph(*args: Any, **kwargs: Any) -> Graph:
        graphs.append(capture(*args, **kwargs))
        return graphs[-1]

    def noting_failure(*args: Any, **kwargs: Any) -> Any:
        try:
            return certify(*args, **kwargs)
        except RotatedReLUError as error:
            failures.append(str(error))
            raise

    with (
        mock.patch.object(compact_file, "capture", noting_graph),
        mock.patch.object(compact_file, "certify", noting_failure),
    ):
        yield graphs, failures


def masked_double(net: nn.Module, threshold: float) -> nn.Module:
    """A float64 copy with the small slopes at zero, made without the library."""
    masked = copy.deepcopy(net).double().eval()
    with torch.no_grad():
        for module in masked.modules():
            if isinstance(module, rr.Rotated):
                module.slope[module.slope.abs() < threshold] = 0.0
    return masked


@torch.no_grad()
def outputs(net: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """All output tensors, flattened."""
    return [leaf.detach() for leaf in tree_leaves(net(*inputs)) if isinstance(leaf, Tensor)]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    """Bitwise equal."""
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def soundness(masked: nn.Module, graph: Graph, inputs: tuple[Tensor, ...]) -> str:
    """Replace everything irrelevant by random numbers: the float64 output may not move by one bit."""
    relevant = analyse(graph, named_states(masked), arbitrary=True).relevant
    before = outputs(masked, inputs)
    for seed in range(2):
        baseline = copy.deepcopy(masked)
        randomise(baseline, relevant, seed)
        if not same(outputs(baseline, inputs), before):
            return f"randomising the irrelevant moves the output{_first_to_move(masked, relevant, inputs, before)}"
    return ""


def randomise(net: nn.Module, relevant: dict[str, Tensor], seed: int = 0) -> None:
    """Random numbers in everything that is not relevant, in place; positive where a variance has to be."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in named_states(net).items():
        if name in relevant:
            noise = 0.5 + torch.rand(value.shape, generator=generator, dtype=value.dtype)
            if not name.endswith("running_var"):
                noise *= torch.where(torch.rand(value.shape, generator=generator) < 0.5, 1.0, -1.0)
            value.data[~relevant[name]] = noise[~relevant[name]]


def _first_to_move(
    masked: nn.Module, relevant: dict[str, Tensor], inputs: tuple[Tensor, ...], before: list[Tensor]
) -> str:
    for name in relevant:
        baseline = copy.deepcopy(masked)
        randomise(baseline, {name: relevant[name]})
        if not same(outputs(baseline, inputs), before):
            return f", {name} alone does"
    return ", only several parameters together do"


def exactness(masked: nn.Module, small: nn.Module, inputs: tuple[Tensor, ...]) -> str:
    """The compacted network against the masked original, in float64, on inputs that nobody has seen."""
    small = copy.deepcopy(small).double().eval()
    generator = torch.Generator().manual_seed(99)
    fresh = tuple(torch.randn(v.shape, generator=generator, dtype=v.dtype) for v in inputs)
    for trial in (inputs, fresh, tuple(value[:1] for value in fresh)):
        for one, other in zip(outputs(masked, trial), outputs(small, trial), strict=True):
            if one.shape != other.shape:
                return f"shape {tuple(one.shape)} became {tuple(other.shape)}"
            scale = float(one.abs().max())
            difference = float((one - other).abs().max())
            if not difference <= TOLERANCE * max(scale, 1e-300):
                return f"differs by {difference:.3g} at {scale:.3g}"
    return ""


def count_macs(net: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Multiply-accumulates of one forward pass as torch counts them."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(*inputs)
    return int(counter.get_total_flops()) // 2


# --- brute force ---------------------------------------------------------------------------------------------------


def sharpness(
    masked: nn.Module, relevant: dict[str, Tensor], inputs: tuple[Tensor, ...], redraws: int = 24
) -> tuple[dict[str, int], dict[str, int]]:
    """Compare what is called relevant with what really moves the output.

    An entry matters if changing it alone changes the float64 output for *some* values of the entries that are not
    zero: the analysis knows weights by their zeros only, so their values are drawn again several times, and the inputs
    with them. Found by differentiating the real network first (all entries at once), and for entries without a gradient
    by changing them one at a time, both ways, since a ReLU or a square hides a change at 0 from the derivative.

    Returns:
        Entries called relevant that never moved the output, and entries called irrelevant that did, per parameter.
    """
    baseline = copy.deepcopy(masked)
    states = {name: value for name, value in named_states(baseline).items() if name in relevant}
    moved = {name: torch.zeros(value.shape, dtype=torch.bool) for name, value in states.items()}

    def missing() -> dict[str, Tensor]:
        return {name: relevant[name] & ~moved[name] for name in states}

    for seed in range(redraws):
        trial = _redraw(states, named_states(masked), inputs, seed)
        for name, grad in _gradients(baseline, states, trial).items():
            moved[name] |= grad != 0
        if seed >= 2 and not any(bool(mask.any()) for mask in missing().values()):
            break
    for seed in range(redraws):
        if any(bool(mask.any()) for mask in missing().values()):
            trial = _redraw(states, named_states(masked), inputs, seed)
            _change_one_at_a_time(baseline, states, trial, missing(), moved)
    wrong = {n: int((moved[n] & ~relevant[n]).sum()) for n in states if bool((moved[n] & ~relevant[n]).any())}
    return {name: int(mask.sum()) for name, mask in missing().items() if bool(mask.any())}, wrong


def _redraw(
    states: dict[str, Tensor], pattern: dict[str, Tensor], inputs: tuple[Tensor, ...], seed: int
) -> tuple[Tensor, ...]:
    """Other values where the original is not zero (the first time its own), and other inputs, which are returned."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in states.items():
        original = pattern[name].detach()
        new = original.clone()
        if seed:
            scale = (max(value[0].numel(), 1) ** -0.5) if value.dim() > 1 else 1.0
            new = (2 * torch.rand(value.shape, generator=generator, dtype=value.dtype) - 1) * 2 * scale
            if name.endswith("running_var"):
                new = new.abs() + 0.1
            new = torch.where(original == 0, 0.0, new)
        value.data.copy_(new)
    return tuple((1 + seed % 3) * torch.randn(v.shape, generator=generator, dtype=v.dtype) for v in inputs)


def _gradients(net: nn.Module, states: dict[str, Tensor], inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    for value in states.values():
        value.grad = None
    generator = torch.Generator().manual_seed(5)
    total = torch.zeros((), dtype=torch.float64)
    for leaf in tree_leaves(net(*inputs)):
        if isinstance(leaf, Tensor) and leaf.requires_grad:
            total = total + (leaf * torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype)).sum()
    if total.requires_grad:
        total.backward()
    return {name: value.grad for name, value in states.items() if value.grad is not None}


@torch.no_grad()
def _change_one_at_a_time(
    net: nn.Module,
    states: dict[str, Tensor],
    inputs: tuple[Tensor, ...],
    open_entries: dict[str, Tensor],
    moved: dict[str, Tensor],
) -> None:
    if not any(bool(mask.any()) for mask in open_entries.values()):
        return
    before = outputs(net, inputs)
    for name, mask in open_entries.items():
        flat, found = states[name].data.view(-1), moved[name].view(-1)
        for position in torch.nonzero(mask.reshape(-1)).flatten().tolist():
            kept = flat[position].clone()
            signs = (7.0, 0.5) if name.endswith("running_var") else (-7.0, 7.0)
            for value in signs:
                flat[position] = kept + value
                found[position] |= not same(outputs(net, inputs), before)
            flat[position] = kept
