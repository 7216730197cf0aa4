"""The mean and standard deviation that a set's pixels are normalised by."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.errors import DataError
from .splits import Images
from .storage import StoredImages

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SAMPLE = 2000  # images on disk that mean and std are taken from


def channel_statistics(images: Images, kind: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, of pixels scaled to [0, 1].

    Args:
        images: uint8 (N, C, H, W).
        kind: ``dataset`` (of these images, or of ``SAMPLE`` of them where they are not held in memory), ``imagenet``,
            or ``none``: 0 and 1.

    Raises:
        DataError: If ImageNet's are asked for and there are not three channels.
    """
    channels = images.shape[1]
    if kind == "none":
        return (0.0,) * channels, (1.0,) * channels
    if kind == "imagenet":
        if channels != 3:
            raise DataError(
                f"ImageNet's mean and std need 3 channels, the images have {channels}; use 'dataset'"
            )
        return IMAGENET_MEAN, IMAGENET_STD
    if isinstance(images, StoredImages):
        images = images[torch.linspace(0, len(images) - 1, min(SAMPLE, len(images))).long()]
    return _measured(images)


def _measured(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    # From a histogram per channel: exact, and no float copy of the whole set.
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in range(images.shape[1]):
        weights = torch.bincount(images[:, channel].flatten(), minlength=256).double()
        weights /= weights.sum()
        mean = (weights * levels).sum()
        means.append(float(mean))
        stds.append(max(float((weights * (levels - mean) ** 2).sum().sqrt()), 1e-3))
    return tuple(means), tuple(stds)
