"""One encoded image to pixels."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...core.errors import DataError
from ...core.extras import needs

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = np.ndarray[Any, Any]
# (width, height) of an image to the section of it that is scaled to the wanted size: left, top, right, bottom.
Section = Callable[[tuple[int, int]], tuple[float, float, float, float]]

MIDDLE = 224 / 256  # share of the shorter side that is tested on, as is usual on ImageNet
AREA = (0.08, 1.0)  # shares of the area that training sections cover
RATIO = (3 / 4, 4 / 3)  # of their sides


@dataclass(frozen=True)
class Scaling:
    """How a picture gets the size that a network takes.

    Attributes:
        size: Height and width, in pixels; None leaves pictures as they are.
        resize: Length that the shorter side gets before the middle is cut out, as torchvision's and timm's evaluation
            does; None squeezes the whole picture.
        interpolation: One of :data:`rotated_relu.core.preprocessing.INTERPOLATIONS`.
    """

    size: int | None = None
    resize: int | None = None
    interpolation: str = "bilinear"

    def applied(self, image: Image, section: Section | None = None) -> Image:
        """The picture in that size; where a section is given, that part of it."""
        from PIL.Image import Resampling

        size, how = self.size, Resampling[self.interpolation.upper()]
        if size is None:
            return image
        if section is not None:
            return image.resize((size, size), how, box=section(image.size))
        if self.resize is None:
            return image if image.size == (size, size) else image.resize((size, size), how)
        return self._middle(image, size, self.resize, how)

    def _middle(self, image: Image, size: int, shorter: int, how: Any) -> Image:
        """Resized, then cut: rounded as torchvision does."""
        width, height = (int(shorter * side / min(image.size)) for side in image.size)
        image = image if image.size == (width, height) else image.resize((width, height), how)
        left, top = round((width - size) / 2), round((height - size) / 2)
        return image.crop((left, top, left + size, top + size))


def pixels(
    row: Any, mode: str | None, scaling: Scaling, name: str, index: int, section: Section | None = None
) -> Pixels:
    """One image as (H, W) or (H, W, 3) uint8, upright, on white where it is transparent.

    Args:
        row: ``bytes`` or else ``path`` of the encoded image.
        mode: ``L`` or ``RGB``; None keeps grey images grey and makes others RGB.
        scaling: To which size, and how.
        name: Of the set, for errors.
        index: Of the image, for errors.
        section: Which part to scale; the whole image if None.

    Raises:
        DataError: If the image cannot be decoded, or its numbers have no known range; names its file.
    """
    needs("PIL")
    from PIL import Image

    try:
        with Image.open(io.BytesIO(row["bytes"]) if row["bytes"] is not None else row["path"]) as opened:
            image = _on_white(_in_bytes(_upright(opened), opened.format))
            image = image.convert(mode or ("L" if image.mode in ("1", "L") else "RGB"))
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{place(row, name, index)} has far more pixels than images have ({one_line(error)}); scale it down, or "
            "take it out"
        ) from error
    except Exception as error:  # what a decoder raises on a broken file depends on its format
        raise DataError(f"{place(row, name, index)} cannot be decoded: {one_line(error)}") from error
    return np.asarray(scaling.applied(image, section))


def place(row: Any, name: str, index: int) -> str:
    """Where an image is: its file, or its number within a set and the name that the set gives it."""
    path = row.get("path")
    if row.get("bytes") is None and path:
        return str(path)
    return f"{name}: image {index}" + (f" ({path})" if path else "")


def scaled(image: Pixels, scaling: Scaling) -> Pixels:
    """A uint8 image (H, W) in another size."""
    needs("PIL")
    from PIL import Image

    return np.array(scaling.applied(Image.fromarray(image)))


def _in_bytes(image: Image, kind: str | None) -> Image:
    """The image with numbers of 8 bits. What Pillow does by itself is cut off at 255: white pictures."""
    from PIL import Image

    deep = np.asarray(image) if image.mode[0] in "IF" else None
    if deep is None:
        return image
    if image.mode.startswith("I;16") or (image.mode == "I" and kind == "PNG"):
        shown = deep / 257  # 65535 becomes 255
    elif image.mode == "F" and deep.min() >= 0 and deep.max() <= 1:
        shown = deep * 255.0
    else:
        raise ValueError(
            f"its numbers (mode {image.mode}, from {deep.min():g} to {deep.max():g}) have no known range; convert it "
            "to 8 or 16 bits"
        )
    return Image.fromarray(np.round(shown).astype(np.uint8))


def _on_white(image: Image) -> Image:
    """The image without transparency, as a page shows it."""
    from PIL import Image

    if not image.has_transparency_data:
        return image
    grey = image.mode in ("1", "L", "LA", "La")
    page = Image.new("RGBA", image.size, "white")
    page.alpha_composite(image.convert("RGBA"))
    return page.convert("L" if grey else "RGB")


def _upright(image: Image) -> Image:
    """The image turned as its camera says."""
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def random_section(generator: torch.Generator) -> Section:
    """A section of random area, shape and place (Szegedy et al., *Going Deeper with Convolutions*, 2015)."""

    def section(size: tuple[int, int]) -> tuple[float, float, float, float]:
        width, height = size
        area, log_ratio, across, down = torch.rand(4, generator=generator).tolist()
        wanted = width * height * (AREA[0] + area * (AREA[1] - AREA[0]))
        low, high = map(math.log, RATIO)
        ratio = math.exp(low + log_ratio * (high - low))
        # A section that does not fit is cut to the image, so that no draw has to be repeated.
        wide, tall = min(width, math.sqrt(wanted * ratio)), min(height, math.sqrt(wanted / ratio))
        left, top = across * (width - wide), down * (height - tall)
        return left, top, left + wide, top + tall

    return section


def one_line(error: BaseException) -> str:
    """Type and first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
