"""``slope * x`` per channel as one autograd function that keeps one tensor, and its gradients in one pass.

With g the gradient of y = a * x: grad x = a * g, and grad a = the sum of g * x over all but the channels. On the CPU
both come out of a single kernel, the backward of a batch norm in eval mode with mean 0 and variance 1:
its input gradient is ``g * weight`` and its weight gradient ``sum(g * x)``. Elsewhere they are plain operations, which
``torch.compile`` fuses.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..activation import spread


def scale_channels(x: Tensor, slope: Tensor, channel_dim: int) -> Tensor:
    """Return ``slope * x``, slopes along ``channel_dim``, in the dtype and memory format of ``x``.

    Args:
        x: Any shape; kept for the backward pass.
        slope: Shape ``(x.shape[channel_dim],)``; gradients flow to both, twice if asked for.
        channel_dim: Not negative.
    """
    y: Tensor = _Scale.apply(x, slope, channel_dim)
    return y


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, slope: Tensor, channel_dim: int) -> Tensor:
        return spread(slope, x, channel_dim) * x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, slope, ctx.channel_dim = inputs
        ctx.save_for_backward(x, slope)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, slope = ctx.saved_tensors
        needs_x, needs_slope, _ = ctx.needs_input_grad
        # With gradients enabled somebody differentiates twice: plain operations record themselves.
        if needs_slope and not torch.is_grad_enabled() and _has_kernel(x, grad, slope):
            return *_one_pass(grad, x, slope, ctx.channel_dim, needs_x), None
        grad_x = spread(slope, grad, ctx.channel_dim) * grad if needs_x else None
        grad_slope = _sum_to_channels(grad * x, slope, ctx.channel_dim) if needs_slope else None
        return grad_x, grad_slope, None


def _sum_to_channels(product: Tensor, slope: Tensor, channel_dim: int) -> Tensor:
    others = [dim for dim in range(product.dim()) if dim != channel_dim]
    return product.sum(others, dtype=slope.dtype) if others else product.to(slope.dtype)


def _has_kernel(x: Tensor, grad: Tensor, slope: Tensor) -> bool:
    """Whether the batch-norm kernel takes these dtypes: all equal, or float32 slopes beside half precision."""
    half = x.dtype in (torch.bfloat16, torch.float16) and slope.dtype is torch.float32
    return (
        x.device.type == "cpu"
        and x.dtype is grad.dtype
        and (half or x.dtype is slope.dtype)
        and x.numel() > 0
        and x.dim() > 1
    )


def _one_pass(
    grad: Tensor, x: Tensor, slope: Tensor, channel_dim: int, needs_x: bool
) -> tuple[Tensor | None, Tensor]:
    zeros, ones = torch.zeros_like(slope), torch.ones_like(slope)
    with_channels_at_1 = [_channels_at_1(tensor, channel_dim) for tensor in (grad, x)]
    grad_x, grad_slope, _ = torch.ops.aten.native_batch_norm_backward(
        *with_channels_at_1, slope, zeros, ones, None, None, False, 0.0, [needs_x, True, False]
    )
    if not needs_x:
        return None, grad_slope
    if channel_dim != 1:
        grad_x = grad_x.reshape(grad.movedim(channel_dim, -1).shape).movedim(-1, channel_dim)
    return grad_x, grad_slope


def _channels_at_1(tensor: Tensor, channel_dim: int) -> Tensor:
    if channel_dim == 1:
        return tensor
    last = tensor.movedim(channel_dim, -1)
    return last.reshape(-1, last.shape[-1])
