"""What handlers are made of: patterns, and the two rewritings for functions with f(0) != 0.

- ``lift(x) = x + (1 - x)`` with the second term constant: all ones forward, the identity backward. For f(x) with
  f(0) != 0: the result may be non-zero wherever x is, and depends on x entry by entry.
- ``spread(x, dims)``: any entry along ``dims`` reaches every entry along ``dims``. For what is summed, averaged or
  normalised and then used everywhere.

:func:`everything` is the sound default: all of the result may be non-zero and depends on all of the arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Pattern = Callable[..., Any]


def lift(x: Tensor) -> Tensor:
    """All ones forward; the gradient passes unchanged."""
    return x + (1 - x).detach()


def spread(x: Tensor, dims: Sequence[int]) -> Tensor:
    """Let any entry along ``dims`` reach all entries along ``dims``; shape unchanged."""
    return x.sum(tuple(dims), keepdim=True).expand_as(x)


def pattern_of(value: Any) -> Any:
    """The pattern of a concrete tensor or number; other values pass through."""
    if isinstance(value, Tensor):
        return (value.detach() != 0).to("cpu", torch.float32)
    return value


def number(value: Any, like: Tensor) -> Tensor:
    """The pattern of an operand that may be a plain number."""
    if isinstance(value, Tensor):
        return value
    return torch.tensor(float(value != 0), dtype=like.dtype)


def per_channel(vector: Tensor | None, x: Tensor, default: float) -> Tensor:
    """A vector with one entry for each channel, broadcast along dimension 1 of ``x``."""
    if vector is None:
        return torch.tensor(default)
    return vector.view([1, -1] + [1] * (x.dim() - 2))


class _Everything(torch.autograd.Function):
    """All ones forward; backward, every entry of every input if any entry of the output is read."""

    @staticmethod
    def forward(ctx: Any, shape: torch.Size, *inputs: Tensor) -> Tensor:
        ctx.shapes = [x.shape for x in inputs]
        return torch.ones(shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        read = float(bool((grads[0] > 0).any()))
        return (None, *(torch.full(shape, read) for shape in ctx.shapes))


def everything(like: Any, inputs: Sequence[Tensor]) -> Any:
    """Every entry of every result depends on every entry of every input.

    Args:
        like: A tensor of the result's shape, or a (nested) list of them; other values pass through.
        inputs: Patterns of all that the result depends on.
    """
    if isinstance(like, Tensor):
        return _Everything.apply(like.shape, *inputs)
    return [everything(item, inputs) for item in like] if isinstance(like, (list, tuple)) else like
