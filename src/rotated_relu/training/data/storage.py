"""Image sets that do not fit into memory: decoded from disk when needed, or streamed.

Both stand where a tensor of all images stands for small sets. :class:`StoredImages` is indexed like one;
:class:`StreamedSplit` can only be read in order. Neither holds more than what it is asked for at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.errors import DataError
from .decoding import Pixels, Scaling, Section, pixels, place

THREADS = 4  # the image decoders run outside the interpreter lock


@dataclass(frozen=True)
class Picture:
    """How the images of a set are decoded.

    Attributes:
        shape: (C, H, W) of each.
        scaling: To which size, and how; images that are not scaled all have one size.
        name: Of the set, for errors.
    """

    shape: tuple[int, int, int]
    scaling: Scaling
    name: str

    def decoded(self, row: Any, index: int, section: Section | None = None) -> Tensor:
        """One image, uint8 (C, H, W); of a section of it, if there is one.

        Raises:
            DataError: If it cannot be decoded, or has another size than the first.
        """
        mode = "L" if self.shape[0] == 1 else "RGB"
        found = pixels(row, mode, self.scaling, self.name, index, section)
        check_size(found, self.shape[1:], place(row, self.name, index))
        return torch.from_numpy(np.array(found)).view(*self.shape[1:], -1).permute(2, 0, 1)


def check_size(found: Pixels, size: Sequence[int], where: str) -> None:
    """Refuse an image of another size than the first.

    Raises:
        DataError: Then.
    """
    if found.shape[:2] != tuple(size):
        raise DataError(
            f"{where} is {found.shape[0]} x {found.shape[1]} pixels, the first one "
            f"{size[0]} x {size[1]}; choose one size for all with image_size (--image-size)"
        )


@dataclass(frozen=True)
class StoredImages:
    """Images on disk; indexing with a slice or a tensor decodes just those, as uint8 (N, C, H, W).

    Attributes:
        table: A ``datasets`` table, memory-mapped, whose image column is not decoded.
        column: The image column.
        rows: int64, which rows of the table these images are.
        picture: How they are decoded.
    """

    table: Any
    column: str
    rows: Tensor
    picture: Picture

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, C, H, W)."""
        return (len(self), *self.picture.shape)

    @property
    def ndim(self) -> int:
        """4."""
        return len(self.shape)

    def select(self, indices: Tensor) -> StoredImages:
        """The images at ``indices``, still not decoded."""
        return replace(self, rows=self.rows[indices])

    def __getitem__(self, where: Tensor | slice) -> Tensor:
        with ThreadPoolExecutor(THREADS) as pool:
            return torch.stack(list(pool.map(self._decoded, self.rows[where].tolist())))

    def sections(self, where: Tensor, sections: Iterable[Section | None]) -> Tensor:
        """The images at ``where``, of each the section given for it; decoded in this thread."""
        chosen = zip(self.rows[where].tolist(), sections, strict=True)
        return torch.stack([self._decoded(row, section) for row, section in chosen])

    def _decoded(self, row: int, section: Section | None = None) -> Tensor:
        return self.picture.decoded(self.table[row][self.column], row, section)


@dataclass(frozen=True)
class StreamedImages:
    """The shape of streamed images; they cannot be indexed.

    Attributes:
        shape: (N, C, H, W).
    """

    shape: tuple[int, int, int, int]


@dataclass(frozen=True)
class StreamedSplit:
    """A split that is read in the order in which it comes.

    Attributes:
        table: A ``datasets`` iterable, whose image column is not decoded.
        columns: Image and label column.
        count: Images per pass.
        picture: How they are decoded.
        mean: As of :class:`rotated_relu.training.data.splits.Split`.
        std: As of :class:`rotated_relu.training.data.splits.Split`.
    """

    table: Any
    columns: tuple[str, str]
    count: int
    picture: Picture
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int:
        return self.count

    @property
    def images(self) -> StreamedImages:
        """The shape of all images."""
        return StreamedImages((self.count, *self.picture.shape))

    def rows(self, table: Any = None) -> Iterator[tuple[int, Any, int]]:
        """Yield (index, encoded image, label), not decoded, at most ``count``."""
        image, label = self.columns
        for index, row in enumerate(itertools.islice(self.table if table is None else table, self.count)):
            yield index, row[image], checked_label(row[label], self.picture.name, index)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (uint8 images, labels) in order, the last batch possibly smaller."""
        rows = self.rows()
        with ThreadPoolExecutor(THREADS) as pool:
            while chosen := list(itertools.islice(rows, batch_size)):
                images = pool.map(lambda row: self.picture.decoded(row[1], row[0]), chosen)
                yield torch.stack(list(images)), torch.tensor([label for _, _, label in chosen])


def checked_label(label: Any, name: str, index: int) -> int:
    """A class number.

    Raises:
        DataError: If it is none: an unlabelled image.
    """
    if not isinstance(label, int) or label < 0:
        raise DataError(f"{name}: image {index} has the label {label!r}, which is no class")
    return label
