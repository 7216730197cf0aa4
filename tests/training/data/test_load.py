"""Splits, statistics and the readers, on small sets written by the tests; no network."""

import numpy as np
import pytest
import torch
from PIL import Image

from rotated_relu.core.errors import DataError, UnknownNameError
from rotated_relu.training.data.format import normalise
from rotated_relu.training.data.load import load_images
from rotated_relu.training.data.sources import HUB_NAMES
from rotated_relu.training.data.splits import stratified_split


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep the readers' cache out of the user's."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def write_image(path, value, size=(4, 4), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


@pytest.fixture
def folder(tmp_path):
    """Two classes; 10 training images each, red or green of rising strength, and 2 test images each."""
    root = tmp_path / "set"
    for name, channel in (("green", 1), ("red", 0)):
        for index in range(10):
            colour = [0, 0, 0]
            colour[channel] = 100 + index
            write_image(root / "train" / name / f"{index}.png", tuple(colour))
        for index in range(2):
            write_image(root / "test" / name / f"{index}.png", (0, 0, 200 + index))
    return root


def test_class_folders(folder):
    images = load_images(folder, validation=4, seed=1)
    assert images.class_names == ("green", "red")
    assert images.image_shape == (3, 4, 4)
    assert [len(part) for part in (images.train, images.validation, images.test)] == [16, 4, 4]
    assert images.train.images.dtype == torch.uint8
    assert images.train.labels.dtype == torch.int64
    for part in (images.train, images.validation):
        # Label 0 is green: channel 1 shines; label 1 is red: channel 0 does.
        lit = torch.where(part.labels == 0, 1, 0)
        rows = torch.arange(len(part))
        assert (part.images[rows, lit] >= 100).all()
        assert (part.images[rows, 1 - lit] == 0).all()
    assert images.validation.labels.bincount().tolist() == [2, 2]
    assert images.provenance["images"] == {"train": 16, "validation": 4, "test": 4}
    assert images.provenance["split_seed"] == 1


def test_class_folders_without_test_split(tmp_path):
    for name in ("a", "b"):
        for index in range(20):
            write_image(tmp_path / "set" / name / f"{index}.png", index, mode="L")
    images = load_images(tmp_path / "set", validation=0.25, seed=0)
    # 40 images: a tenth for the test, then a quarter of the other 36.
    assert [len(part) for part in (images.train, images.validation, images.test)] == [27, 9, 4]
    assert images.image_shape == (1, 4, 4)
    assert "tenth" in images.provenance["test"]


def test_parquet_folder(tmp_path):
    """As the Hub lays sets out, with an image column and class labels of other names."""
    import io

    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageColumn

    def encoded(value):
        buffer = io.BytesIO()
        Image.new("L", (3, 2), value).save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": None}

    features = Features({"picture": ImageColumn(), "kind": ClassLabel(names=["low", "high"])})
    root = tmp_path / "set"
    root.mkdir()
    for split, count in (("train", 8), ("test", 2)):
        rows = {"picture": [encoded(i) for i in range(count)], "kind": [i % 2 for i in range(count)]}
        Dataset.from_dict(rows, features=features).to_parquet(root / f"{split}-00000-of-00001.parquet")
    images = load_images(root, validation=2, seed=0)
    assert images.class_names == ("low", "high")
    assert images.image_shape == (1, 2, 3)
    assert images.test.images[:, 0, 0, 0].tolist() == [0, 1]
    assert images.test.labels.tolist() == [0, 1]
    seen = torch.cat([images.train.images, images.validation.images])[:, 0, 0, 0]
    labels = torch.cat([images.train.labels, images.validation.labels])
    assert sorted(seen.tolist()) == list(range(8))
    assert torch.equal(seen.long() % 2, labels)


def test_parquet_with_text_labels(tmp_path):
    import io

    from datasets import Dataset, Features, Value
    from datasets import Image as ImageColumn

    def encoded(value):
        buffer = io.BytesIO()
        Image.new("L", (2, 2), value).save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": None}

    features = Features({"image": ImageColumn(), "label": Value("string")})
    root = tmp_path / "set"
    root.mkdir()
    for split, names in (("train", ["cat", "ant"] * 4), ("test", ["ant", "cat"])):
        rows = {"image": [encoded(i) for i in range(len(names))], "label": names}
        Dataset.from_dict(rows, features=features).to_parquet(root / f"{split}.parquet")
    images = load_images(root, validation=2)
    assert images.class_names == ("ant", "cat")
    assert images.test.labels.tolist() == [0, 1]


