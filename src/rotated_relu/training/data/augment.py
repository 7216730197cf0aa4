"""Training images varied at random: mirrored and shifted, a whole batch at a time."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_flips_and_crops(
    count: int, padding: int, flip: bool, generator: torch.Generator | None = None
) -> Tensor:
    """Draw what :func:`flip_and_crop` does to ``count`` images: int64 (3, count); down, right, mirrored or not."""
    shifts = torch.randint(0, 2 * padding + 1, (2, count), generator=generator)
    mirrored = torch.rand(count, generator=generator) < 0.5 if flip else torch.zeros(count, dtype=torch.bool)
    return torch.cat([shifts, mirrored.long().unsqueeze(0)])


def flip_and_crop(
    images: Tensor, padding: int, flip: bool, generator: torch.Generator | None = None
) -> Tensor:
    """Mirror each image with probability 1/2 and shift it by up to ``padding`` pixels, filling with black.

    One gather over the whole batch; the result is channels-last in memory.

    Args:
        images: Shape (N, C, H, W), any dtype.
        padding: Largest shift, as a random crop of the image padded by that much on every side.
        flip: Whether to mirror.
        generator: On the CPU; the draws are the same whatever the device of the images.
    """
    return apply_flips_and_crops(images, padding, draw_flips_and_crops(len(images), padding, flip, generator))


def apply_flips_and_crops(images: Tensor, padding: int, draws: Tensor) -> Tensor:
    """Do to ``images`` what :func:`draw_flips_and_crops` drew for each of them."""
    count, _, height, width = images.shape
    device = images.device
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    top, left, mirrored = draws.to(device).unsqueeze(2)
    rows = top + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(count, width)
    columns = torch.where(mirrored.bool(), width - 1 - columns, columns) + left
    which = torch.arange(count, device=device).view(-1, 1, 1)
    # Advanced indices on both sides of the channel slice: the result is (N, H, W, C).
    return padded[which, :, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2)
