"""``torch.compile`` for training, which keeps fewer activations.

The compiler decides which tensors of the forward pass the backward pass gets to see and which it computes again. By
default it keeps what it needs, slopes and all: one tensor more per activation that is read by an addition. Told to stay
under a budget it computes cheap elementwise operations again, which costs nothing where memory is the bottleneck.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from ...core.arguments import checked

MEMORY_BUDGET = 0.8  # of what the compiler would keep; see benchmarks/training_speed.json


@checked()
def compile_training(net: nn.Module) -> nn.Module:
    """``torch.compile(net)`` with a budget on the activations that are kept for the backward pass.

    Works on any network, in its fast form or not, and computes the same. Less memory, and on the CPU less time.

    Args:
        net: The network to train.

    Example::

        >>> net = rr.compile_training(rr.fast_training(net, images[:2]))
    """
    return cast(nn.Module, torch.compile(net, backend=_inductor))


def _inductor(graph: Any, inputs: Any) -> Callable[..., Any]:
    from torch._functorch import config
    from torch._inductor.compile_fx import compile_fx

    with config.patch(activation_memory_budget=MEMORY_BUDGET):
        return cast(Callable[..., Any], compile_fx(graph, inputs))
