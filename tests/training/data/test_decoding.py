"""Encoded images to pixels: depth, transparency, orientation, and images that cannot be read."""

import io

import numpy as np
import pytest
from PIL import Image

from rotated_relu.core.errors import DataError
from rotated_relu.training.data.decoding import pixels


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return {"bytes": buffer.getvalue(), "path": None}


def decoded(image, kind="PNG", **options):
    return pixels(encoded(image, kind, **options), None, None, "made", 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_become_eight(kind):
    # 257 is 1 of 255, as 65535 = 255 * 257 is white; 32896 = 128 * 257.
    deep = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    assert decoded(Image.fromarray(deep), kind).tolist() == [[0, 1, 128, 255]]


def test_floats_from_0_to_1_become_bytes():
    # 0.2 * 255 = 51
    assert decoded(Image.fromarray(np.array([[0, 0.2, 1]], dtype=np.float32)), "TIFF").tolist() == [
        [0, 51, 255]
    ]


@pytest.mark.parametrize(
    "numbers", [np.array([[0, 70000]], dtype=np.int32), np.array([[-1.0, 9.0]], dtype=np.float32)]
)
def test_numbers_of_no_known_range_are_refused(numbers):
    with pytest.raises(DataError, match=r"made: image 0 cannot be decoded.*no known range.*8 or 16 bits"):
        decoded(Image.fromarray(numbers), "TIFF")


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(mode):
    # Black, half transparent over white: 255 * (1 - 128 / 255) = 127; wholly transparent: white; opaque: black.
    image = Image.new(mode, (3, 1))
    for place, alpha in enumerate((128, 0, 255)):
        image.putpixel((place, 0), (0, 0, 0, alpha)[-len(mode) :])
    found = decoded(image)
    assert found.shape == ((1, 3, 3) if mode == "RGBA" else (1, 3))
    assert np.unique(found[0, 0]).tolist() == [127]
    assert np.unique(found[0, 1]).tolist() == [255]
    assert np.unique(found[0, 2]).tolist() == [0]


def test_a_transparent_colour_of_a_palette_is_laid_on_white():
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.putpixel((1, 0), 1)
    assert decoded(image, transparency=0).tolist() == [[[255, 255, 255], [255, 0, 0]]]


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_photograph_is_turned_as_its_camera_says(kind):
    # Orientation 6: the top of the picture is at the right of what is stored.
    stored = Image.new("L", (16, 8), 0)
    stored.paste(255, (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    found = decoded(stored, kind, exif=exif)
    assert found.shape == (16, 8)
    assert found[:8].min() > 200  # what was stored at the left is at the top
    assert found[8:].max() < 50


def test_a_decompression_bomb_is_named_by_its_file(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    Image.new("L", (100, 100)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match=r"bomb\.png has far more pixels than images have"):
        pixels({"bytes": None, "path": str(path)}, None, None, "made", 3)


@pytest.mark.parametrize(
    "content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + 40 * b"\0", b"GIF89a" + 9 * b"\xff"]
)
def test_a_broken_image_is_named_by_its_file(tmp_path, content):
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"/broken\.png cannot be decoded") as caught:
        pixels({"bytes": None, "path": str(path)}, "RGB", 8, "made", 3)
    assert len(str(caught.value).splitlines()) == 1


def test_a_broken_image_within_a_table_is_named_by_its_number_and_name():
    with pytest.raises(DataError, match=r"^made: image 3 \(cat\.png\) cannot be decoded"):
        pixels({"bytes": b"no image", "path": "cat.png"}, "RGB", 8, "made", 3)
