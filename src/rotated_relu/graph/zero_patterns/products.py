"""Handlers of attention, look-ups and recurrent layers; other products run as themselves."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .algebra import everything, lift, spread


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Any = None, *rest: Any, is_causal: bool = False, **kwargs: Any
) -> Tensor:
    """Weights that are never 0 and depend on all keys, times the values."""
    if kwargs.get("enable_gqa"):
        raise NotImplementedError
    # A mask may be -inf where a token is padding; here it is only one more thing that the weights depend on.
    scores = q @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores + mask
    return lift(spread(scores, (-1,))) @ v


def _recurrent(x: Tensor, states: Any, weights: Any, *rest: Any, target: Any) -> Any:
    """Every output depends on everything, but on an input feature only through its column of the input weights.

    ``rest`` is: biases, layers, dropout, training, both directions, batch first.
    """
    if not isinstance(weights, (list, tuple)):
        raise NotImplementedError  # packed sequences
    # Weights come layer by layer and direction by direction: the first of each direction of layer 0 reads x.
    both, per_direction = bool(rest[4]), len(weights) // (rest[1] * (2 if rest[4] else 1))
    reading = [0, per_direction] if both else [0]
    # Run once for the shapes of its results only: their values mean nothing.
    with torch.no_grad():
        like = target(x, states, weights, *rest)
    others = [weight for position, weight in enumerate(weights) if position not in reading]
    start = states if isinstance(states, (list, tuple)) else [states]
    return everything(like, [*(F.linear(x, weights[p]) for p in reading), *start, *others])


lstm = partial(_recurrent, target=torch.ops.aten.lstm.input)
gru = partial(_recurrent, target=torch.ops.aten.gru.input)
rnn_tanh = partial(_recurrent, target=torch.ops.aten.rnn_tanh.input)
rnn_relu = partial(_recurrent, target=torch.ops.aten.rnn_relu.input)


def _named_by(index: Any) -> Any:
    """An index that is constant; one that varies has become a pattern, which names nothing."""
    if isinstance(index, Tensor) and index.is_floating_point():
        raise NotImplementedError
    return index


def embedding(weight: Tensor, index: Tensor, *_: Any, **__: Any) -> Tensor:
    """The rows that the index names; any row of the table where the index is an input."""
    # Patterns are float: this index is no constant.
    if index.is_floating_point():
        return weight.sum(0) * lift(index).unsqueeze(-1)
    return F.embedding(index, weight)


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
