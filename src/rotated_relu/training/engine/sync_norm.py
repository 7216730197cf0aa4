"""Batch norm over all processes: with a batch divided among them, what one process with the whole batch computes.

PyTorch's ``SyncBatchNorm`` does not run on the CPU; there :class:`SyncedBatchNorm` does the same with differentiable
collectives.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class _Summed(torch.autograd.Function):
    """Sum over all processes; its gradient is the sum of theirs, since each one's result reaches all losses."""

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        total = value.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        torch.distributed.all_reduce(total)
        return total


def _summed(value: Tensor) -> Tensor:
    total: Tensor = _Summed.apply(value)
    return total


class SyncedBatchNorm(nn.BatchNorm2d):
    """Batch norm of (N, C, ...) whose statistics are taken over all processes; in eval mode as ever."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions from 2 on."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise, and update the running statistics."""
        if not self.training:
            return super().forward(input)
        wide = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        dims = [dim for dim in range(wide.dim()) if dim != 1]
        shape = [1, -1, *[1] * (wide.dim() - 2)]
        count = torch.distributed.get_world_size() * wide.numel() // wide.shape[1]
        mean = _summed(wide.sum(dims)) / count
        centred = wide - mean.view(shape)
        variance = _summed(centred.square().sum(dims)) / count
        self._note(mean.detach(), variance.detach() * count / max(count - 1, 1))
        scaled = centred * (variance + self.eps).rsqrt().view(shape)
        if self.weight is not None:
            scaled = scaled * self.weight.view(shape) + self.bias.view(shape)
        normalised: Tensor = scaled.to(input.dtype)
        return normalised

    @torch.no_grad()
    def _note(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


@contextlib.contextmanager
def synchronised(net: nn.Module, device: torch.device) -> Iterator[None]:
    """Within the ``with`` block the batch norms of ``net`` take their statistics over all processes.

    Only their classes are exchanged: parameters, buffers and names stay the same objects.
    """
    kind = SyncedBatchNorm if device.type == "cpu" else nn.SyncBatchNorm
    former = {module: type(module) for module in net.modules() if type(module) in PLAIN}
    for module in former:
        module.__class__ = kind
        if kind is nn.SyncBatchNorm:
            setattr(module, "process_group", None)  # noqa: B010 - all processes
    try:
        yield
    finally:
        for module, plain in former.items():
            module.__class__ = plain
