"""FGSM and PGD, through the package ``torchattack`` (extra ``attack``).

Both go up the cross-entropy ``L`` of the true label by the sign of its gradient with respect to the pixels ``x``:

- FGSM: ``x' = clip(x + eps * sign(dL/dx))``. Goodfellow et al., *Explaining and Harnessing Adversarial Examples*,
  2015.
- PGD: ``x' <- clip(x' + step * sign(dL/dx'))``, ``steps`` times, where clip also keeps ``x'`` within eps of ``x``.
  Madry et al., *Towards Deep Learning Models Resistant to Adversarial Attacks*, 2018.

Of the libraries that have both, torchattack is the maintained one that needs nothing but torch, torchvision and numpy.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...core.extras import needs
from .pixels import ball, fixed


def library() -> Any:
    """The ``torchattack`` package.

    Raises:
        MissingPackageError: If it is not installed; says how to install it.
    """
    needs("torchattack")
    import torchattack

    return torchattack


def fgsm(net: nn.Module, pixels: Tensor, labels: Tensor, eps: float) -> Tensor:
    """Adversarial pixels after one step of ``eps``.

    Args:
        net: On pixels, see :class:`OnPixels`; in whatever mode.
        pixels: Float (N, C, H, W) in [0, 1], on the network's device.
        labels: int64 (N,).
        eps: Largest change of a pixel.

    Raises:
        MissingPackageError: If torchattack is not installed.
    """
    return _attacked(library().FGSM(net, device=pixels.device, eps=eps), net, pixels, labels, eps)


def pgd(
    net: nn.Module,
    pixels: Tensor,
    labels: Tensor,
    eps: float,
    *,
    steps: int = 60,
    step: float | None = None,
    random_start: bool = False,
    seed: int = 0,
) -> Tensor:
    """Adversarial pixels after ``steps`` steps within ``eps`` of the image.

    Args:
        net: On pixels, see :class:`OnPixels`; in whatever mode.
        pixels: Float (N, C, H, W) in [0, 1], on the network's device.
        labels: int64 (N,).
        eps: Largest change of a pixel.
        steps: How many.
        step: Change of a pixel in each; ``eps / 5`` if None.
        random_start: Begin at a random place within eps instead of at the image.
        seed: Of that place; torch's own generators are left as they were.

    Raises:
        MissingPackageError: If torchattack is not installed.
    """
    attack = library().PGD(
        net,
        device=pixels.device,
        eps=eps,
        steps=steps,
        alpha=eps / 5 if step is None else step,
        random_start=random_start,
    )
    with torch.random.fork_rng(devices=[pixels.device] if pixels.device.type == "cuda" else []):
        torch.manual_seed(seed)
        return _attacked(attack, net, pixels, labels, eps)


def _attacked(attack: Any, net: nn.Module, pixels: Tensor, labels: Tensor, eps: float) -> Tensor:
    with fixed(net), torch.enable_grad():
        found = attack(pixels, labels).detach()
    # The library adds a difference to the image, which can round to just outside.
    return torch.clamp(found, *ball(pixels, eps))