@pytest.fixture
def with_own(tmp_path):
    """A folder like that of the fixture ``folder``, made on demand: images per class and split."""

    def make(**counts):
        for split, count in counts.items():
            for label, name in enumerate(("green", "red")):
                for index in range(count):
                    write_image(
                        tmp_path / "own" / split / name / f"{index}.png", 100 * label + index, mode="L"
                    )
        return tmp_path / "own"

    return make


def test_own_validation_images_are_taken_as_they_are(with_own):
    folder = with_own(train=5, val=3, test=2)
    images = load_images(folder, validation=4, own_validation=True)
    assert [len(part) for part in (images.train, images.validation, images.test)] == [10, 6, 4]
    assert images.provenance["validation"] == "the set's own validation split"
    held = load_images(folder, validation=4)
    assert [len(part) for part in (held.train, held.validation, held.test)] == [6, 4, 4]
    assert "validation" not in held.provenance


def test_own_validation_images_are_halved_where_there_are_no_test_images(with_own):
    folder = with_own(train=5, validation=4)
    images = load_images(folder, own_validation=True)
    assert [len(part) for part in (images.train, images.validation, images.test)] == [10, 4, 4]
    assert images.validation.labels.bincount().tolist() == images.test.labels.bincount().tolist() == [2, 2]
    both = torch.cat([images.validation.images, images.test.images])[:, 0, 0, 0]
    assert sorted(both.tolist()) == [0, 1, 2, 3, 100, 101, 102, 103]
    assert images.provenance["test"] == "the other half"
    held = load_images(folder, validation=4)
    assert [len(part) for part in (held.train, held.validation, held.test)] == [6, 4, 8]


def test_own_validation_of_a_set_that_has_none_is_held_out(folder):
    images = load_images(folder, validation=4, own_validation=True)
    assert [len(part) for part in (images.train, images.validation, images.test)] == [16, 4, 4]


def test_resize_and_interpolation_are_in_the_format(folder):
    images = load_images(folder, validation=4, image_size=3, resize=4, interpolation="bicubic")
    assert images.image_shape == (3, 3, 3)
    assert images.format.preprocessing.resize == 4
    assert images.format.preprocessing.interpolation == "bicubic"
    assert images.provenance["resize"] == 4


def test_mnist5k():
    images = load_images("mnist5k", validation=500, seed=0)
    assert [len(part) for part in (images.train, images.validation, images.test)] == [3500, 500, 1000]
    # 500 of each digit in the whole set, so a tenth of each part.
    assert images.validation.labels.bincount().tolist() == [50] * 10
    assert images.test.labels.bincount().tolist() == [100] * 10
    assert images.image_shape == (1, 28, 28)
    assert images.num_classes == 10
    again = load_images("mnist5k", validation=500, seed=0)
    assert torch.equal(images.validation.images, again.validation.images)
    other = load_images("mnist5k", validation=500, seed=1)
    assert not torch.equal(images.validation.images, other.validation.images)
    assert torch.equal(images.test.images, other.test.images)


def test_statistics_are_those_of_the_training_images():
    images = load_images("mnist5k", validation=500, seed=0)
    pixels = images.train.images.double() / 255
    assert images.mean == pytest.approx((float(pixels.mean()),))
    assert images.std == pytest.approx((float(pixels.std(correction=0)),))
    normalised = images.train.normalised()
    assert float(normalised.mean()) == pytest.approx(0, abs=1e-4)
    assert float(normalised.std()) == pytest.approx(1, abs=1e-4)
    assert images.example_inputs(3).shape == (3, 1, 28, 28)


def test_mnist5k_in_another_size():
    images = load_images("mnist5k", validation=500, image_size=14)
    assert images.image_shape == (1, 14, 14)
    whole = load_images("mnist5k", validation=500)
    assert torch.equal(images.validation.labels, whole.validation.labels)
    # Halved, each pixel is near the mean of the four that it covers.
    means = torch.nn.functional.avg_pool2d(whole.validation.images.float(), 2)
    assert (images.validation.images.float() - means).abs().mean() < 8


def test_split_is_disjoint_complete_and_stratified():
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    held, rest = stratified_split(labels, 0.2, seed=5)
    assert sorted(torch.cat([held, rest]).tolist()) == list(range(100))
    assert labels[held].bincount().tolist() == [12, 6, 2]
    again, _ = stratified_split(labels, 20, seed=5)
    assert torch.equal(held, again)
    other, _ = stratified_split(labels, 20, seed=6)
    assert not torch.equal(held, other)


@pytest.mark.parametrize("count", [1, 7, 13, 99])
def test_split_hits_the_count(count):
    held, rest = stratified_split(torch.arange(100) % 3, count, seed=0)
    assert (len(held), len(rest)) == (count, 100 - count)


