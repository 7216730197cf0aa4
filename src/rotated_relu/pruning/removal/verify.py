"""Prove that the compacted network computes what the masked original computes.

Both networks run in float64 on random inputs of several batch and image sizes. No certificate, no result.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import CertificateError
from ...core.modules import eval_mode
from .plan import Plan

TOLERANCE = 1e-9


@dataclass(frozen=True)
class Certificate:
    """Outcome of the comparison.

    Attributes:
        max_relative_difference: Largest absolute difference over the largest absolute output, over all inputs.
        max_absolute_difference: Largest absolute difference.
        inputs: Shapes of the inputs that were tried.
        dtype: Arithmetic of both networks.
        tolerance: Limit on the relative difference.
    """

    max_relative_difference: float
    max_absolute_difference: float
    inputs: list[list[list[int]]]
    dtype: str = "float64"
    tolerance: float = TOLERANCE

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def certify(
    masked: Callable[[], nn.Module], compacted: nn.Module, inputs: tuple[Any, ...], plan: Plan
) -> Certificate:
    """Compare two networks in float64, one after the other: only one of them is in memory in float64 at a time.

    Args:
        masked: Makes the original with small slopes at 0; each call a new one, since it is converted in place.
        compacted: The result; a float64 copy of it is compared.
        inputs: Example inputs; their shapes are tried, and others that the original accepts.
        plan: For naming the layer where a difference begins.

    Raises:
        CertificateError: If the difference exceeds 1e-9 relative, or the compacted network fails to run.
    """
    accepted = _expected(masked().double(), inputs)
    if not accepted:
        raise CertificateError("the masked original did not run in float64 on the example inputs")
    small = copy.deepcopy(compacted).double()
    relative = absolute = 0.0
    for trial, expected in accepted:
        for one, other in zip(expected, _run(small, trial, expected), strict=True):
            difference, scale = _difference(one, other)
            absolute = max(absolute, difference)
            relative = max(relative, difference / scale if scale > 0 else difference)
        if not relative <= TOLERANCE:
            module = _first_difference(masked().double(), small, trial)
            raise CertificateError(
                f"the compacted network differs from the masked original by {relative:.3g} (relative, float64; "
                f"limit {TOLERANCE:g}) on inputs of shape {', '.join(map(str, _shapes(trial)))}"
                f"{_seen_at(module, plan)}; the model was left untouched",
                module,
            )
    shapes = [_shapes(trial) for trial, _ in accepted]
    return Certificate(relative, absolute, shapes)


def _shapes(trial: tuple[Any, ...]) -> list[list[int]]:
    return [list(value.shape) for value in _leaves(trial)]


def _expected(masked: nn.Module, inputs: tuple[Any, ...]) -> list[tuple[tuple[Any, ...], list[Tensor]]]:
    """The inputs that the original takes, each with its outputs."""
    found: list[tuple[tuple[Any, ...], list[Tensor]]] = []
    for alternatives in trials(inputs):
        rows = _rows(found[0][1], found[0][0]) if found else None
        accepted = _accepted(masked, alternatives, rows)
        if accepted is not None:
            found.append(accepted)
    return found


def _accepted(
    masked: nn.Module, alternatives: Sequence[tuple[Any, ...]], rows: list[float] | None
) -> tuple[tuple[Any, ...], list[Tensor]] | None:
    """The first inputs that the original takes as what they are meant to be, with its outputs."""
    for trial in alternatives:
        try:
            expected = _outputs(masked, trial)
        except Exception:  # the original itself does not accept this shape
            continue
        if rows is None or _rows(expected, trial) == rows:
            return trial, expected
        # else it takes a larger image for more images (``x.reshape(-1, 512)``): no longer this network
    return None


def _rows(outputs: Sequence[Tensor], inputs: tuple[Any, ...]) -> list[float]:
    """Entries along the first dimension of each output, per example."""
    batch = next((len(value) for value in _leaves(inputs) if value.dim()), 1)
    return [len(out) / max(batch, 1) for out in outputs if out.dim()]


def _difference(one: Tensor, other: Tensor) -> tuple[float, float]:
    """Largest absolute difference and largest finite value; NaN and infinity only equal themselves."""
    if not one.numel():
        return 0.0, 0.0
    one, other = (torch.view_as_real(v) if v.is_complex() else v.double() for v in (one, other))
    same = (one == other) | (one.isnan() & other.isnan())
    gap = (one - other).abs().masked_fill(same, 0.0).nan_to_num(torch.inf, torch.inf)
    return float(gap.max()), float(one.nan_to_num(0.0, 0.0, 0.0).abs().max())


LARGE = 128  # pixels; from here on the other image size is a smaller one: float64 convolutions are slow


def trials(inputs: tuple[Any, ...]) -> list[list[tuple[Any, ...]]]:
    """Random inputs: the given shapes, then other batch and image sizes.

    Each trial is a list; the first that the original accepts counts. Tensors may be inside of dicts, tuples or lists.
    """
    generator = torch.Generator().manual_seed(0)
    leaves = _leaves(inputs)
    batch = [v.shape[0] for v in leaves if v.dim() > 0]

    def drawn(size: int | None, resize: Callable[[int], int] = int) -> tuple[Any, ...]:
        def other(value: Any) -> Any:
            return _random(value, _resized(value, size, resize), generator)

        trial: tuple[Any, ...] = torch.utils._pytree.tree_map(other, inputs)
        return trial

    if not batch or len(set(batch)) > 1:
        return [[drawn(None)]]
    if max((side for v in leaves for side in _image(v)), default=0) >= LARGE:
        return [[drawn(None)], [drawn(3, lambda side: max(32, round(side / 64) * 32)), drawn(2)]]
    return [[drawn(None)], [drawn(3)], [drawn(2, lambda side: side + 32)]]


def _image(value: Any) -> Sequence[int]:
    """Height and width, if the value is a batch of images."""
    return value.shape[2:] if isinstance(value, Tensor) and value.dim() == 4 else ()


def _resized(value: Any, batch: int | None, resize: Callable[[int], int]) -> Sequence[int]:
    if not isinstance(value, Tensor) or batch is None:
        return getattr(value, "shape", ())
    image = _image(value)
    return (batch, value.shape[1], *map(resize, image)) if image else (batch, *value.shape[1:])


def _random(value: Any, shape: Sequence[int], generator: torch.Generator) -> Any:
    if not isinstance(value, Tensor):
        return value
    if not value.is_floating_point():  # indices, masks: the same rows, as often as needed
        return value[torch.arange(shape[0], device=value.device) % len(value)] if len(shape) else value
    return torch.randn(tuple(shape), dtype=torch.float64, generator=generator).to(value.device)


def _outputs(model: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor]:
    with torch.no_grad(), eval_mode(model):
        return [leaf.detach() for leaf in _leaves(model(*inputs))]


def _leaves(values: Any) -> list[Tensor]:
    """All tensors of nested inputs or outputs."""
    return [leaf for leaf in torch.utils._pytree.tree_leaves(values) if isinstance(leaf, Tensor)]


def _run(small: nn.Module, inputs: tuple[Any, ...], expected: Sequence[Tensor]) -> list[Tensor]:
    try:
        found = _outputs(small, inputs)
    except Exception as error:
        module = _failing_module(small, error)
        place = f" (in {module})" if module else ""
        raise CertificateError(
            f"the compacted network does not run{place}: {error}; the model was left untouched", module
        ) from error
    if [o.shape for o in found] != [o.shape for o in expected]:
        raise CertificateError(
            "the compacted network's outputs have other shapes; the model was left untouched"
        )
    return found


def _failing_module(model: nn.Module, error: BaseException) -> str | None:
    """Innermost module whose code was running."""
    names = {id(module): name for name, module in model.named_modules()}
    place, trace = None, error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        place = names.get(id(owner), place)
        trace = trace.tb_next
    return place


def _seen_at(module: str | None, plan: Plan) -> str:
    if module is None:
        return ""
    changed = "" if any(layer.name == module for layer in plan.layers) else " (itself unchanged)"
    return f", first seen at the output of {module}{changed}"


def _first_difference(masked: nn.Module, small: nn.Module, inputs: tuple[Any, ...]) -> str | None:
    """The first layer of equal output width whose output differs, by running both networks once more."""
    names = [name for name, _ in small.named_modules() if name]
    one, other = _record(masked, names, inputs), _record(small, names, inputs)
    for name, value in one.items():
        twin = other.get(name)
        if twin is not None and twin.shape == value.shape and value.numel():
            scale = max(float(value.abs().max()), 1e-300)
            if not float((value - twin).abs().max()) / scale <= TOLERANCE:
                return name
    return None


def _record(model: nn.Module, names: Sequence[str], inputs: tuple[Any, ...]) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}
    handles = []
    for name in names:
        try:
            module = model.get_submodule(name)
        except AttributeError:
            continue

        def note(_module: nn.Module, _inputs: Any, output: Any, name: str = name) -> None:
            if isinstance(output, Tensor):
                seen.setdefault(name, output)

        handles.append(module.register_forward_hook(note))
    try:
        _outputs(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return seen
