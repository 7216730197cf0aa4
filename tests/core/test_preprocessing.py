"""The record of preprocessing: there and back, and what it refuses."""

import math

import pytest

from rotated_relu.core.errors import ShapeError
from rotated_relu.core.preprocessing import Preprocessing, as_metadata, from_metadata

IMAGENET = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (224, 224), 256, "bicubic")


def test_there_and_back():
    import json

    assert Preprocessing.from_dict(json.loads(json.dumps(IMAGENET.to_dict()))) == IMAGENET


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"std": (1.0,)}, "one number per channel"),
        ({"std": (0.0, 1.0, 1.0)}, "std above 0"),
        ({"mean": (math.nan, 0.0, 0.0)}, "finite"),
        ({"image_size": (0, 224)}, "1 or more"),
        ({"resize": 200}, "at least image_size"),
        ({"interpolation": "sinc"}, "nearest, bilinear, bicubic, lanczos"),
    ],
)
def test_refused(changes, says):
    from dataclasses import replace

    with pytest.raises(ShapeError, match=says):
        replace(IMAGENET, **changes)


@pytest.mark.parametrize(
    "data", [{}, {"mean": 1, "std": 2, "image_size": (3, 4)}, {"mean": "x", "std": "y", "image_size": 3}]
)
def test_foreign_records_are_refused(data):
    with pytest.raises(ShapeError, match=r"not a record of preprocessing|one number per channel"):
        Preprocessing.from_dict(data)


def test_as_text_in_a_file():
    said = as_metadata(IMAGENET, ("cat", "vélo"))
    assert from_metadata(said) == (IMAGENET, ("cat", "vélo"))
    assert from_metadata({}) == (None, None)
    with pytest.raises(ShapeError, match="not a record of preprocessing"):
        from_metadata({"rotated_relu.preprocessing": "{"})
