"""How pictures become the numbers that a network was trained on, as plain data that travels with its weights.

Requires: nothing but the standard library, so that whoever reads a file can read it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .errors import ShapeError

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
# In the header of a safetensors file and in the metadata of an ONNX file, as JSON.
PREPROCESSING, CLASS_NAMES = "rotated_relu.preprocessing", "rotated_relu.class_names"
SCORES = "rotated_relu.scores"  # which output of an ONNX file the class scores are, from 0


@dataclass(frozen=True)
class Preprocessing:
    """Resize, cut out the middle, divide by 255, take off the mean, divide by the standard deviation.

    Attributes:
        mean: Per channel, of pixels in [0, 1].
        std: Likewise.
        image_size: Height and width that the network gets, in pixels.
        resize: Length that the shorter side gets before the middle is cut out, in pixels; None resizes to
            ``image_size`` without keeping the proportions.
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``.

    Raises:
        ShapeError: If a number is not finite, a standard deviation or a size is not positive, or the lengths differ.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: tuple[int, int]
    resize: int | None = None
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean:
            raise ShapeError(f"mean and std need one number per channel each, got {self.mean} and {self.std}")
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise ShapeError(
                f"mean and std must be finite and std above 0, got mean {self.mean} and std {self.std}"
            )
        if min(*self.image_size, self.resize or 1) < 1:
            raise ShapeError(
                f"sizes are pixels, 1 or more, got image_size {self.image_size}, resize {self.resize}"
            )
        if self.resize is not None and self.resize < max(self.image_size):
            raise ShapeError(
                f"resize must be at least image_size, which is cut out of it, got {self.resize} and {self.image_size}"
            )
        if self.interpolation not in INTERPOLATIONS:
            raise ShapeError(
                f"interpolation is one of {', '.join(INTERPOLATIONS)}, got {self.interpolation!r}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as JSON holds it."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Preprocessing:
        """The reverse of :meth:`to_dict`.

        Raises:
            ShapeError: If it is not what :meth:`to_dict` returns.
        """
        try:
            height, width = data["image_size"]
            return cls(
                tuple(map(float, data["mean"])),
                tuple(map(float, data["std"])),
                (int(height), int(width)),
                None if data.get("resize") is None else int(data["resize"]),
                str(data.get("interpolation", "bilinear")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ShapeError(f"not a record of preprocessing: {data!r} ({error})") from error


def as_metadata(preprocessing: Preprocessing, class_names: Sequence[str]) -> dict[str, str]:
    """What a file of weights says of its input and its output: text by key, as such files hold it."""
    return {
        PREPROCESSING: json.dumps(preprocessing.to_dict()),
        CLASS_NAMES: json.dumps(list(class_names), ensure_ascii=False),
    }


def from_metadata(metadata: Mapping[str, str]) -> tuple[Preprocessing | None, tuple[str, ...] | None]:
    """The reverse of :func:`as_metadata`; None for what is not there.

    Raises:
        ShapeError: If what is there cannot be read.
    """
    try:
        known, names = (json.loads(metadata.get(key, "null")) for key in (PREPROCESSING, CLASS_NAMES))
    except json.JSONDecodeError as error:
        raise ShapeError(f"not a record of preprocessing and class names: {error}") from error
    return (
        None if known is None else Preprocessing.from_dict(known),
        None if names is None else tuple(map(str, names)),
    )
