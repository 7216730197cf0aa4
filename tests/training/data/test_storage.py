"""Sets that do not fit into memory: decoded when needed, or streamed; on a tiny folder of pictures."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from rotated_relu.core.errors import DataError
from rotated_relu.training import Config, ConfigError, DataConfig, ModelConfig, evaluate_model, fit
from rotated_relu.training.data import storage as stored
from rotated_relu.training.data.decoding import random_section
from rotated_relu.training.data.load import load_images
from rotated_relu.training.data.storage import StoredImages, StreamedSplit
from rotated_relu.training.engine.batches import BatchShard, TrainBatches
from rotated_relu.training.engine.seeds import generator_for


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of 20 training and 4 test pictures of 8 x 12; each has a grey level of its own."""
    root = tmp_path_factory.mktemp("pictures")
    level = 0
    for part, count in (("train", 20), ("test", 4)):
        for name in ("dark", "light"):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                level += 5
                colour = (level, 0 if name == "dark" else 200, 7)
                Image.new("RGB", (12, 8), colour).save(root / part / name / f"{index:02}.png")
    return root


def data_for(folder, **options):
    options = {"validation": 8, "image_size": 8, "workers": 0, "flip": False, "crop_padding": 0, **options}
    return DataConfig(str(folder), **options)


def loaded(folder, storage, **options):
    return load_images(folder, 8, image_size=8, storage=storage, **options)


def config_for(folder, **options):
    return Config(
        model=ModelConfig("fcnn", options={"hidden": 4}),
        data=data_for(folder, **options),
        epochs=1,
        batch_size=8,
        precision="32",
        fast=False,
    )


def seen(batches, epoch, start=0):
    """Every image's own level and its label, in order."""
    pieces = [piece for step in batches.epoch(epoch, start) for piece in step]
    return [
        (int(image[0, 4, 4]), int(label))
        for piece in pieces
        for image, label in zip(piece.images, piece.labels, strict=True)
    ]


def test_images_on_disk_are_those_in_memory(folder):
    memory, disk = (loaded(folder, storage, normalisation="none") for storage in ("memory", "disk"))
    assert isinstance(memory.train.images, torch.Tensor)
    assert isinstance(disk.train.images, StoredImages)
    assert disk.train.images.shape == memory.train.images.shape == (32, 3, 8, 8)
    for part in ("train", "validation", "test"):
        one, other = getattr(memory, part), getattr(disk, part)
        assert torch.equal(one.images, other.images[:])
        assert torch.equal(one.labels, other.labels)
    assert torch.equal(memory.example_inputs(3), disk.example_inputs(3))
    assert memory.provenance["storage"] == "memory"
    assert disk.provenance["storage"] == "disk"


def test_what_does_not_fit_stays_on_disk(folder):
    """48 pictures of 8 * 8 * 3 bytes are 9,216 bytes."""
    for limit, kind in ((9216, torch.Tensor), (9215, StoredImages)):
        images = loaded(folder, "auto", memory_limit=limit / 2**30)
        assert isinstance(images.train.images, kind)


def test_nothing_is_decoded_before_it_is_needed(folder, monkeypatch):
    images = loaded(folder, "disk", normalisation="imagenet")
    decoded, original = [], stored.pixels

    def count(*arguments):
        decoded.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(stored, "pixels", count)
    batches = TrainBatches(images.train, config_for(folder))
    steps = batches.epoch(0)
    assert len(decoded) == 0
    next(steps)
    assert len(decoded) == 8


def test_an_epoch_on_disk_is_that_in_memory(folder):
    config = config_for(folder)
    memory, disk = (TrainBatches(loaded(folder, where).train, config) for where in ("memory", "disk"))
    assert len(memory) == len(disk) == 4
    for epoch in (0, 1):
        assert seen(disk, epoch) == seen(memory, epoch)
    assert seen(disk, 0) != seen(disk, 1)
    assert seen(disk, 1, start=2) == seen(disk, 1)[16:]


def test_workers_change_nothing(folder):
    images = loaded(folder, "disk", cut=True)
    varied = [
        TrainBatches(images.train, config_for(folder, workers=workers, random_resized_crop=True, flip=True))
        for workers in (0, 2)
    ]
    for (one,), (other,) in zip(*(batches.epoch(1) for batches in varied), strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.draws, other.draws)


