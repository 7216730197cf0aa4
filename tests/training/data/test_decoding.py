"""Encoded images to pixels: depth, transparency, orientation, and images that cannot be read."""

import io

import numpy as np
import pytest
from PIL import Image

from rotated_relu.core.errors import DataError
from rotated_relu.training.data.decoding import Scaling, pixels


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return {"bytes": buffer.getvalue(), "path": None}


def decoded(image, kind="PNG", **options):
    return pixels(encoded(image, kind, **options), None, Scaling(), "made", 0)


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
        pixels({"bytes": None, "path": str(path)}, None, Scaling(), "made", 3)


@pytest.mark.parametrize(
    "content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + 40 * b"\0", b"GIF89a" + 9 * b"\xff"]
)
def test_a_broken_image_is_named_by_its_file(tmp_path, content):
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"/broken\.png cannot be decoded") as caught:
        pixels({"bytes": None, "path": str(path)}, "RGB", Scaling(8), "made", 3)
    assert len(str(caught.value).splitlines()) == 1


def test_a_broken_image_within_a_table_is_named_by_its_number_and_name():
    with pytest.raises(DataError, match=r"^made: image 3 \(cat\.png\) cannot be decoded"):
        pixels({"bytes": b"no image", "path": "cat.png"}, "RGB", Scaling(8), "made", 3)


def gradient(width, height):
    """A grey picture whose pixel (x, y) is x + 10 y."""
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray((columns + 10 * rows).astype(np.uint8))


def test_the_middle_is_cut_out_of_the_resized_picture():
    """12 x 6 stays, its shorter side being 6; the middle 4 x 4 of it begins at column 4 and row 1."""
    found = pixels(encoded(gradient(12, 6), "PNG"), None, Scaling(4, 6), "made", 0)
    assert found.tolist() == [[x + 10 * y for x in range(4, 8)] for y in range(1, 5)]


def test_without_a_resize_the_whole_picture_is_squeezed():
    """Two columns become one, by the mean of a bilinear filter that is as wide: nearest takes one of them instead."""
    found = pixels(encoded(gradient(8, 4), "PNG"), None, Scaling(4, interpolation="nearest"), "made", 0)
    assert found[0].tolist() == [1, 3, 5, 7]


@pytest.mark.parametrize("size", [(50, 37), (33, 64), (40, 40)])
@pytest.mark.parametrize("how", ["bilinear", "bicubic"])
def test_it_is_what_torchvision_does_for_its_weights(size, how):
    transforms = pytest.importorskip("torchvision.transforms.v2")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    wanted = transforms.Compose(
        [transforms.Resize(28, transforms.InterpolationMode(how)), transforms.CenterCrop(24)]
    )(picture)
    found = pixels(encoded(picture, "PNG"), "RGB", Scaling(24, 28, how), "made", 0)
    assert np.array_equal(found, np.asarray(wanted))
