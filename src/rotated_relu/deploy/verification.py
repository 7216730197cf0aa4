"""Compare an engine with torch, on inputs that the exporter has not seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor, nn

from ..core.arguments import need_number
from ..core.errors import ExportError
from ..core.modules import Call
from ..core.nested import tensors_in
from ..core.state import trial
from ..pruning.removal.differences import difference
from .conversion import reason

NOISE = -20  # power of 2, about 1e-6: what lies so far under other entries is rounding noise of float32

TOLERANCE = 1e-4  # relative; engines compute in float32
BATCH_SIZES = (1, 3)  # beside that of the examples: one, and one that is no power of 2

Run = Callable[[Call], list[Tensor]]


class CheckOptions(TypedDict, total=False):
    """The fields of :class:`Checks`, as keyword arguments."""

    tolerance: float
    batch_sizes: Sequence[int]
    dynamic_size: bool


@dataclass(frozen=True)
class Checks:
    """Where an engine is compared with torch, and how close it must be.

    Attributes:
        tolerance: Largest relative difference of an output entry.
        batch_sizes: Batch sizes, beside that of the examples.
        dynamic_size: Whether height and width of images are free: compares at larger images too.
    """

    tolerance: float = TOLERANCE
    batch_sizes: Sequence[int] = BATCH_SIZES
    dynamic_size: bool = False

    def check(self, inputs: Call) -> None:
        """Raise before any work is done if they make no sense.

        Raises:
            ArgumentError: If the tolerance is no number.
            ExportError: If it is no finite number >= 0, a batch size is no integer >= 1, or the size of
                images is to be free and there are none.
        """
        need_number(self.tolerance, "tolerance")
        if not (self.tolerance >= 0 and math.isfinite(self.tolerance)):
            raise ExportError(f"the tolerance must be a finite number of at least 0, got {self.tolerance}")
        wrong = [size for size in self.batch_sizes if not isinstance(size, int) or size < 1]
        if wrong:
            raise ExportError(f"batch sizes must be integers of at least 1, got {wrong[0]!r}")
        if self.dynamic_size and not any(value.dim() == 4 for value in inputs.tensors):
            raise ExportError(
                f"dynamic_size frees height and width of images, but no input has rank 4: {inputs.described()}"
            )


class Verified(NamedTuple):
    """Where an engine was compared with torch, and the largest differences found."""

    relative: float
    absolute: float
    batch_sizes: tuple[int, ...]
    image_sizes: tuple[tuple[int, ...], ...]


def verify(net: nn.Module, inputs: Call, run: Run, engine: str, checks: Checks) -> Verified:
    """Compare an engine with torch at several batch sizes, and at larger images if their size is free.

    Args:
        net: The network, in any mode.
        inputs: The example inputs.
        run: Runs the exported model.
        engine: Its name, for messages.
        checks: Where to compare.

    Raises:
        ExportError: If one of the two does not run, or they differ by more than the tolerance.
    """
    sizes = tuple(dict.fromkeys([*checks.batch_sizes, inputs.batch_size]))
    images: tuple[tuple[int, ...], ...] = ()
    trials = [(f"batch size {size}", _noisy(inputs, size)) for size in sizes]
    if checks.dynamic_size:
        larger = inputs.map(_larger_image)
        images = tuple(_image_size(call) for call in (inputs, larger))
        trials.append((f"image size {images[1]}", larger))
    with trial(net):
        gaps = list(_differences(net, run, engine, trials, checks.tolerance))
    relative, absolute = (max(values) for values in zip(*gaps, strict=True))
    return Verified(relative, absolute, sizes, images)


def _differences(
    net: nn.Module, run: Run, engine: str, trials: Sequence[tuple[str, Call]], tolerance: float
) -> Iterator[tuple[float, float]]:
    """Relative and absolute difference per trial; stops at the first that is too large."""
    for where, call in trials:
        expected, found = _outputs(net, run, engine, where, call)
        relative, absolute = _largest(expected, found)
        if not relative <= tolerance:
            raise ExportError(
                f"{engine} and torch differ by {relative:.3g} relative ({absolute:.3g} absolute) at "
                f"{where}, more than the tolerance of {tolerance:g}; nothing was written"
            )
        yield relative, absolute


def _outputs(
    net: nn.Module, run: Run, engine: str, where: str, call: Call
) -> tuple[list[Tensor], list[Tensor]]:
    """What torch and the engine return, in the same shapes."""
    try:
        expected = tensors_in(call.run(net))
    except Exception as error:
        raise ExportError(
            f"the network itself does not run at {where}: {reason(error)}; pass what it accepts"
        ) from error
    try:
        found = run(call)
    except Exception as error:
        raise ExportError(
            f"{engine} cannot run the exported model at {where}: {reason(error)}; "
            "the network may have its batch size written into a reshape"
        ) from error
    shapes = [[tuple(value.shape) for value in values] for values in (expected, found)]
    if shapes[0] != shapes[1]:
        raise ExportError(f"at {where} torch returns shapes {shapes[0]}, {engine} {shapes[1]}")
    return expected, found


def _largest(expected: Sequence[Tensor], found: Sequence[Tensor]) -> tuple[float, float]:
    """Relative and absolute difference of all outputs."""
    gaps = [
        difference(one.detach().cpu(), other, noise=NOISE) for one, other in zip(expected, found, strict=True)
    ]
    return max((gap[1] for gap in gaps), default=0.0), max((gap[0] for gap in gaps), default=0.0)


def _noisy(inputs: Call, size: int) -> Call:
    """Repeat the examples to another batch size; floating-point rows get noise so that they differ."""
    generator = torch.Generator().manual_seed(size)

    def other(value: Tensor) -> Tensor:
        if not inputs.has_batch(value):
            return value
        value = inputs.repeated(value, size)
        if not value.is_floating_point():
            return value
        return value + torch.randn(value.shape, generator=generator).to(value)

    return inputs.map(other)


def _larger_image(value: Tensor) -> Tensor:
    """An image of half as much again in height and twice in width, by repeating pixels."""
    if value.dim() != 4:
        return value
    old = value.shape[2:]
    rows, columns = (
        torch.arange(new, device=value.device) * size // new
        for size, new in zip(old, (old[0] * 3 // 2, old[1] * 2), strict=True)
    )
    return value[:, :, rows][:, :, :, columns]


def _image_size(call: Call) -> tuple[int, ...]:
    return next(tuple(value.shape[2:]) for value in call.tensors if value.dim() == 4)
