"""One table of a set: which columns hold images and labels, what the classes are, and the images decoded."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.errors import DataError
from ...core.extras import needs
from .decoding import Scaling, pixels, place
from .sources import why_unlabelled
from .storage import Picture, check_size

OWN_VALIDATION = ("validation", "valid", "val", "dev")


def split_names(loaded: Any, name: str, own_validation: bool = False) -> dict[str, str]:
    """Which splits to train on and to test on; a validation split serves as test if there is no other.

    Args:
        loaded: The tables by split.
        name: Of the set, for errors.
        own_validation: A validation split is for choosing, also where there is no other to test on.
    """
    found = list(loaded)
    train = next((key for key in ("train", "training") if key in found), None)
    if train is None:
        if len(found) != 1:
            raise DataError(f"{name} has no split called 'train', only {', '.join(found)}")
        train = found[0]
    own = next((key for key in OWN_VALIDATION if key in found and key != train), None)
    test = "test" if "test" in found and train != "test" else None if own_validation else own
    names = {"train": train, "validation": own if own_validation else None, "test": test}
    return {part: split for part, split in names.items() if split is not None}


def columns_of(table: Any, name: str) -> tuple[str, str, tuple[str, ...]]:
    """Image column, label column and class names, from the column types."""
    needs("datasets")
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
        f"{name} has no label column (columns: {', '.join(table.features)}); {why_unlabelled(name)}"
    )


def labels_of(table: Any, column: str, class_names: tuple[str, ...]) -> Tensor:
    """Class numbers, int64 (N,).

    Raises:
        DataError: If some images have none, or one that no training image has.
    """
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


def undecoded(table: Any, columns: Sequence[str]) -> Any:
    """The table with images that are still encoded, and labels."""
    from datasets import Image

    return table.select_columns(list(columns)).cast_column(columns[0], Image(decode=False))


def picture_of(first: Any, name: str, scaling: Scaling) -> Picture:
    """How the images of a set are decoded, from the first one."""
    found = pixels(first, None, scaling, name, 0)
    height, width = found.shape[:2]
    return Picture((1 if found.ndim == 2 else 3, height, width), scaling, name)


def decoded(raw: Any, column: str, picture: Picture) -> Tensor:
    """Decode all images of a table into one uint8 tensor (N, C, H, W)."""
    channels, *size = picture.shape
    out = np.empty((len(raw), *size, channels), dtype=np.uint8)
    mode = "L" if channels == 1 else "RGB"

    def fill(start: int, rows: list[Any]) -> None:
        for index, row in enumerate(rows, start):
            found = pixels(row, mode, picture.scaling, picture.name, index)
            check_size(found, size, place(row, picture.name, index))
            out[index] = found.reshape(*size, -1)

    step = 1024
    with ThreadPoolExecutor(max_workers=4) as pool:  # the image decoders run outside the interpreter lock
        jobs = [
            pool.submit(fill, start, raw[start : start + step][column]) for start in range(0, len(raw), step)
        ]
        for job in jobs:
            job.result()
    return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous()


def image_count(table: Any) -> int:
    """Images of a streamed split, 0 if it does not say."""
    splits = table.info.splits or {}
    return int(splits[table.split].num_examples) if table.split in splits else 0
