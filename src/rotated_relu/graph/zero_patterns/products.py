"""Handlers of attention, look-ups and recurrent layers; other products run as themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .algebra import lift, spread


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Any = None, *rest: Any, is_causal: bool = False, **kwargs: Any
) -> Tensor:
    """Weights that are never 0 and depend on all keys, times the values."""
    if kwargs.get("enable_gqa"):
        raise NotImplementedError
    scores = q @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores + mask
    return lift(spread(scores, (-1,))) @ v


def _named_by(index: Any) -> Any:
    """An index that is constant; one that varies has become a pattern, which names nothing."""
    if isinstance(index, Tensor) and index.is_floating_point():
        raise NotImplementedError
    return index


def embedding(weight: Tensor, index: Tensor, *_: Any, **__: Any) -> Tensor:
    """The rows that the index names."""
    return F.embedding(_named_by(index), weight)


def index(x: Tensor, indices: Sequence[Tensor | None]) -> Tensor:
    """The entries that indices name."""
    result: Tensor = torch.ops.aten.index.Tensor(x, [_named_by(one) for one in indices])
    return result


def gather(x: Tensor, dim: int, index: Tensor, **_: Any) -> Tensor:
    """The entries that the index names along one dimension."""
    return torch.gather(x, dim, _named_by(index))


def index_select(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """The positions that the index names along one dimension."""
    return torch.index_select(x, dim, _named_by(index))


def take_along_dim(x: Tensor, index: Tensor, dim: int | None = None) -> Tensor:
    """As gather, broadcast."""
    return torch.take_along_dim(x, _named_by(index), dim)


def view(x: Tensor, shape: Sequence[int]) -> Tensor:
    """A pattern's memory layout may differ from the tensor's, so that only a reshape is sure to work."""
    return x.reshape(shape)
