"""``rotated-relu models`` and ``rotated-relu datasets``: the names that train takes."""

from __future__ import annotations

from . import console

MODELS_EXAMPLE = "rotated-relu models | grep resnet"
DATASETS_EXAMPLE = "rotated-relu datasets"


def models() -> None:
    """List the networks that train --model takes, one name a line: ours first, then torchvision's."""
    from ..nn.models.registry import names

    console.show(*names())


def datasets() -> None:
    """List the short names of images that train --data takes, one a line; mnist5k needs no download.

    A folder with one folder per class, or with parquet files, and any set of images on the Hub, as OWNER/NAME, are
    taken as well.
    """
    from ..training.data.sources import names

    console.show(*names())
