"""The images of a run: as its settings ask for them, and what its ``provenance.json`` says about them.

Runs of 0.1.0 did not record what their images look like: they are read once, and it is recorded then.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

from ..core.arguments import checked
from ..core.errors import RunError
from ..core.run_directory import Run, read_json, write_json
from .config import Config
from .data import sources
from .data.format import ImageFormat
from .data.load import load_images
from .data.splits import ImageData

FORMAT = "input"  # in provenance.json


def resolved(config: Config) -> Config:
    """The same configuration, a folder of images by its absolute path: it means the same wherever it is read."""
    name = sources.resolved(config.data.name)
    return config if name == config.data.name else replace(config, data=replace(config.data, name=name))


@checked()
def load_data(config: Config, *, offline: bool = False) -> ImageData:
    """The images that a configuration asks for.

    Args:
        config: Its ``data`` count.
        offline: Make no connection, whatever the configuration names: for one that came with a run.

    Raises:
        DataError: If they cannot be found or read.
    """
    data = config.data
    given = data.normalisation == "given"
    images = load_images(
        data.name,
        data.validation,
        data.split_seed,
        image_size=data.image_size,
        resize=data.resize,
        interpolation=data.interpolation,
        own_validation=data.own_validation,
        normalisation="none" if given else data.normalisation,
        storage=data.storage,
        memory_limit=data.memory_limit,
        cut=data.random_resized_crop,
        length=data.length,
        offline=offline,
    )
    return images.normalised_by(data.mean or (), data.std or ()) if given else images


def record_provenance(run: Run, images: ImageData) -> None:
    """Write where the images came from, how they were split, and what they look like."""
    write_json(run.file("provenance"), {**images.provenance, FORMAT: images.format.to_dict()})


def image_format(run: Run, config: Config) -> ImageFormat:
    """What the images of a run look like.

    Raises:
        RunError: If the record is damaged.
        DataError: If there is none, and the images cannot be read either.
    """
    path = run.file("provenance")
    known = read_json(path) if path.is_file() else {}
    if isinstance(known, dict) and FORMAT in known:
        try:
            return ImageFormat.from_dict(known[FORMAT])
        except ValueError as error:
            raise RunError(f"{path} is damaged ({error}); take it from a copy of this run") from error
    images = load_data(config, offline=True)
    with contextlib.suppress(RunError):  # a run that may only be read is read again next time
        record_provenance(run, images)
    return images.format
