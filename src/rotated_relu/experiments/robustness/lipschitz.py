"""The empirical local Lipschitz constant: how fast the network's answer changes around an image.

For an image x, with p = softmax of the class scores::

    L(x) = max over |x' - x|_inf <= eps, x' in [0, 1] of  KL(p(x) || p(x')) / |x - x'|_inf

in nats per unit of [0, 1] pixels, and the constant of a network is the mean of L over images. Yang et al., *A Closer
Look at Accuracy vs. Robustness*, NeurIPS 2020, take this mean with ``|f(x) - f(x')|_1`` above the line; the authors of
the rotated ReLU report it with the Kullback-Leibler divergence there (60 steps, "KL over L-inf"), and so do we.

The maximum is searched by projected gradient ascent on the ratio itself, by the sign of its gradient. The search starts
at a random place, since at x the divergence and its gradient are zero. The largest ratio met on the way counts, so what
is returned is a lower bound of the maximum that no further step can lower.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .pixels import ball, fixed

# Below this distance (1e-7 of a grey level) the ratio is rounding; its square is still a float32.
SMALLEST = 1e-12


def local_lipschitz(
    net: nn.Module,
    pixels: Tensor,
    eps: float,
    *,
    steps: int = 60,
    step: float | None = None,
    seed: int = 0,
) -> Tensor:
    """Local Lipschitz constant at every image, see the module's docstring.

    Args:
        net: On pixels, see :class:`OnPixels`; in whatever mode.
        pixels: Float (N, C, H, W) in [0, 1], on the network's device.
        eps: Largest change of a pixel.
        steps: How many.
        step: Change of a pixel in each; ``eps / 5`` if None.
        seed: Of the random start, drawn on the CPU.

    Returns:
        Shape (N,), not negative.
    """
    low, high = ball(pixels, eps)
    move = eps / 5 if step is None else step
    drawn = torch.rand(pixels.shape, generator=torch.Generator().manual_seed(seed))
    near = low + (high - low) * drawn.to(pixels)
    best = pixels.new_zeros(len(pixels))
    with fixed(net), torch.enable_grad():
        here = F.log_softmax(net(pixels), 1).detach()
        for left in range(steps, -1, -1):
            near.requires_grad_()
            ratio = _ratio(here, F.log_softmax(net(near), 1), near - pixels)
            best = torch.maximum(best, ratio.detach())
            if left:
                (uphill,) = torch.autograd.grad(ratio.sum(), near)
                near = torch.clamp(near.detach() + move * uphill.sign(), low, high)
    return best


def _ratio(here: Tensor, there: Tensor, difference: Tensor) -> Tensor:
    """KL(here || there), both logarithms of probabilities (N, classes), over the largest difference of a pixel."""
    divergence = F.kl_div(there, here, reduction="none", log_target=True).sum(1)
    return divergence / difference.abs().flatten(1).amax(1).clamp_min(SMALLEST)
