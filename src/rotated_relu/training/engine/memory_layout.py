"""Where channels-last memory is not safe.

On processors with AVX2 and no AVX-512, oneDNN (torch 2.14) writes past the end of its buffer when it computes the
weight gradient of a channels-last 1x1 convolution with a stride whose input channels are no multiple of 8: the process
dies some steps later, with "double free or corruption". Compaction makes such layers of the shortcuts of residual
networks. In the plain layout it computes the same, soundly.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from ..config import Config

BLOCK = 8  # channels that AVX2 kernels compute at once


def with_safe_layout(config: Config, net: nn.Module, device: torch.device) -> Config:
    """The same configuration, without channels-last memory where it would corrupt the process's own."""
    safe = device.type != "cpu" or torch.backends.cpu.get_cpu_capability() != "AVX2"
    if safe or not any(_is_corrupting(layer) for layer in net.modules()):
        return config
    return replace(config, channels_last=False)


def lay_out(net: nn.Module, channels_last: bool) -> None:
    """Bring the weights of convolutions into one layout, in place."""
    if channels_last:
        net.to(memory_format=torch.channels_last)
        return
    for parameter in net.parameters():
        # Not by ``to``: a weight of one input channel is in both layouts, and keeps the strides that convolutions read.
        parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)


def _is_corrupting(layer: nn.Module) -> bool:
    if not isinstance(layer, nn.Conv2d) or any(size != 1 for size in layer.kernel_size):
        return False
    return any(step > 1 for step in layer.stride) and layer.in_channels % BLOCK != 0
