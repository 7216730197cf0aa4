"""The three splits of a set of images, and how one is taken out of another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ...core.errors import DataError
from .decoding import Scaling
from .format import ImageFormat, normalise
from .storage import StoredImages, StreamedSplit

Images = Tensor | StoredImages
LabeledImages = tuple[Images, Tensor]  # and their labels, int64 (N,)


@dataclass(frozen=True)
class Split:
    """Images of one split.

    Attributes:
        images: uint8, shape (N, C, H, W); decoded when indexed if the set does not fit into memory.
        labels: int64, shape (N,).
        mean: Per channel, of pixels scaled to [0, 1]; subtracted by :meth:`normalised`.
        std: Per channel; divided by.
    """

    images: Tensor | StoredImages
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int:
        return self.labels.shape[0]

    def subset(self, indices: Tensor) -> Split:
        """The images at ``indices``, in that order."""
        return Split(take(self.images, indices), self.labels[indices], self.mean, self.std)

    def normalised(self, indices: Tensor | slice = slice(None)) -> Tensor:
        """Float32 images at ``indices``, ready for the network: ``(pixel / 255 - mean) / std``."""
        return normalise(self.images[indices], self.mean, self.std)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (uint8 images, labels) in order, the last batch possibly smaller."""
        for start in range(0, len(self), batch_size):
            chosen = slice(start, start + batch_size)
            yield self.images[chosen], self.labels[chosen]


@dataclass(frozen=True)
class ImageData:
    """Three splits of one dataset.

    Attributes:
        train: Training images without the validation images; a stream can only be read in order.
        validation: Taken out of the training images; every choice is made on it.
        test: Read once, at the end.
        class_names: One per label.
        provenance: Plain data that says where the images came from and how they were split.
        scaling: How pictures got their size.
    """

    train: Split | StreamedSplit
    validation: Split
    test: Split | StreamedSplit
    class_names: tuple[str, ...]
    provenance: dict[str, Any] = field(default_factory=dict)
    scaling: Scaling = Scaling()  # noqa: RUF009 - frozen

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean that the splits normalise with."""
        return self.train.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation that the splits normalise with."""
        return self.train.std

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def format(self) -> ImageFormat:
        """What a network has to know of them."""
        size = (self.scaling.resize, self.scaling.interpolation)
        return ImageFormat(self.image_shape, self.class_names, self.mean, self.std, *size)

    def normalised_by(self, mean: Sequence[float], std: Sequence[float]) -> ImageData:
        """The same images, normalised with other numbers: those that a trained network was trained with.

        Args:
            mean: Per channel, of pixels in [0, 1].
            std: Likewise.

        Raises:
            DataError: If there are not as many as channels.
        """
        if not len(mean) == len(std) == self.image_shape[0]:
            raise DataError(
                f"the images have {self.image_shape[0]} channels, mean and std are of {len(mean)} and {len(std)}"
            )
        given = {"mean": tuple(mean), "std": tuple(std)}
        splits = {key: replace(getattr(self, key), **given) for key in ("train", "validation", "test")}
        record = {"kind": "given", "mean": list(mean), "std": list(std)}
        return replace(self, **splits, provenance={**self.provenance, "normalisation": record})

    def example_inputs(self, count: int = 1) -> Tensor:
        """The first ``count`` validation images, normalised."""
        return self.validation.normalised(slice(count))


def stratified_split(labels: Tensor, held_out: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of a random held-out part with the class shares of the whole, and of the rest; both ascending.

    Args:
        labels: int64, shape (N,).
        held_out: Below 1 a share, from 1 on a count.
        seed: Of the choice.

    Raises:
        DataError: If the part would be empty or would leave nothing.
    """
    total = labels.shape[0]
    count = int(held_out) if held_out >= 1 else round(held_out * total)
    if not 0 < count < total:
        raise DataError(
            f"cannot hold {held_out:g} images out of {total}: give a share between 0 and 1, or a count "
            f"below {total}"
        )
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(total, generator=generator)
    # Rank of each image within its class over the class's size: its quantile. The `count` smallest quantiles
    # are spread over the classes in proportion, and hit the count exactly.
    ranks = torch.empty(total, dtype=torch.float64)
    for label in labels.bincount().nonzero().flatten():
        members = shuffled[labels[shuffled] == label]
        ranks[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    order = shuffled[ranks[shuffled].argsort(stable=True)]
    return order[:count].sort().values, order[count:].sort().values


def take(images: Images, indices: Tensor) -> Images:
    """The images at ``indices``, without decoding any."""
    return images.select(indices) if isinstance(images, StoredImages) else images[indices]