@pytest.mark.parametrize("held", [0.001, 100, 250])
def test_split_that_leaves_nothing(held):
    with pytest.raises(DataError, match="100"):
        stratified_split(torch.zeros(100, dtype=torch.int64), held, seed=0)


def test_normalise():
    images = torch.tensor([0, 255, 51], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 2, 1, 1)
    out = normalise(images, (0.5, 0.2), (0.5, 0.1))
    # (0 - 0.5) / 0.5, (1 - 0.5) / 0.5, (0.2 - 0.5) / 0.5; (0 - 0.2) / 0.1, 0.8 / 0.1, 0 / 0.1
    expected = torch.tensor([[-1, -2], [1, 8], [-0.6, 0]])
    torch.testing.assert_close(out[:, :, 0, 0], expected, atol=1e-6, rtol=0)


def test_batches_cover_the_split():
    split = load_images("mnist5k", validation=500).validation
    sizes = [len(labels) for _, labels in split.batches(200)]
    assert sizes == [200, 200, 100]
    assert torch.equal(torch.cat([labels for _, labels in split.batches(200)]), split.labels)


# --- bad input ---


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="cifar10"):
        load_images("cifar-10")


def test_unknown_normalisation():
    with pytest.raises(UnknownNameError, match="imagenet"):
        load_images("mnist5k", normalisation="imagnet")


def test_missing_folder(tmp_path):
    with pytest.raises(DataError, match="no folder"):
        load_images(tmp_path / "nothing")


def test_folder_without_images(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(DataError, match="neither parquet files nor images"):
        load_images(tmp_path)


def test_sizes_that_differ(folder):
    write_image(folder / "train" / "red" / "zz.png", (1, 1, 1), size=(5, 4))
    with pytest.raises(DataError, match="image_size"):
        load_images(folder, validation=4)


def test_resize(folder):
    write_image(folder / "train" / "red" / "zz.png", (100, 0, 0), size=(9, 5))
    images = load_images(folder, validation=4, image_size=6)
    assert images.image_shape == (3, 6, 6)
    assert len(images.train) == 17


def test_broken_image(folder):
    (folder / "train" / "red" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot be decoded"):
        load_images(folder, validation=4)


def test_images_without_labels(tmp_path):
    for index in range(4):
        write_image(tmp_path / "set" / f"{index}.png", (0, 0, 0))
    with pytest.raises(DataError, match="label column"):
        load_images(tmp_path / "set")


def test_parquet_without_images(tmp_path):
    from datasets import Dataset

    Dataset.from_dict({"x": [1, 2], "label": [0, 1]}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(DataError, match="no image column"):
        load_images(tmp_path)


def test_imagenet_statistics_need_three_channels():
    with pytest.raises(DataError, match="3 channels"):
        load_images("mnist5k", validation=500, normalisation="imagenet")


def test_interrupted_download(monkeypatch):
    import datasets

    def broken(*args, **kwargs):
        raise ConnectionError("connection reset by peer\nsecond line")

    monkeypatch.setattr(datasets, "load_dataset", broken)
    with pytest.raises(DataError, match=r"connection reset by peer.*repeat the same command") as caught:
        load_images("cifar10")
    assert "second line" not in str(caught.value)


def test_short_names_are_looked_up_on_the_hub(monkeypatch):
    import datasets

    asked = []

    def record(*args, **kwargs):
        asked.append(args)
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", record)
    for name in (*HUB_NAMES, "someone/pictures"):
        with pytest.raises(DataError, match="offline"):
            load_images(name)
    assert asked == [
        ("ylecun/mnist", None),
        ("uoft-cs/cifar10", None),
        ("uoft-cs/cifar100", None),
        ("ufldl-stanford/svhn", "cropped_digits"),
        ("zalando-datasets/fashion_mnist", None),
        ("zalando-datasets/fashion_mnist", None),  # by either spelling
        ("someone/pictures", None),
    ]


def test_no_such_set_on_the_hub(monkeypatch):
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    def missing(*args, **kwargs):
        raise DatasetNotFoundError("not there")

    monkeypatch.setattr(datasets, "load_dataset", missing)
    with pytest.raises(DataError, match="nobody/nothing"):
        load_images("nobody/nothing")


def test_a_set_with_a_memory_of_its_own(folder):
    """Splits do not share memory with one another, so that nothing written to one reaches the other."""
    images = load_images(folder, validation=4)
    images.train.images.zero_()
    assert images.validation.images.any()
    assert np.asarray(images.test.images).any()
