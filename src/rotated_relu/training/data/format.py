"""What a network has to know of its images to be built and fed: recorded in a run, so that using it needs no images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core.preprocessing import INTERPOLATIONS, Preprocessing

KINDS = {1: "grayscale", 3: "RGB"}


@dataclass(frozen=True)
class ImageFormat:
    """Shape, classes and normalisation of the images that a network was trained on.

    Attributes:
        image_shape: (C, H, W).
        class_names: One per label.
        mean: Per channel, of pixels scaled to [0, 1]; subtracted.
        std: Per channel; divided by.
        resize: Length that the shorter side got before the middle was cut out; None if whole pictures were squeezed.
        interpolation: Of that.
    """

    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None = None
    interpolation: str = "bilinear"

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def kind(self) -> str:
        """``grayscale``, ``RGB``, or the number of channels."""
        channels = self.image_shape[0]
        return KINDS.get(channels, f"{channels} channels")

    @property
    def preprocessing(self) -> Preprocessing:
        """How pictures become the network's input."""
        _, height, width = self.image_shape
        return Preprocessing(self.mean, self.std, (height, width), self.resize, self.interpolation)

    def noise(self, count: int = 1) -> Tensor:
        """Images of random pixels, always the same, normalised: float32 (count, C, H, W)."""
        generator = torch.Generator().manual_seed(0)
        shape = (count, *self.image_shape)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        return normalise(pixels, self.mean, self.std)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "image_shape": list(self.image_shape),
            "image_kind": self.kind,
            "class_names": list(self.class_names),
            "mean": list(self.mean),
            "std": list(self.std),
            "resize": self.resize,
            "interpolation": self.interpolation,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ImageFormat:
        """The reverse of :meth:`to_dict`.

        Raises:
            ValueError: If a part is missing or no such data.
        """
        try:
            channels, height, width = map(int, data["image_shape"])
            mean, std = (tuple(map(float, data[name])) for name in ("mean", "std"))
            names = tuple(map(str, data["class_names"]))
            resize, interpolation = data.get("resize"), str(data.get("interpolation", "bilinear"))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not the format of images: {error}") from error
        if min(channels, height, width) < 1 or not names or not len(mean) == len(std) == channels:
            raise ValueError("not the format of images: sizes that do not fit each other")
        if interpolation not in INTERPOLATIONS or not (resize is None or isinstance(resize, int)):
            raise ValueError("not the format of images: no known way to resize them")
        return cls((channels, height, width), names, mean, std, resize, interpolation)


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Scale uint8 images (N, C, H, W) to [0, 1], subtract ``mean``, divide by ``std``; float32."""
    shape = (1, -1, 1, 1)
    scale = torch.tensor([1 / (255 * s) for s in std], device=images.device).view(shape)
    shift = torch.tensor([m / s for m, s in zip(mean, std, strict=True)], device=images.device).view(shape)
    return images.float().mul_(scale).sub_(shift)
