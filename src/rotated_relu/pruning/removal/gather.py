"""Gather channels of a tensor, also where a network trains on.

Along the channels of a channels-last tensor, PyTorch's ``index_select`` returns the other memory order on the CPU, in
which the next layers are slower, and its gradient is added up entry by entry. A 1x1 convolution with zeros and ones
does neither, and computes the same: each output is one input times one.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Zero = Literal["none", "first", "last"]
WIDEST = 256  # channels: beyond, the products of the convolution cost more than what they save
ROUNDED = ("bf16", "tf32")  # precisions in which oneDNN may compute float32


def gather_channels(x: Tensor, index: Tensor, dim: int, zero: Zero = "none") -> Tensor:
    """The entries of ``x`` along one dimension at the given positions.

    Args:
        x: Any tensor.
        index: Positions, shape (channels of the result,).
        dim: Dimension of the channels.
        zero: Where a channel of zeros is taken to lie, that the positions count: before the channels, behind them, or
            nowhere.
    """
    if _as_convolution(x, dim):
        return _convolved(x, index, zero)
    if zero != "none":
        behind = zero == "last"
        x = F.pad(x, [0, 0] * (0 if dim == -1 else x.dim() - 1 - dim) + [1 - behind, int(behind)])
    return x.index_select(dim, index)


def _as_convolution(x: Tensor, dim: int) -> bool:
    """In training on the CPU, channels-last, where that is exact and pays; what is captured stays a selection."""
    return (
        torch.is_grad_enabled()
        and not torch.compiler.is_compiling()  # also true in an export
        and x.device.type == "cpu"
        and (x.dim(), dim) == (4, 1)
        and x.shape[1] <= WIDEST
        and (x.dtype == torch.bfloat16 or (x.dtype == torch.float32 and _float32_is_exact()))
        and x.is_contiguous(memory_format=torch.channels_last)
        and not x.is_contiguous()  # one pixel, or one channel: both orders are the same
    )


def _float32_is_exact() -> bool:
    return torch.backends.mkldnn.conv.fp32_precision not in ROUNDED  # type: ignore[attr-defined]


def _convolved(x: Tensor, index: Tensor, zero: Zero) -> Tensor:
    width = x.shape[1]
    # One row for each channel of the result; the column of the zeros is cut off.
    rows = x.new_zeros(len(index), width + (zero != "none")).scatter_(1, index[:, None], 1.0)
    rows = rows[:, 1:] if zero == "first" else rows[:, :width]
    kernel = rows.contiguous()[:, :, None, None]
    # Autocast would round float32; and whoever counts the network's products must not count these.
    with torch.autocast("cpu", enabled=False), torch._C.DisableTorchFunction():
        return F.conv2d(x, kernel)
