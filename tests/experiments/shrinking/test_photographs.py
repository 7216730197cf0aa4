"""Photographs of many sizes, and a network whose weights know which one they want."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from rotated_relu.core.errors import RunError
from rotated_relu.core.run_directory import Run, read_json
from rotated_relu.experiments.run_networks import RunNetworks
from rotated_relu.experiments.shrinking.original import refuse_guessing
from rotated_relu.experiments.shrinking.pipeline import shrink_run
from rotated_relu.experiments.shrinking.settings import (
    Shrinking,
    augmentation,
    continued_config,
    training_config,
)
from rotated_relu.training import load_data
from rotated_relu.training.brought import known_preprocessing, parse

MODEL = "timm/test_resnet"


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Two classes, reddish and bluish, of 20 training and 8 other pictures; no two sizes alike by intent."""
    root, random = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for part, count in (("train", 20), ("val", 8)):
        for name, channel in (("red", 0), ("blue", 2)):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                height, width = random.integers(40, 90, 2)
                pixels = random.integers(0, 60, (height, width, 3))
                pixels[..., channel] += 180
                Image.fromarray(pixels.astype("uint8")).save(root / part / name / f"{index:02}.jpg")
    return root


@pytest.fixture(scope="module")
def trained(photographs, tmp_path_factory):
    """timm's smallest ResNet, and a few steps on them."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    net = timm.create_model("test_resnet", num_classes=2)
    weights = tmp_path_factory.mktemp("weights") / "net.pt"
    asked = Shrinking(
        MODEL,
        str(weights),
        str(photographs),
        image_size=64,
        epochs=2,
        batch_size=8,
        precision="32",
        keep=0.7,
    )
    split = load_data(training_config(asked, known_preprocessing(parse(MODEL), str(weights)))).train
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(4):
        for indices in torch.randperm(len(split)).split(8):
            optimizer.zero_grad()
            scores = net(split.normalised(indices))
            torch.nn.functional.cross_entropy(scores, split.labels[indices]).backward()
            optimizer.step()
    torch.save(net.state_dict(), weights)
    return asked


def test_they_get_the_size_of_the_weights_and_sections_are_cut(trained, tmp_path):
    summary = shrink_run(dataclasses.replace(trained, random_resized_crop=True), tmp_path / "run")
    # timm's own configuration of test_resnet: 160 pixels of floor(160 / 0.95) = 168; 64 of 67.2 are as much.
    config, provenance = (read_json(tmp_path / "run" / f"{name}.json") for name in ("config", "provenance"))
    assert (config["data"]["image_size"], config["data"]["resize"]) == (64, 67)
    assert config["data"]["random_resized_crop"] is True
    assert provenance["storage"] == "disk"
    assert (provenance["input"]["image_shape"], provenance["input"]["resize"]) == ([3, 64, 64], 67)
    assert summary["original_test_accuracy"] == 100
    assert summary["macs_kept"] <= 0.7
    former = RunNetworks(Run(tmp_path / "run")).config
    further = Shrinking(source=str(tmp_path / "run"), epochs=2)
    assert continued_config(further, former).data.random_resized_crop
    without = dataclasses.replace(further, random_resized_crop=False)
    assert not continued_config(without, former).data.random_resized_crop


def test_sections_need_to_know_what_is_tested_on(wanted):
    with pytest.raises(RunError, match="give --image-size and --resize"):
        training_config(wanted(random_resized_crop=True, image_size=28))
    former = training_config(wanted())
    with pytest.raises(RunError, match="give --image-size and --resize"):
        continued_config(Shrinking(source="run", random_resized_crop=True), former)


def test_a_section_is_shifted_already(wanted):
    assert augmentation(wanted(), (3, 32, 32))["data.crop_padding"] == 4
    assert augmentation(wanted(random_resized_crop=True), (3, 32, 32))["data.crop_padding"] == 0


@pytest.mark.parametrize(
    ("counts", "accepted", "refused"),
    [
        # Naming one class gets 50 %, 3 standard errors are 3 * sqrt(0.25 / 8) = 53 %: half way to 100 counts, 75 %.
        ((4, 4), 87.5, 75.0),
        # 10 %, 3 * sqrt(0.09 / 500) = 4.02 %.
        ((50,) * 10, 14.2, 14.0),
        # 1 of 1 is right or not.
        ((1,), 100.0, 0.0),
    ],
)
def test_what_counts_as_guessing(counts, accepted, refused):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    images = SimpleNamespace(validation=SimpleNamespace(labels=labels), num_classes=len(counts))
    refuse_guessing(accepted, images, len(counts), told=True)
    with pytest.raises(RunError, match="mean, std and size are those of the weights"):
        refuse_guessing(refused, images, len(counts), told=True)
