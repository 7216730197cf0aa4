"""One visible table: operation -> how zero patterns pass through it.

A pattern has the shape of the tensor it stands for; an entry is 0 where the tensor is certainly zero and positive
where it may be non-zero. Patterns are non-negative, so sums never cancel and most linear operations run *as
themselves*. Each handler is written with differentiable torch code: the gradient of the result with respect to an
argument is zero exactly where the argument cannot influence the result, because a product ``a * b`` passes to ``a``
the pattern of ``b``.

Two rewritings make that hold for functions with f(0) != 0:

- ``lift(x) = x + (1 - x)`` with the second term constant: all ones forward, the identity backward;
- ``spread(x, dims)``: any entry along ``dims`` reaches every entry along ``dims``.

An operation that is not in :data:`HANDLERS`, or whose handler fails, gets :func:`everything`: sound, less sharp, and
reported by :func:`rotated_relu.graph.liveness.analyse`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Node

from .capture import op_name

Handler = Callable[..., Any]
AnyHandler = TypeVar("AnyHandler", bound=Handler)
HANDLERS: dict[str, Handler] = {}


def handles(*names: str) -> Callable[[AnyHandler], AnyHandler]:
    """Register one handler for several operations."""

    def register(handler: AnyHandler) -> AnyHandler:
        HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return register


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


def everything(node: Node, inputs: Sequence[Tensor]) -> Any:
    """The sound default: every entry of every result depends on every entry of every input."""
    value = node.meta["val"]
    if isinstance(value, Tensor):
        return _Everything.apply(value.shape, *inputs)
    return [everything_like(item, inputs) for item in value]


def everything_like(value: Any, inputs: Sequence[Tensor]) -> Any:
    """:func:`everything` for one of several results."""
    return _Everything.apply(value.shape, *inputs) if isinstance(value, Tensor) else value


def apply(node: Node, args: Any, kwargs: Any) -> Any:
    """Run the handler of a node on patterns.

    Raises:
        NotImplementedError: If the operation has no handler for these arguments.
    """
    handler = HANDLERS.get(op_name(node))
    if handler is None:
        raise NotImplementedError(op_name(node))
    if handler is _as_itself:
        target: Any = node.target
        return target(*args, **kwargs)
    return handler(*args, **kwargs)


def _is_zero(value: Any) -> bool:
    return not isinstance(value, Tensor) and value == 0


# --- operations that run as themselves -----------------------------------------------------------------------------

_AS_ITSELF = (
    # linear in each tensor argument, with non-negative coefficients
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution linear matmul bmm mm mv dot "
    "addmm baddbmm einsum avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
    "adaptive_avg_pool3d _adaptive_avg_pool2d mean sum cumsum upsample_nearest1d upsample_nearest2d "
    "upsample_nearest3d upsample_linear1d upsample_bilinear2d upsample_trilinear3d bilinear "
    # a rearrangement of entries
    "reshape permute transpose t flatten unflatten squeeze unsqueeze select slice narrow expand "
    "expand_as cat concat stack split chunk split_with_sizes tensor_split unbind roll flip repeat repeat_interleave "
    "tile pixel_shuffle pixel_unshuffle channel_shuffle tril triu unfold im2col col2im movedim swapaxes swapdims "
    "rot90 view_as reshape_as broadcast_to diagonal slice_scatter select_scatter ravel masked_select "
    "take_along_dim gather index_select"
).split()


def _as_itself(*args: Any, **kwargs: Any) -> Any:  # pragma: no cover - a marker, see apply()
    raise AssertionError("marker only")


handles(*_AS_ITSELF)(_as_itself)
handles("getitem")(operator.getitem)


@handles("view", "_unsafe_view")
def _view(x: Tensor, shape: Sequence[int]) -> Tensor:
    return x.reshape(shape)  # a pattern's memory layout may differ from the tensor's


# --- elementwise ---------------------------------------------------------------------------------------------------

_ZERO_TO_ZERO = (
    "relu relu6 gelu silu hardswish mish leaky_relu elu selu celu tanh tanhshrink softsign softshrink "
    "hardshrink sin tan asin atan sinh asinh atanh erf expm1 log1p sqrt square abs neg sign round "
    "floor ceil trunc frac positive dropout feature_dropout alpha_dropout clone contiguous alias detach "
    "lift_fresh lift_fresh_copy to _to_copy type_as nan_to_num float double half bfloat16 real"
).split()

_ZERO_TO_OTHER = (
    "sigmoid hardsigmoid exp exp2 cos cosh acos log log2 log10 log_sigmoid softplus rsqrt reciprocal erfc "
    "logical_not bitwise_not isnan isinf isfinite digamma lgamma logit bool int long"
).split()


@handles(*_ZERO_TO_ZERO)
def _zero_to_zero(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x.clone()


@handles("prelu")
def _prelu(x: Tensor, weight: Tensor) -> Tensor:
    view = [1, -1] + [1] * (x.dim() - 2) if x.dim() > 1 else [-1]
    return x * lift(weight).view(view) if weight.numel() > 1 else x * lift(weight).reshape(())


@handles(*_ZERO_TO_OTHER)
def _zero_to_other(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return lift(x)


@handles("hardtanh")
def _hardtanh(x: Tensor, low: float = -1.0, high: float = 1.0) -> Tensor:
    return x.clone() if low <= 0 <= high else lift(x)


@handles("clamp", "clip")
def _clamp(x: Tensor, min: Any = None, max: Any = None) -> Tensor:
    if isinstance(min, Tensor) or isinstance(max, Tensor):
        raise NotImplementedError
    return x.clone() if (min is None or min <= 0) and (max is None or max >= 0) else lift(x)


@handles("clamp_min")
def _clamp_min(x: Tensor, min: float) -> Tensor:
    return _clamp(x, min=min)


@handles("clamp_max")
def _clamp_max(x: Tensor, max: float) -> Tensor:
    return _clamp(x, max=max)


@handles("threshold")
def _threshold(x: Tensor, threshold: float, value: float) -> Tensor:
    return x.clone() if threshold < 0 or value == 0 else lift(x)


@handles("pow")
def _pow(x: Any, exponent: Any) -> Tensor:
    if isinstance(exponent, Tensor) or not isinstance(x, Tensor):
        raise NotImplementedError
    return x.clone() if exponent > 0 else lift(x)


def _number(value: Any, like: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value
    return torch.tensor(float(value != 0), dtype=like.dtype)


@handles("add", "sub", "rsub", "maximum", "minimum", "hypot")
def _add(a: Any, b: Any = None, *, alpha: Any = 1) -> Tensor:
    if b is None:
        raise NotImplementedError
    like = a if isinstance(a, Tensor) else b
    total: Tensor = _number(a, like) + _number(b, like)
    return total


@handles("mul")
def _mul(a: Any, b: Any) -> Tensor:
    like = a if isinstance(a, Tensor) else b
    product: Tensor = _number(a, like) * _number(b, like)
    return product


@handles("div", "true_divide")
def _div(a: Any, b: Any, *, rounding_mode: Any = None) -> Tensor:
    like = a if isinstance(a, Tensor) else b
    quotient: Tensor = _number(a, like) * lift(_number(b, like))
    return quotient


@handles(
    "eq",
    "ne",
    "gt",
    "lt",
    "ge",
    "le",
    "logical_and",
    "logical_or",
    "logical_xor",
    "atan2",
    "remainder",
    "fmod",
)
def _compare(a: Tensor, b: Any) -> Tensor:
    return lift(a + _number(b, a))


@handles("where")
def _where(condition: Tensor, a: Any, b: Any) -> Tensor:
    return (_number(a, condition) + _number(b, condition)) * lift(condition)


@handles("masked_fill")
def _masked_fill(x: Tensor, mask: Tensor, value: Any) -> Tensor:
    return (x + _number(value, x) * lift(mask)) * lift(mask)


@handles("addcmul")
def _addcmul(x: Tensor, a: Tensor, b: Tensor, *, value: Any = 1) -> Tensor:
    return x + a * b


# --- reductions ----------------------------------------------------------------------------------------------------


def _dims(x: Tensor, dim: Any) -> tuple[int, ...]:
    if dim is None or dim == []:
        return tuple(range(x.dim()))
    return (dim,) if isinstance(dim, int) else tuple(dim)


@handles("amax", "amin", "std", "var")
def _reduce(x: Tensor, dim: Any = None, *rest: Any, keepdim: bool = False, **_: Any) -> Tensor:
    keep = keepdim or any(value is True for value in rest)
    return x.sum(_dims(x, dim), keepdim=keep)


@handles("linalg_vector_norm")
def _vector_norm(x: Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, **_: Any) -> Tensor:
    return x.sum(_dims(x, dim), keepdim=keepdim) if ord > 0 else lift(x.sum(_dims(x, dim), keepdim=keepdim))


@handles("logsumexp")
def _logsumexp(x: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    return lift(x.sum(_dims(x, dim), keepdim=keepdim))


@handles("softmax", "_softmax", "log_softmax", "_log_softmax")
def _softmax(x: Tensor, dim: int, *_: Any, **__: Any) -> Tensor:
    return lift(spread(x, (dim,)))


# --- pooling and resampling ----------------------------------------------------------------------------------------


def _per_channel(x: Tensor, size: Sequence[int]) -> Tensor:
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
    nd: int,
) -> Tensor:
    if any(step != 1 for step in ([dilation] if isinstance(dilation, int) else dilation)):
        raise NotImplementedError
    pool: Any = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[nd]
    result: Tensor = pool(x, kernel, stride or None, padding, ceil_mode)
    return result


@handles("max_pool1d")
def _max_pool1d(*args: Any, **kwargs: Any) -> Tensor:
    return _max_pool(*args, **kwargs, nd=1)


@handles("max_pool2d")
def _max_pool2d(*args: Any, **kwargs: Any) -> Tensor:
    return _max_pool(*args, **kwargs, nd=2)


@handles("max_pool3d")
def _max_pool3d(*args: Any, **kwargs: Any) -> Tensor:
    return _max_pool(*args, **kwargs, nd=3)


@handles("max_pool2d_with_indices")
def _max_pool2d_with_indices(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    pooled = _max_pool(*args, **kwargs, nd=2)
    return pooled, lift(pooled)


@handles("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def _adaptive_max_pool(x: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    pooled = _per_channel(x, size)
    return pooled, lift(pooled)


@handles("upsample_bicubic2d")
def _bicubic(x: Tensor, size: Any, align: bool, factors: Any = None, *_: Any) -> Tensor:
    if size is None:
        size = [math.floor(s * f) for s, f in zip(x.shape[-2:], factors, strict=True)]
    return _per_channel(x, size)


@handles("pad", "constant_pad_nd")
def _pad(x: Tensor, pad: Sequence[int], mode: Any = "constant", value: Any = None) -> Tensor:
    if not isinstance(mode, str):
        mode, value = "constant", mode
    fill = float(bool(value)) if mode == "constant" else None
    return F.pad(x, list(pad), mode=mode, value=fill)


@handles("reflection_pad1d", "reflection_pad2d", "reflection_pad3d")
def _reflection_pad(x: Tensor, pad: Sequence[int]) -> Tensor:
    return F.pad(x, list(pad), mode="reflect")


@handles("replication_pad1d", "replication_pad2d", "replication_pad3d")
def _replication_pad(x: Tensor, pad: Sequence[int]) -> Tensor:
    return F.pad(x, list(pad), mode="replicate")


# --- normalisation -------------------------------------------------------------------------------------------------


def _channels(vector: Tensor | None, x: Tensor, default: float) -> Tensor:
    if vector is None:
        return torch.tensor(default)
    return vector.view([1, -1] + [1] * (x.dim() - 2))


@handles("batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit_no_training")
def _batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, var: Tensor | None, *rest: Any
) -> Any:
    """``gamma (x - mean) / std + beta``; gamma matters through ``gamma * mean`` even where x is 0."""
    gamma, beta = _channels(weight, x, 1.0), _channels(bias, x, 0.0)
    if mean is None or var is None or (len(rest) == 4 and rest[0]):
        batch = [0, *range(2, x.dim())]
        return gamma * spread(x, batch) + beta
    scale = gamma * lift(_channels(var, x, 1.0))
    result = scale * x + scale * _channels(mean, x, 0.0) + beta
    return (result, torch.zeros(0), torch.zeros(0)) if len(rest) == 2 else result


@handles("layer_norm", "native_layer_norm")
def _layer_norm(x: Tensor, shape: Sequence[int], weight: Any = None, bias: Any = None, *rest: Any) -> Tensor:
    normalised = spread(x, range(-len(shape), 0))
    result = normalised if weight is None else normalised * weight
    return result if bias is None else result + bias


@handles("group_norm")
def _group_norm(x: Tensor, groups: int, weight: Any = None, bias: Any = None, *_: Any) -> Tensor:
    grouped = x.reshape(x.shape[0], groups, -1)
    normalised = spread(grouped, (2,)).reshape(x.shape)
    return normalised * _channels(weight, x, 1.0) + _channels(bias, x, 0.0)


@handles("instance_norm")
def _instance_norm(
    x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, use_input_stats: bool, *rest: Any
) -> Tensor:
    if not use_input_stats:
        return _batch_norm(x, weight, bias, mean, var, False, *rest[:3])  # type: ignore[no-any-return]
    return spread(x, range(2, x.dim())) * _channels(weight, x, 1.0) + _channels(bias, x, 0.0)


@handles("rms_norm")
def _rms_norm(x: Tensor, shape: Sequence[int], weight: Any = None, eps: Any = None) -> Tensor:
    result = x * lift(spread(x, range(-len(shape), 0)))
    return result if weight is None else result * weight


# --- attention, look-ups -------------------------------------------------------------------------------------------


@handles("scaled_dot_product_attention")
def _attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Any = None, *rest: Any, is_causal: bool = False, **kwargs: Any
) -> Tensor:
    if kwargs.get("enable_gqa"):
        raise NotImplementedError
    scores = q @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores + mask
    return lift(spread(scores, (-1,))) @ v


@handles("embedding")
def _embedding(weight: Tensor, index: Tensor, *_: Any, **__: Any) -> Tensor:
    if index.is_floating_point():
        raise NotImplementedError
    return F.embedding(index, weight)


@handles("index")
def _index(x: Tensor, indices: Sequence[Tensor | None]) -> Tensor:
    if any(index is not None and index.is_floating_point() for index in indices):
        raise NotImplementedError
    return torch.ops.aten.index.Tensor(x, indices)  # type: ignore[no-any-return]
