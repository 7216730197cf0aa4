"""Try on copies of a network what is to be done to it.

Requires: a network and the arguments of one call. Ensures: the network is never changed; its copy runs from the same
state and the same random numbers each time. :meth:`Trials.check` returns only if the copy with slopes of 1 computes in
every mode what the original does, uses all its slopes, and can be captured.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import RotationError
from ..core.modules import Call, first_line
from ..core.nested import tensors_in
from ..core.state import Saved, check_fit, copy_of, random_kept
from ..graph.capture import capture_trial_copy
from .call_sites import Site
from .channel_dims import place_channels
from .gates import Named
from .installing import install
from .placing import Plan
from .recording import Recording, record

# Multiplying by 1 changes no bit; other kernels may be chosen, and some sum in any order.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
_HALF_TOLERANCE = 2e-2


class Trials:
    """Runs a copy of the network in eval and train mode, from the same state and random numbers each time."""

    def __init__(self, net: nn.Module, call: Call) -> None:
        self.net = net
        self.call = call
        self.copy = copy_of(net)
        self.recorded: dict[bool, Recording] = {}
        self.doubled = False

    def given(self, training: bool) -> Call:
        """Copies of the inputs; twice the batch if norms refused a single example in train mode."""
        double = training and self.doubled
        return (self.call.of_size(2 * self.call.batch_size) if double else self.call).copied()

    @contextmanager
    def _mode(self, training: bool) -> Iterator[None]:
        """The copy in one mode; afterwards as it was, random numbers included."""
        saved = Saved(self.copy, weights=False)
        try:
            with torch.no_grad(), seeded(self.call):
                self.copy.train(training)
                yield
        finally:
            saved.put_back()

    def recordings(self, named: Named) -> list[Recording]:
        """What the network calls in eval mode and, where it runs, in train mode."""
        watched = [function.__code__ for function in named.functions]
        try:
            self.recorded[False] = self._record(False, watched)
        except Exception:
            check_fit(self.copy, self.call)  # says what is wrong with the inputs, if it is them
            raise
        for self.doubled in (False, True):
            try:
                self.recorded[True] = self._record(True, watched)
                break
            except Exception:  # batch statistics of one value, or no training without labels
                continue
        return list(self.recorded.values())

    def _record(self, training: bool, watched: Sequence[CodeType]) -> Recording:
        given = self.given(training)
        with self._mode(training):
            return record(self.copy, given, place_channels, watched)

    def _outputs(self, training: bool) -> Any:
        given = self.given(training)
        with self._mode(training):
            return self.copy(*given.args, **given.kwargs)

    def check(self, plan: Plan) -> None:
        """Compare the copy with slopes of 1 with what it was, count that every site is used, and capture it."""
        install(plan, self.copy, "ones")
        for training, recording in self.recorded.items():
            with _counted_calls(self.copy, [*_new_names(plan)]) as counts:
                try:
                    found = self._outputs(training)
                except Exception as error:
                    raise RotationError(
                        f"with slopes the network fails ({first_line(error)}); nothing was changed"
                    ) from error
            self._compare(plan, recording.output, found, training)
            _check_counts(plan, counts, recording, training)
        with self._mode(False):
            capture_trial_copy(self.copy, self.call)

    def _compare(self, plan: Plan, before: Any, after: Any, training: bool) -> None:
        if _equal(before, after):
            return
        self.copy = copy_of(
            self.net
        )  # other kernels without a recorder, or a network that differs from run to run
        again = self._outputs(training)
        install(plan, self.copy, "ones")
        if not _equal(again, after) and _equal(again, before):
            mode = "train" if training else "eval"
            listed = "; ".join(map(str, plan.sites))
            raise RotationError(
                f"with slopes of 1 the network computes something else in {mode} mode; nothing was changed. The sites "
                f"were {listed}; find the one with exclude"
            )


def _equal(before: Any, after: Any) -> bool:
    """Whether outputs agree, NaN with NaN."""
    one, other = tensors_in(before), tensors_in(after)
    if [value.shape for value in one] != [value.shape for value in other]:
        return False
    return all(_close(a, b) for a, b in zip(one, other, strict=True))


def _close(one: Tensor, other: Tensor) -> bool:
    if not one.is_floating_point() or not one.numel():
        return one.dtype == other.dtype and (not one.numel() or bool((one == other).all()))
    finite = one[one.isfinite()].abs()
    scale = float(finite.max()) if finite.numel() else 0.0
    tolerance = _TOLERANCE.get(one.dtype, _HALF_TOLERANCE) * scale
    return torch.allclose(one, other, rtol=0, atol=tolerance, equal_nan=True)


def _new_names(plan: Plan) -> Iterator[tuple[str, Site]]:
    yield from plan.swaps.items()
    for sites in plan.dispatched.values():
        for site in sites.values():
            yield site.name, site


@contextmanager
def _counted_calls(net: nn.Module, names: Sequence[tuple[str, Site]]) -> Iterator[dict[Site, int]]:
    """Count how often each new module is called; without hooks, which switch off torch's fast paths."""
    counts = {site: 0 for _, site in names}

    def counting(module: nn.Module, site: Site) -> Callable[[Tensor], Tensor]:
        original = module.forward

        def forward(x: Tensor) -> Tensor:
            counts[site] += 1
            result: Tensor = original(x)
            return result

        return forward

    modules = {name: net.get_submodule(name) for name, _ in names}
    for name, site in names:
        modules[name].__dict__["forward"] = counting(modules[name], site)
    try:
        yield counts
    finally:
        for module in modules.values():
            del module.__dict__["forward"]


def _check_counts(plan: Plan, counts: Mapping[Site, int], recording: Recording, training: bool) -> None:
    calls = set(recording.calls)
    lost = [site for site in plan.sites if counts[site] != sum(gate.call in calls for gate in site.gates)]
    if lost:
        methods = sorted({site.scope for site in lost if site.scope})
        reason = (
            f"torch.utils.checkpoint runs {', '.join(methods)} several times in one forward"
            if methods
            else "the network calls them in another way than by their name"
        )
        raise RotationError(
            f"the slopes of these activations would not be used in {'train' if training else 'eval'} mode, because "
            f"{reason}: {'; '.join(map(str, lost))}; leave them plain with exclude={[site.name for site in lost]!r}"
        )


@contextmanager
def seeded(call: Call) -> Iterator[None]:
    """Random numbers from a fixed state, which is put back."""
    numpy = sys.modules.get("numpy")
    states = random.getstate(), numpy.random.get_state() if numpy else None
    try:
        with random_kept(call.tensors):
            torch.manual_seed(0)
            random.seed(0)
            if numpy:
                numpy.random.seed(0)
            yield
    finally:
        random.setstate(states[0])
        if numpy:
            numpy.random.set_state(states[1])
