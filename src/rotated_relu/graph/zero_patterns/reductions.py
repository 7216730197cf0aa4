"""Handlers of reductions, pools, resampling and norms: one entry of the result depends on several of the argument."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .algebra import lift, per_channel, spread


def _dims(x: Tensor, dim: Any) -> tuple[int, ...]:
    if dim is None or dim == []:
        return tuple(range(x.dim()))
    return (dim,) if isinstance(dim, int) else tuple(dim)


def reduce(x: Tensor, dim: Any = None, *rest: Any, keepdim: bool = False, **_: Any) -> Tensor:
    """Maximum, minimum, standard deviation: 0 if all entries are."""
    # The flag comes by position or by name, depending on the overload; no other argument is a plain True.
    keep = keepdim or any(value is True for value in rest)
    return x.sum(_dims(x, dim), keepdim=keep)


def vector_norm(x: Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, **_: Any) -> Tensor:
    """0 if all entries are, for orders above 0."""
    # Order 0 counts entries, and negative orders divide: neither is 0 for zeros.
    total = x.sum(_dims(x, dim), keepdim=keepdim)
    return total if ord > 0 else lift(total)


def logsumexp(x: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    """log(n) if all n entries are 0."""
    return lift(x.sum(_dims(x, dim), keepdim=keepdim))


def softmax(x: Tensor, dim: int, *_: Any, **__: Any) -> Tensor:
    """Every entry along ``dim`` depends on all of them, and is never 0."""
    return lift(spread(x, (dim,)))


# --- pooling and resampling ----------------------------------------------------------------------------------------


def _whole_channel(x: Tensor, size: Sequence[int]) -> Tensor:
    """Every spatial entry of a channel reaches every spatial entry of the same channel."""
    dims = tuple(range(x.dim() - len(size), x.dim()))
    return x.sum(dims, keepdim=True).expand(*x.shape[: x.dim() - len(size)], *size)


def _max_pool(
    x: Tensor,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    *,
    pool: Any,
) -> Tensor:
    """Reads what an average over the same window reads; average pools know no dilation."""
    if any(step != 1 for step in ([dilation] if isinstance(dilation, int) else dilation)):
        raise NotImplementedError
    result: Tensor = pool(x, kernel, stride or None, padding, ceil_mode)
    return result


max_pool1d = partial(_max_pool, pool=F.avg_pool1d)
max_pool2d = partial(_max_pool, pool=F.avg_pool2d)
max_pool3d = partial(_max_pool, pool=F.avg_pool3d)


def max_pool2d_with_indices(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """Values, and their places."""
    pooled = max_pool2d(*args, **kwargs)
    return pooled, lift(pooled)


def adaptive_max_pool(x: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Values, and their places; the windows are not worked out."""
    pooled = _whole_channel(x, size)
    return pooled, lift(pooled)


def bicubic(x: Tensor, size: Any, align: bool, factors: Any = None, *_: Any) -> Tensor:
    """Its coefficients are partly negative, so it cannot run as itself."""
    if size is None:
        size = [math.floor(s * f) for s, f in zip(x.shape[-2:], factors, strict=True)]
    return _whole_channel(x, size)


def pad(x: Tensor, pad: Sequence[int], mode: Any = "constant", value: Any = None) -> Tensor:
    """``F.pad`` (with a mode) and ``constant_pad_nd`` (with a value in its place)."""
    if not isinstance(mode, str):
        mode, value = "constant", mode
    # A border of a number that is not 0 is non-zero everywhere.
    fill = float(bool(value)) if mode == "constant" else None
    return F.pad(x, list(pad), mode=mode, value=fill)


def reflection_pad(x: Tensor, pad: Sequence[int]) -> Tensor:
    """The border repeats entries of the same channel."""
    return F.pad(x, list(pad), mode="reflect")


def replication_pad(x: Tensor, pad: Sequence[int]) -> Tensor:
    """The border repeats entries of the same channel."""
    return F.pad(x, list(pad), mode="replicate")


# --- normalisation -------------------------------------------------------------------------------------------------


def batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, var: Tensor | None, *rest: Any
) -> Any:
    """``gamma (x - mean) / std + beta``; gamma matters through ``gamma * mean`` even where x is 0."""
    gamma, beta = per_channel(weight, x, 1.0), per_channel(bias, x, 0.0)
    if mean is None or var is None or (len(rest) == 4 and rest[0]):  # statistics of the batch itself
        batch = [0, *range(2, x.dim())]
        return gamma * spread(x, batch) + beta
    # The variance only scales, but eps keeps even 0 from making a zero.
    scale = gamma * lift(per_channel(var, x, 1.0))
    # Three terms, each with who can make it 0: the effective bias beta - gamma mean / std is alive without x.
    result = scale * x + scale * per_channel(mean, x, 0.0) + beta
    return (result, torch.zeros(0), torch.zeros(0)) if len(rest) == 2 else result


def layer_norm(x: Tensor, shape: Sequence[int], weight: Any = None, bias: Any = None, *rest: Any) -> Tensor:
    """The mean makes every entry depend on all, and non-zero if one is."""
    normalised = spread(x, range(-len(shape), 0))
    result = normalised if weight is None else normalised * weight
    return result if bias is None else result + bias


def group_norm(x: Tensor, groups: int, weight: Any = None, bias: Any = None, *_: Any) -> Tensor:
    """As layer norm, within each group of channels."""
    # All entries of a group, space included, are one set of statistics.
    grouped = x.reshape(x.shape[0], groups, -1)
    normalised = spread(grouped, (2,)).reshape(x.shape)
    return normalised * per_channel(weight, x, 1.0) + per_channel(bias, x, 0.0)


def instance_norm(
    x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, use_input_stats: bool, *rest: Any
) -> Tensor:
    """As layer norm, within each channel; or as batch norm where it keeps statistics."""
    if not use_input_stats:
        return batch_norm(x, weight, bias, mean, var, False, *rest[:3])  # type: ignore[no-any-return]
    return spread(x, range(2, x.dim())) * per_channel(weight, x, 1.0) + per_channel(bias, x, 0.0)


def rms_norm(x: Tensor, shape: Sequence[int], weight: Any = None, eps: Any = None) -> Tensor:
    """No mean is taken off: 0 stays 0, but its scale depends on all."""
    result = x * lift(spread(x, range(-len(shape), 0)))
    return result if weight is None else result * weight


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """``g v / |v|``: zero where v or g is, with a norm over all dimensions but ``dim``."""
    others = [other for other in range(v.dim()) if other != dim]  # all of them for -1
    return g * v * lift(spread(v, others))
