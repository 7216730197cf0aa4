"""Compare the compacted network with the rotated one whose small slopes are 0. No certificate, no result.

The user's own network is run, not a copy: a copy may have lost something (a function that is bound to the original).
It is put back afterwards, and while the compacted network runs the weights of the original are NaN, so that nothing
can still lead to them. Both run in float64, see :mod:`.precision`; a network that does not (a kernel of its own for
float32) runs in the precision that it has, with a larger tolerance, and the certificate says so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import CertificateError
from ...core.modules import Call, eval_mode, first_line
from ...core.nested import tensors_in
from ...core.state import Saved, unchanged
from .differences import constant_infinities, difference, mostly_finite
from .plan import Plan
from .precision import TOLERANCES, Lowest, in_float64, widened
from .trials import trials

# Yields the network of the user with its small slopes at 0, and puts it back.
Original = Callable[[], AbstractContextManager[nn.Module]]


@dataclass(frozen=True, repr=False)
class Certificate:
    """Outcome of the comparison.

    Attributes:
        max_relative_difference: Largest difference of an entry, relative to its size or, if that is larger, the common
            size of the output's entries; over all outputs and inputs.
        max_absolute_difference: Largest absolute difference.
        inputs: Shapes of the tensors of each call that was tried, that of the user first.
        dtype: Arithmetic of both networks.
        tolerance: Limit on the relative difference.
    """

    max_relative_difference: float
    max_absolute_difference: float
    inputs: list[list[list[int]]]
    dtype: str = "float64"
    tolerance: float = TOLERANCES[torch.float64]

    def __repr__(self) -> str:
        return (
            f"Certificate({self.max_relative_difference:.2g} apart in {self.dtype}, limit {self.tolerance:g}, "
            f"on {len(self.inputs)} inputs)"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Tried:
    """A call and what the original returns."""

    call: Call
    outputs: list[Tensor]


class _Untried(Exception):
    """The original gives nothing to compare in this arithmetic."""


def certify(original: Original, compacted: nn.Module, call: Call, plan: Plan) -> Certificate:
    """Compare two networks on the user's inputs and on others like them.

    Args:
        original: Yields the network that was compacted with its small slopes at 0; puts it back at the end.
        compacted: The result; unchanged.
        call: Example inputs.
        plan: For naming the layer where a difference begins.

    Raises:
        CertificateError: If the difference exceeds the tolerance, the compacted network fails to run, or the original
            gives no finite outputs to compare with.
    """
    wide, tried, dtype = _expected(original, call)
    relative, absolute, last = _largest(original, compacted, tried, wide, TOLERANCES[dtype])
    if not relative <= TOLERANCES[dtype]:
        raise _differs(original, compacted, last.call, wide, plan, relative, dtype)
    shapes = [_shapes(one.call) for one in tried]
    return Certificate(relative, absolute, shapes, _name(dtype), TOLERANCES[dtype])


def _largest(
    original: Original, compacted: nn.Module, tried: Sequence[_Tried], wide: bool, tolerance: float
) -> tuple[float, float, _Tried]:
    """Largest relative and absolute difference, up to the first inputs on which they differ."""
    relative = absolute = 0.0
    with original() as net, unchanged(compacted), _arithmetic(compacted, wide):
        _poison(net)
        start = Saved(compacted, weights=False)
        for number, one in enumerate(tried):
            if number != 1:  # the second call comes after the first: what one leaves for the next counts too
                start.put_back()
            for mine, theirs in zip(one.outputs, _run(compacted, one), strict=True):
                gap, share = difference(mine, theirs)
                absolute, relative = max(absolute, gap), max(relative, share)
            if not relative <= tolerance:
                break
    return relative, absolute, one


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _expected(original: Original, call: Call) -> tuple[bool, list[_Tried], torch.dtype]:
    """What the original returns: whether in float64, on which inputs, and the lowest precision inside."""
    causes: list[Exception] = []
    for wide in (True, False):
        try:
            with original() as net, _arithmetic(net, wide), Lowest() as lowest:
                return (
                    wide,
                    _tried(net, call.map(widened) if wide else call),
                    torch.float64 if wide else lowest.dtype,
                )
        except _Untried as error:
            causes.append(error)
    raise CertificateError(
        f"nothing to compare with: the original with its small slopes at 0 {causes[0]}; the model was left untouched"
    ) from (causes[0].__cause__ or causes[1].__cause__)


@contextlib.contextmanager
def _arithmetic(net: nn.Module, wide: bool) -> Iterator[None]:
    with eval_mode(net), torch.no_grad(), in_float64(net) if wide else contextlib.nullcontext():
        yield


def _tried(net: nn.Module, call: Call) -> list[_Tried]:
    """The inputs that the original takes, each with its outputs.

    Raises:
        _Untried: If it does not run on the user's, or an output is finite on none.
    """
    found: list[_Tried] = []
    start = Saved(net, weights=False)
    for number, alternatives in enumerate(trials(call)):
        if number != 1:
            start.put_back()
        accepted = _accepted(net, alternatives, found[0] if found else None)
        if accepted is not None:
            found.append(accepted)
    if not any(output.numel() for one in found for output in one.outputs):
        raise _Untried("returns no tensor with entries")
    masks = [constant_infinities(outputs) for outputs in zip(*(one.outputs for one in found), strict=True)]
    for place, output in enumerate(found[0].outputs):
        if output.numel() and not any(mostly_finite(one.outputs[place], masks[place]) for one in found):
            raise _Untried(f"returns NaN or infinity for most of output {place} on all inputs tried")
    return [one for one in found if any(map(mostly_finite, one.outputs, masks))]


def _accepted(net: nn.Module, alternatives: Sequence[Call], first: _Tried | None) -> _Tried | None:
    """The first inputs that the original takes as what they are meant to be, with its outputs."""
    best = None
    for call in alternatives:
        before = Saved(net, weights=False)
        try:
            tried = _Tried(call, _outputs(net, call))
        except Exception as error:
            before.put_back()
            if first is None:
                raise _Untried(f"does not run: {first_line(error)}") from error
            continue  # the original does not accept this shape
        if first is None or (len(tried.outputs) == len(first.outputs) and _rows(tried) == _rows(first)):
            best = best or tried
            if all(mostly_finite(output) for output in tried.outputs if output.numel()):
                return tried
        # else it takes a larger image for more images (``x.reshape(-1, 512)``): no longer this network
        before.put_back()
    return best


def _rows(tried: _Tried) -> list[float]:
    """Entries along the first dimension of each output, per example."""
    return [len(out) / max(tried.call.batch_size, 1) for out in tried.outputs if out.dim()]


def _outputs(net: nn.Module, call: Call) -> list[Tensor]:
    torch.manual_seed(0)
    return [output.detach().clone() for output in tensors_in(call.run(net))]


def _run(small: nn.Module, tried: _Tried) -> list[Tensor]:
    try:
        found = _outputs(small, tried.call)
    except Exception as error:
        module = _failing_module(small, error)
        place = f" (in {module})" if module else ""
        raise CertificateError(
            f"the compacted network does not run{place}: {first_line(error)}; the model was left untouched",
            module,
        ) from error
    if [o.shape for o in found] != [o.shape for o in tried.outputs]:
        raise CertificateError(
            "the compacted network's outputs have other shapes; the model was left untouched"
        )
    return found


def _poison(net: nn.Module) -> None:
    """Make all weights NaN, in other memory than their own."""
    for value in net.parameters():
        if value.is_floating_point() or value.is_complex():
            value.data = torch.full((), torch.nan, dtype=value.dtype, device=value.device).expand(value.shape)


def _shapes(call: Call) -> list[list[int]]:
    return [list(value.shape) for value in call.tensors]


def _failing_module(model: nn.Module, error: BaseException) -> str | None:
    """Innermost module whose code was running."""
    names = {id(module): name for name, module in model.named_modules()}
    place, trace = None, error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        place = names.get(id(owner), place)
        trace = trace.tb_next
    return place


# --- where a difference begins -------------------------------------------------------------------------------------


_LEADS_BACK = (
    "; its code still uses weights of the original: an attribute that is a lambda or inner function over the network "
    "stays bound to the original in every copy, make it a method"
)


def _differs(
    original: Original,
    small: nn.Module,
    call: Call,
    wide: bool,
    plan: Plan,
    relative: float,
    dtype: torch.dtype,
) -> CertificateError:
    """The error, with the first layer at which the two differ."""
    with original() as net, _arithmetic(net, wide):
        one = _record(net, call)
        expected = _outputs(net, call)
        unsteady = _is_random(net, call, expected)
    with unchanged(small), _arithmetic(small, wide):
        other = _record(small, call)
        # Alone, without NaN in the weights of the original.
        leads_back = relative == torch.inf and not _apart(expected, _outputs(small, call), TOLERANCES[dtype])
    module = None if leads_back else _first_difference(one, other, TOLERANCES[dtype])
    why = "; it draws random numbers in eval mode" if unsteady else ""
    why += _LEADS_BACK if leads_back else ""
    return CertificateError(
        f"the compacted network differs from the masked original by {relative:.3g} (relative, "
        f"{_name(dtype)}; limit {TOLERANCES[dtype]:g}) on inputs of shape "
        f"{', '.join(map(str, _shapes(call)))}{_seen_at(module, plan)}{why}; the model was left untouched",
        module,
    )


def _seen_at(module: str | None, plan: Plan) -> str:
    if module is None:
        return ""
    changed = "" if any(layer.name == module for layer in plan.layers) else " (itself unchanged)"
    return f", first seen at the output of {module}{changed}"


def _is_random(net: nn.Module, call: Call, expected: Sequence[Tensor]) -> bool:
    """Whether other random numbers give other outputs."""
    torch.manual_seed(1)
    return _apart(expected, tensors_in(call.run(net)), 0.0)


def _apart(expected: Sequence[Tensor], found: Sequence[Tensor], tolerance: float) -> bool:
    return any(difference(one, other)[1] > tolerance for one, other in zip(expected, found, strict=False))


def _first_difference(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float) -> str | None:
    """The first module of equal output width whose output differs."""
    for name, value in one.items():
        theirs = other.get(name)
        if (
            theirs is not None
            and theirs.shape == value.shape
            and not difference(value, theirs)[1] <= tolerance
        ):
            return name
    return None


def _record(net: nn.Module, call: Call) -> dict[str, Tensor]:
    """The first output of every module that returns a tensor, in order of execution."""
    seen: dict[str, Tensor] = {}
    handles = []
    for name, module in net.named_modules():

        def note(_module: nn.Module, _inputs: Any, output: Any, name: str = name) -> None:
            if name and isinstance(output, Tensor):
                seen.setdefault(name, output.detach().clone())

        handles.append(module.register_forward_hook(note))
    try:
        _outputs(net, call)
    finally:
        for handle in handles:
            handle.remove()
    return seen
