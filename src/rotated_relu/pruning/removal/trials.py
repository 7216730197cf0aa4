"""Inputs for trying a network: those of the user, then others like them.

Each trial is a list of alternatives, of which the first counts that the network takes: a network with a logarithm
returns NaN for normal random numbers, and is tried on numbers from the range of the user's inputs instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...core.modules import Call

LARGE = 128  # pixels; from here on the other image size is a smaller one: float64 convolutions are slow

# Draws a tensor of a shape, like an example.
_Draw = Callable[[Tensor, Sequence[int], torch.Generator], Tensor]


def trials(call: Call) -> list[list[Call]]:
    """The user's inputs; random ones of the same shapes; then other batch and image sizes.

    Floating-point and complex tensors are random; the rows of all others (indices, masks) are repeated.
    """
    same = [[call], _drawn(call)]
    batch = {len(value) for value in call.tensors if value.dim()}
    if len(batch) != 1:
        return same
    if max((side for value in call.tensors for side in _image(value)), default=0) >= LARGE:
        return [*same, [*_drawn(call, 3, lambda side: max(32, round(side / 64) * 32)), *_drawn(call, 2)]]
    return [*same, _drawn(call, 3), _drawn(call, 2, lambda side: side + 32)]


def _drawn(call: Call, size: int | None = None, resize: Callable[[int], int] = int) -> list[Call]:
    """One call for each way to draw, with another batch size and images resized."""
    generator = torch.Generator().manual_seed(size or 0)

    def other(draw: _Draw) -> Call:
        return call.map(lambda value: _like(value, _resized(value, size, resize), draw, generator))

    return [other(_normal), other(_within)]


def _image(value: Tensor) -> Sequence[int]:
    """Height and width, if the value is a batch of images."""
    return value.shape[2:] if value.dim() == 4 else ()


def _resized(value: Tensor, batch: int | None, resize: Callable[[int], int]) -> Sequence[int]:
    if batch is None or not value.dim():
        return value.shape
    image = _image(value)
    return (batch, value.shape[1], *map(resize, image)) if image else (batch, *value.shape[1:])


def _like(value: Tensor, shape: Sequence[int], draw: _Draw, generator: torch.Generator) -> Tensor:
    if value.is_complex():
        parts = torch.view_as_real(value)
        return torch.view_as_complex(_like(parts, (*shape, 2), draw, generator).contiguous())
    if value.is_floating_point():
        return draw(value, shape, generator).to(value)
    for dim, size in enumerate(shape):  # indices, masks: the same entries, as often as needed
        if size != value.shape[dim] and value.shape[dim]:
            value = value.index_select(dim, torch.arange(size, device=value.device) % value.shape[dim])
    return value


def _normal(_value: Tensor, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.randn(tuple(shape), dtype=torch.float64, generator=generator)


def _within(value: Tensor, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Uniform between the smallest and largest finite entry."""
    finite = value[value.isfinite()].double()
    if not finite.numel():
        return _normal(value, shape, generator)
    low, high = float(finite.min()), float(finite.max())
    return torch.rand(tuple(shape), dtype=torch.float64, generator=generator) * (high - low) + low
