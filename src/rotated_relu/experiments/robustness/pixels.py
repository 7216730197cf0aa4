"""A network as attacks see it: a function of pixels in [0, 1], fixed but for its input."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ...core.modules import eval_mode


class OnPixels(nn.Module):
    """Normalisation, then the network; so that eps means the same whatever the images were divided by.

    Args:
        net: Takes ``(pixels - mean) / std``.
        mean: Per channel, of pixels scaled to [0, 1].
        std: Per channel.

    Shape:
        - Input: (N, C, H, W), float, in [0, 1].
        - Output: that of ``net``, (N, classes).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(list(mean)).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(list(std)).view(1, -1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels to class scores."""
        return self.net((pixels - self.mean) / self.std)  # type: ignore[no-any-return]


@contextlib.contextmanager
def fixed(net: nn.Module) -> Iterator[None]:
    """Within the ``with`` block ``net`` is in eval mode and only its input gets gradients; restored afterwards."""
    wanted = [(parameter, parameter.requires_grad) for parameter in net.parameters()]
    with eval_mode(net):
        for parameter, _ in wanted:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter, flag in wanted:
                parameter.requires_grad_(flag)


def ball(pixels: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of every pixel within ``eps`` of ``pixels`` and within [0, 1]."""
    return (pixels - eps).clamp(0, 1), (pixels + eps).clamp(0, 1)
