"""Training batches: which images, in which order, varied how; each a function of (seed, epoch, step).

Ensures: an epoch can be entered at any step; all processes together see the batches that one process would see,
varied in the same way; incomplete batches are dropped.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ...core.errors import DataError
from ..config import Config, ConfigError, DataConfig
from ..data.augment import apply_flips_and_crops, draw_flips_and_crops
from ..data.decoding import random_section
from ..data.format import normalise
from ..data.splits import Split
from ..data.storage import StoredImages, StreamedSplit
from .seeds import generator_for, seed_of
from .signals import ignore_signals

ON_DEVICE = 2**30  # bytes of images that are moved to the device once, instead of batch by batch
AHEAD = 2  # batches that each worker decodes in advance


@dataclass(frozen=True)
class BatchShard:
    """Which part of every batch is whose.

    Attributes:
        rank: This process.
        size: Processes.
        parts: Parts that each process takes one after the other.
    """

    rank: int = 0
    size: int = 1
    parts: int = 1

    def whole(self, wanted: int, available: int) -> int:
        """Images per step: ``wanted``, or fewer if there are fewer, divisible among all.

        Raises:
            ConfigError: If ``wanted`` is not divisible.
        """
        pieces = self.size * self.parts
        if wanted % pieces:
            raise ConfigError(
                f"batch_size is {wanted}, but must be a multiple of {pieces}: {self.size} processes times "
                f"accumulate {self.parts}"
            )
        return min(wanted, available - available % pieces)

    def slices(self, whole: int) -> list[slice]:
        """Where this process's parts lie in a batch of ``whole`` images."""
        length = whole // (self.size * self.parts)
        starts = [(part * self.size + self.rank) * length for part in range(self.parts)]
        return [slice(start, start + length) for start in starts]


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass reads.

    Attributes:
        images: uint8 (N, C, H, W).
        labels: int64 (N,).
        draws: How to vary the images (see :func:`rotated_relu.training.data.augment.draw_flips_and_crops`), or None.
    """

    images: Tensor
    labels: Tensor
    draws: Tensor | None

    def prepared(self, split: Any, config: Config, device: torch.device) -> tuple[Tensor, Tensor]:
        """Varied, normalised images and labels, on the device."""
        images = self.images.to(device, non_blocking=True)
        if self.draws is not None:
            images = apply_flips_and_crops(images, config.data.crop_padding, self.draws)
        return as_input(images, split, config), self.labels.to(device, non_blocking=True)


def as_input(images: Tensor, split: Any, config: Config) -> Tensor:
    """Uint8 images as the network reads them."""
    normal = normalise(images, split.mean, split.std)
    if config.channels_last:
        return normal.contiguous(memory_format=torch.channels_last)
    # Viewed anew: images of one channel are in both layouts, and keep the strides that convolutions read.
    return normal.contiguous().view(-1).view(normal.shape)


class TrainBatches:
    """The training batches of one process.

    Args:
        split: The training images.
        config: The run.
        share: Which part of every batch to yield.
        device: Where they are used.
    """

    def __init__(
        self,
        split: Split | StreamedSplit,
        config: Config,
        share: BatchShard | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.share = share or BatchShard(parts=config.accumulate)
        self.config, self.device = config, device or torch.device("cpu")
        self.batch_size = self.share.whole(config.batch_size, len(split))
        if self.batch_size == 0:
            raise ConfigError(f"{len(split)} training images are too few for one batch")
        self.split = self._near(split)

    def _near(self, split: Split | StreamedSplit) -> Split | StreamedSplit:
        """The split on the device, if all of it is in memory and small."""
        if not isinstance(split, Split) or not isinstance(split.images, Tensor):
            return split
        if split.images.nbytes > ON_DEVICE:
            return split
        return Split(split.images.to(self.device), split.labels.to(self.device), split.mean, split.std)

    def __len__(self) -> int:
        """Steps of an epoch."""
        return len(self.split) // self.batch_size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[MicroBatch]]:
        """Yield, for every step from ``start`` on, the pieces of this process."""
        pairs = self._pairs(epoch, start)
        for step in range(start, len(self)):
            draws = self._draws(epoch, step)
            yield [
                MicroBatch(*_next(pairs, step, self), None if draws is None else draws[:, where])
                for where in self.share.slices(self.batch_size)
            ]

    def _draws(self, epoch: int, step: int) -> Tensor | None:
        data = self.config.data
        if not (data.flip or data.crop_padding):
            return None
        generator = generator_for("augmentation", self.config.seed, epoch, step)
        return draw_flips_and_crops(self.batch_size, data.crop_padding, data.flip, generator)

    def _pairs(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels, piece after piece."""
        data, slices = self.config.data, self.share.slices(self.batch_size)
        if isinstance(self.split, StreamedSplit):
            pieces = _StreamPieces(self.split, self.config, epoch, start, self.batch_size, slices)
            yield from self._loader(pieces, None, min(1, data.workers))
            return
        chosen = self._chosen(epoch, start)
        if isinstance(self.split.images, StoredImages):
            stored = _StoredPieces(self.split.images, self.split.labels, data, self.config.seed, epoch)
            yield from self._loader(stored, list(chosen), data.workers)
            return
        for indices in chosen:
            near = indices.to(self.split.images.device)
            yield self.split.images[near], self.split.labels[near]

    def _chosen(self, epoch: int, start: int) -> Iterator[Tensor]:
        """Indices, piece after piece."""
        order = torch.randperm(len(self.split), generator=generator_for("order", self.config.seed, epoch))
        for step in range(start, len(self)):
            whole = order[step * self.batch_size : (step + 1) * self.batch_size]
            for where in self.share.slices(self.batch_size):
                yield whole[where]

    def _loader(self, pieces: Any, order: Any, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(
            DataLoader(
                pieces,
                batch_size=None,
                sampler=order,
                num_workers=workers,
                prefetch_factor=AHEAD if workers else None,
                worker_init_fn=ignore_signals if workers else None,
                pin_memory=self.device.type == "cuda",
            )
        )


def _next(pairs: Iterator[tuple[Tensor, Tensor]], step: int, batches: TrainBatches) -> tuple[Tensor, Tensor]:
    try:
        found = next(pairs, None)
    except DataError as error:  # a worker's comes with all of its traceback
        raise DataError(
            str(error).strip().splitlines()[-1].removeprefix(f"{DataError.__module__}.DataError: ")
        ) from error
    if found is None:
        raise DataError(
            f"the training images ended within step {step + 1} of {len(batches)}; if they are a stream, give "
            "data.length, the images that it really has"
        )
    return found


@dataclass(frozen=True)
class _StoredPieces(Dataset[tuple[Tensor, Tensor]]):
    """Decodes a piece, in a worker, from the indices of its images."""

    images: StoredImages
    labels: Tensor
    data: DataConfig
    seed: int
    epoch: int

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        sections = (_section(self.data, self.seed, self.epoch, index) for index in indices.tolist())
        return self.images.sections(indices, sections), self.labels[indices]


class _StreamPieces(IterableDataset[tuple[Tensor, Tensor]]):
    """Reads a stream in one worker and decodes pieces in threads.

    Every process reads the whole stream and decodes its own share: the order is that of a single process.
    """

    def __init__(
        self,
        split: StreamedSplit,
        config: Config,
        epoch: int,
        start: int,
        whole: int,
        slices: Sequence[slice],
    ) -> None:
        self.split, self.config, self.epoch, self.start = split, config, epoch, start
        self.whole, self.slices = whole, slices

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        data = self.config.data
        table = self.split.table.shuffle(
            seed_of("order", self.config.seed) % 2**32, buffer_size=data.shuffle_buffer
        )
        table.set_epoch(self.epoch)
        # What lies before the start is read again, but not decoded.
        rows = itertools.islice(self.split.rows(table), self.start * self.whole, None)
        with ThreadPoolExecutor(max(1, data.workers)) as pool:
            while len(batch := list(itertools.islice(rows, self.whole))) == self.whole:
                for where in self.slices:
                    images = torch.stack(list(pool.map(self._decoded, batch[where])))
                    yield images, torch.tensor([label for _, _, label in batch[where]])

    def _decoded(self, row: tuple[int, Any, int]) -> Tensor:
        index, encoded, _ = row
        section = _section(self.config.data, self.config.seed, self.epoch, index)
        return self.split.picture.decoded(encoded, index, section)


def _section(data: DataConfig, seed: int, epoch: int, index: int) -> Any:
    if not data.random_resized_crop:
        return None
    return random_section(generator_for("section", seed, epoch, index))
