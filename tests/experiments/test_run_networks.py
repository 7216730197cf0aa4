"""A run's networks come from its files: no image is read where none is needed."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from rotated_relu.core.errors import DataError, RunError
from rotated_relu.core.run_directory import read_json, write_json
from rotated_relu.experiments.report.collect import report_run
from rotated_relu.experiments.run_networks import open_run
from rotated_relu.experiments.stages.evaluate import evaluate_run
from rotated_relu.experiments.stages.export import export_run
from rotated_relu.experiments.stages.measure import measure_run
from rotated_relu.experiments.stages.prune import prune_run
from rotated_relu.training import Config, fit
from rotated_relu.training.data.format import ImageFormat


def write_images(folder):
    """Twenty 5 x 4 images of each of two classes, one dark, one light."""
    noise = np.random.default_rng(0)
    for label, grey in (("day", 200), ("night", 50)):
        (folder / label).mkdir(parents=True)
        for index in range(20):
            pixels = noise.integers(grey - 40, grey + 40, (5, 4, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{index}.png")


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """A pruned run whose images are gone; no test changes it."""
    folder = tmp_path_factory.mktemp("run")
    write_images(folder / "images")
    config = {
        "model": {"name": "fcnn", "options": {"hidden": 20}},
        "data": {"name": str(folder / "images"), "flip": False, "crop_padding": 0},
        "epochs": 1,
        "batch_size": 16,
        "precision": "32",
    }
    fit(Config.from_dict(config), folder / "run", progress="none", device="cpu")
    loaded = open_run(str(folder / "run"))
    prune_run(loaded, threshold=0.9, round_to=1)
    shutil.rmtree(folder / "images")
    return folder / "run"


@pytest.fixture
def run(pruned, tmp_path):
    shutil.copytree(pruned, tmp_path / "run")
    return open_run(str(tmp_path / "run"))


def test_the_format_of_the_images_is_recorded(run):
    found = run.image_format
    assert found.image_shape == (3, 5, 4)
    assert found.class_names == ("day", "night")
    assert found.kind == "RGB"
    recorded = read_json(run.run.file("provenance"))
    assert recorded["normalisation"]["mean"] == list(found.mean)
    assert recorded["normalisation"]["std"] == list(found.std)


def test_without_images_a_run_is_exported_measured_and_reported(run):
    export_run(run, "compact")
    measure_run(run, batch_sizes=[2], engines=["torch"], repeats=1)
    page = report_run(run).read_text()
    assert run.run.has("onnx")
    assert read_json(run.run.file("measure"))["networks"].keys() == {"rotated", "compact"}
    assert "5 x 4, RGB" in page
    with pytest.raises(DataError):
        evaluate_run(run, "compact", "validation")


def test_reading_the_trained_weights_neither_trains_nor_reads_images(run, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError

    monkeypatch.setattr("rotated_relu.training.engine.loop.Loop.train", refuse)
    monkeypatch.setattr("rotated_relu.training.images.load_images", refuse)
    net = run.network("trained")
    assert not net.training
    assert net(run.example_inputs(3)).shape == (3, 2)


def test_a_run_without_weights_says_what_writes_them(run):
    run.run.file("weights").unlink()
    with pytest.raises(RunError, match="rotated-relu train --out"):
        run.network("trained")


def test_a_run_of_an_earlier_version_reads_its_images_once(run, monkeypatch):
    known = run.image_format
    recorded = read_json(run.run.file("provenance"))
    del recorded["input"]
    write_json(run.run.file("provenance"), recorded)
    calls = []

    class Images:
        provenance = recorded
        format = known

    def load(*arguments, **_):
        calls.append(arguments)
        return Images

    monkeypatch.setattr("rotated_relu.training.images.load_images", load)
    path = str(run.run.path)
    for _ in range(2):
        assert open_run(path).image_format == known
    assert len(calls) == 1


@pytest.mark.parametrize(
    "damage", [{"image_shape": [3, 5]}, {"mean": [0.5]}, {"class_names": 7}, {"image_shape": [3, 0, 4]}]
)
def test_a_damaged_record_is_named(run, damage):
    path = run.run.file("provenance")
    recorded = json.loads(path.read_text())
    recorded["input"] |= damage
    write_json(path, recorded)
    with pytest.raises(RunError, match=r"provenance\.json is damaged"):
        _ = run.image_format


def test_noise_is_pixels_normalised():
    """Pixels 0..255 over 255, minus 0.5, over 0.25: from -2 to 2; the second channel, over 0.5, from -1 to 1."""
    images = ImageFormat((2, 30, 40), ("a",), (0.5, 0.5), (0.25, 0.5))
    made = images.noise(4)
    assert made.shape == (4, 2, 30, 40)
    assert made.dtype == torch.float32
    for channel, limit in ((0, 2), (1, 1)):
        assert made[:, channel].min() == pytest.approx(-limit, abs=0.02 * limit)
        assert made[:, channel].max() == pytest.approx(limit, abs=0.02 * limit)
    assert torch.equal(made, images.noise(4))


def test_the_format_survives_json():
    images = ImageFormat((1, 28, 28), tuple("0123456789"), (0.1307,), (0.3081,))
    assert ImageFormat.from_dict(json.loads(json.dumps(images.to_dict()))) == images