def test_a_stream_holds_back_its_first_images(folder):
    images = loaded(folder, "stream", length=32)
    assert isinstance(images.train, StreamedSplit)
    assert images.validation.images[:, 0, 0, 0].tolist() == [5 * k for k in range(1, 9)]
    assert (len(images.train), images.image_shape, images.num_classes) == (32, (3, 8, 8), 2)
    batches = TrainBatches(images.train, config_for(folder, storage="stream", length=32, shuffle_buffer=16))
    levels = [level for level, _ in seen(batches, 0)]
    assert sorted(levels) == [5 * k for k in range(9, 41)]
    assert levels != sorted(levels)


def test_a_stream_can_be_entered_anywhere_and_divided(folder):
    images = loaded(folder, "stream", length=32)
    config = config_for(folder, storage="stream", length=32, shuffle_buffer=16)
    whole = seen(TrainBatches(images.train, config), 3)
    assert seen(TrainBatches(images.train, config), 3, start=2) == whole[16:]
    assert seen(TrainBatches(images.train, config), 4) != whole
    halves = [seen(TrainBatches(images.train, config, BatchShard(rank, 2)), 3) for rank in range(2)]
    for step in range(4):
        parts = [half[4 * step : 4 * step + 4] for half in halves]
        assert parts[0] + parts[1] == whole[8 * step : 8 * step + 8]


def test_a_stream_that_ends_early(folder):
    images = loaded(folder, "stream", length=60)
    batches = TrainBatches(images.train, config_for(folder, storage="stream", length=60))
    with pytest.raises(DataError, match=r"ended within step 5 of 7; .*data.length"):
        seen(batches, 0)


@pytest.mark.parametrize("storage", ["disk", "stream"])
def test_training_and_evaluation(tmp_path, folder, storage):
    """Classes differ in their green: learnt in a few steps. The run on disk is that in memory, bit for bit."""
    length = 32 if storage == "stream" else None
    config = dataclasses.replace(config_for(folder, storage=storage, length=length), epochs=2)
    fitted = fit(config, tmp_path / storage, progress="none", device="cpu")
    assert len(fitted.history) == 2
    from rotated_relu.training import load_data

    assert 0 <= evaluate_model(fitted.net, load_data(config).test) <= 100
    if storage == "disk":
        same = dataclasses.replace(config, data=dataclasses.replace(config.data, storage="memory"))
        other = fit(same, tmp_path / "memory", progress="none", device="cpu")
        for name, value in fitted.net.state_dict().items():
            assert torch.equal(value, other.net.state_dict()[name])


def test_beside_sections_the_middle_is_seen_and_that_is_recorded(tmp_path):
    """224 of 256 is 7 of 8: of 8 x 16 pixels, whose shorter side has 8, the 7 x 7 from row 0 and column 4 (4.5)."""
    columns = np.zeros((8, 16, 3), np.uint8)
    columns[..., 0] = np.arange(16)
    for part, name in ((part, name) for part in ("train", "test") for name in ("one", "other")):
        (tmp_path / part / name).mkdir(parents=True)
        for index in range(4):
            Image.fromarray(columns).save(tmp_path / part / name / f"{index}.png")
    images = load_images(tmp_path, 2, image_size=7, cut=True)
    assert images.validation.images[:][0, 0, 0].tolist() == [4, 5, 6, 7, 8, 9, 10]
    assert (images.format.resize, images.provenance["resize"]) == (8, 8)
    whole = load_images(tmp_path, 2, image_size=7)
    assert (whole.format.resize, whole.provenance.get("resize")) == (None, None)


def test_no_sections_of_images_that_have_no_files():
    with pytest.raises(DataError, match="which has no files; leave random sections out"):
        load_images("mnist5k", image_size=28, cut=True)


def test_sections_lie_within_the_image_and_vary():
    sections = [random_section(generator_for("section", 0, 0, index))((100, 60)) for index in range(200)]
    for left, top, right, bottom in sections:
        assert -1e-9 <= left < right <= 100 + 1e-9
        assert -1e-9 <= top < bottom <= 60 + 1e-9
    shares = np.array([(r - left) * (b - top) / 6000 for left, top, r, b in sections])
    assert shares.min() < 0.2
    assert shares.max() > 0.7


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"storage": "stream", "image_size": None}, "its images may differ in size"),
        ({"storage": "stream", "validation": 0.1}, "a count for a stream"),
        ({"length": 5}, "left out unless data.storage is 'stream'"),
        ({"storage": "memory", "random_resized_crop": True}, "decodes each image anew"),
        ({"random_resized_crop": True, "image_size": None}, "random_resized_crop"),
        ({"workers": -1}, "0 or more"),
        ({"memory_limit": 0.0}, "above 0"),
    ],
)
def test_settings_that_cannot_work(folder, options, words):
    with pytest.raises(ConfigError, match=words):
        data_for(folder, **options)
