"""Where images come from: a folder, a set on the Hub, or digits that are bundled with another package.

Requires: a name as a person gave it.
Ensures: a folder is read without any connection, and never looked up on the Hub; a set on the Hub is looked up there
only where that is allowed; else what is in this machine's cache is read.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...core.errors import DataError, UnknownNameError
from ...core.extras import needs
from .decoding import one_line

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
ONLINE = "ROTATED_RELU_ONLINE"  # set to 1, what a run names may be downloaded
IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
)
SPLITS = frozenset({"train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval"})
LAYOUT = "give a folder with parquet files or with one folder per class"


def names() -> list[str]:
    """Short names, the one that needs no download first."""
    return [BUNDLED, *sorted(name for name in HUB_NAMES if "_" not in name)]


def resolved(name: str) -> str:
    """A folder's absolute path, so that the name means the same wherever it is read; any other name as it is."""
    folder = Path(name).expanduser()
    return str(folder.resolve()) if name not in {*HUB_NAMES, BUNDLED} and folder.is_dir() else name


def open_source(name: str, *, streaming: bool = False, offline: bool = False) -> tuple[Any, dict[str, Any]]:
    """The tables of a set, by split, and where they came from, as plain data.

    Args:
        name: A folder, a short name, or a name on the Hub.
        streaming: Read it in order, without keeping it.
        offline: Read a set of the Hub from this machine's cache alone, unless ``ROTATED_RELU_ONLINE`` is 1.

    Raises:
        DataError: If it cannot be found or read.
        UnknownNameError: If it can only be a short name, and is none; suggests the nearest.
    """
    needs("datasets", "PIL")
    import datasets

    datasets.disable_progress_bars()
    how = {"streaming": True} if streaming else {}
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _open_folder(folder, how), {"source": "folder"}
    if name not in HUB_NAMES and "/" not in name:
        raise UnknownNameError("dataset", name, [*HUB_NAMES, BUNDLED])
    parent = folder.parts[0]
    if (
        name.startswith(("/", ".", "~"))
        or name.count("/") > 1
        or (name not in HUB_NAMES and Path(parent).is_dir())
    ):
        raise DataError(f"no folder {name}; {LAYOUT}")
    return _open_hub(*HUB_NAMES.get(name, (name, None)), how, offline)


def _open_hub(
    name: str, config: str | None, how: dict[str, Any], offline: bool
) -> tuple[Any, dict[str, Any]]:
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    try:
        with without_network() if offline and os.environ.get(ONLINE) != "1" else contextlib.nullcontext():
            loaded = datasets.load_dataset(name, config, **how)
    except DatasetNotFoundError as error:
        raise DataError(
            f"no folder and no public dataset on the Hub is called {name!r}: check the name"
        ) from error
    except Exception as error:
        if offline:
            raise DataError(
                f"{name!r} is not in this machine's cache ({one_line(error)}), and the settings of a run alone are no "
                f"reason to download it; if you want that, set {ONLINE}=1 and repeat the command"
            ) from error
        raise DataError(
            f"loading {name!r} was interrupted ({one_line(error)}); check the connection and repeat the "
            "same command: finished files are kept. Offline, give a local folder instead (mnist5k needs no "
            "download)"
        ) from error
    return loaded, {"source": "hub", "hub_name": name, "hub_config": config}


def _open_folder(folder: Path, how: dict[str, Any]) -> Any:
    import datasets

    if any(folder.rglob("*.parquet")):
        arguments: tuple[str, ...] = (str(folder),)
        where = {}
    elif any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.rglob("*")):
        arguments, where = ("imagefolder",), {"data_dir": str(folder)}
    else:
        raise DataError(f"{folder} holds neither parquet files nor images{_links(folder)}; {LAYOUT}")
    try:
        # Reading a folder needs no network: without this, each reading is counted at the Hub.
        with without_network(), _any_readme():
            return datasets.load_dataset(*arguments, **where, **how)
    except Exception as error:
        raise DataError(f"cannot read the images in {folder}: {one_line(error)}") from error


@contextlib.contextmanager
def _any_readme() -> Iterator[None]:
    """Within the ``with`` block nobody warns that a folder's ``README.md`` is no dataset card."""
    logger = logging.getLogger("huggingface_hub.repocard")
    former = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(former)


@contextlib.contextmanager
def without_network() -> Iterator[None]:
    """Within the ``with`` block ``datasets`` makes no attempt to connect."""
    import datasets
    import huggingface_hub.constants

    places: tuple[Any, ...] = (datasets.config, huggingface_hub.constants)
    former = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = True
        yield
    finally:
        for place, value in zip(places, former, strict=True):
            place.HF_HUB_OFFLINE = value


def why_unlabelled(name: str) -> str:
    """Why the images of a folder have no classes, and what to do about it; a general hint for other sets."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return "give a set with one"
    images = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES]
    classes = [_class_parts(path.relative_to(folder).parts) for path in images]
    inside = {parts for parts in classes if parts}
    stray = [path for path, parts in zip(images, classes, strict=True) if not parts]
    if stray and inside:
        return f"{stray[0]} lies beside the class folders: move it into one of them, or away"
    if len(inside) == 1:
        name = "/".join(*inside)
        return f"all images are in one class folder, {name}{_links(folder)}: a classifier needs at least two"
    return f"put the images into one folder per class{_links(folder)}"


def _class_parts(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Folders between the split's, if any, and the image."""
    return parts[1:-1] if parts[0].lower() in SPLITS else parts[:-1]


def _links(folder: Path) -> str:
    """Folders that are links are not followed: say so where there are some."""
    found = [
        Path(parent, name)
        for parent, names, _ in os.walk(folder)
        for name in names
        if Path(parent, name).is_symlink()
    ]
    return f" ({found[0]} is a link, which is not followed: copy its images here)" if found else ""
