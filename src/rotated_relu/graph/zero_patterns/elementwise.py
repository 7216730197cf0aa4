"""Handlers of operations that treat every entry alike: what matters is f(0), and which operand can make it 0."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .algebra import lift, number


def zero_to_zero(x: Tensor, *_: Any, **__: Any) -> Tensor:
    """f(0) = 0. A copy: the caller must not find its argument changed."""
    return x.clone()


def zero_to_other(x: Tensor, *_: Any, **__: Any) -> Tensor:
    """f(0) != 0."""
    return lift(x)


def prelu(x: Tensor, weight: Tensor) -> Tensor:
    """A slope of 0 still passes what is positive, so the slopes matter but never make a zero."""
    view = [1, -1] + [1] * (x.dim() - 2) if x.dim() > 1 else [-1]
    # lift: a zero slope is no zero result, but the slopes are read wherever x may be non-zero.
    return x * lift(weight).view(view) if weight.numel() > 1 else x * lift(weight).reshape(())


def hardtanh(x: Tensor, low: float = -1.0, high: float = 1.0) -> Tensor:
    """0 stays 0 if it is between the bounds."""
    return x.clone() if low <= 0 <= high else lift(x)


def clamp(x: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """0 stays 0 if it is between the bounds; bounds that are tensors have no handler."""
    # Whether 0 is between them depends on their values, which patterns do not know.
    if isinstance(min, Tensor) or isinstance(max, Tensor):
        raise NotImplementedError
    return x.clone() if (min is None or min <= 0) and (max is None or max >= 0) else lift(x)


def clamp_min(x: Tensor, min: Any) -> Tensor:
    """:func:`clamp` from below."""
    return clamp(x, min=min)


def clamp_max(x: Tensor, max: Any) -> Tensor:
    """:func:`clamp` from above."""
    return clamp(x, max=max)


def threshold(x: Tensor, threshold: float, value: float) -> Tensor:
    """x above the threshold, else the value."""
    # 0 passes if it is above the threshold, else the value takes its place.
    return x.clone() if threshold < 0 or value == 0 else lift(x)


def power(x: Any, exponent: Any) -> Tensor:
    """0 to a positive power is 0; to others it is 1 or infinite."""
    # 2 ** x is never 0; an exponent that varies could be 0 anywhere.
    if isinstance(exponent, Tensor) or not isinstance(x, Tensor):
        raise NotImplementedError
    return x.clone() if exponent > 0 else lift(x)


def add(a: Any, b: Any = None, *, alpha: Any = 1) -> Tensor:
    """Zero where both are. Also for sub, maximum, minimum, hypot."""
    if b is None:
        raise NotImplementedError
    like = a if isinstance(a, Tensor) else b
    # a - a would be 0, but patterns do not know values: the sum of patterns says "may be non-zero".
    total: Tensor = number(a, like) + number(b, like)
    return total


def mul(a: Any, b: Any) -> Tensor:
    """Zero where one of them is; each is read where the other is not zero."""
    like = a if isinstance(a, Tensor) else b
    product: Tensor = number(a, like) * number(b, like)
    return product


def div(a: Any, b: Any, *, rounding_mode: Any = None) -> Tensor:
    """Zero where the numerator is; the denominator is read where it is not."""
    like = a if isinstance(a, Tensor) else b
    # lift: the denominator has no zeros of its own to pass on (x / 0 is infinite), but it is read.
    quotient: Tensor = number(a, like) * lift(number(b, like))
    return quotient


def compare(a: Tensor, b: Any) -> Tensor:
    """Comparisons, and others of which nothing is known but which entries they read."""
    return lift(a + number(b, a))


def where(condition: Tensor, a: Any, b: Any) -> Tensor:
    """Either of the two: zero where both are."""
    # The condition chooses, so it is read wherever one of the two may be non-zero, and never makes a zero.
    return (number(a, condition) + number(b, condition)) * lift(condition)


def masked_fill(x: Tensor, mask: Tensor, value: Any) -> Tensor:
    """x or the value, as the mask says."""
    return (x + number(value, x) * lift(mask)) * lift(mask)


def addcmul(x: Tensor, a: Tensor, b: Tensor, *, value: Any = 1) -> Tensor:
    """x + value a b."""
    return x + a * b
