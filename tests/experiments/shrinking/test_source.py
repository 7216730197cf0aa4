"""Shrinking what came out of a run: what is the original then, and whom it learns from."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from rotated_relu.core.errors import RunError
from rotated_relu.core.run_directory import Run, read_json
from rotated_relu.experiments.run_networks import RunNetworks
from rotated_relu.experiments.shrinking.original import write_original
from rotated_relu.experiments.shrinking.pipeline import shrink_run
from rotated_relu.experiments.shrinking.settings import Shrinking
from rotated_relu.experiments.shrinking.trainings import teacher_of
from rotated_relu.training.brought import trust


@pytest.fixture(scope="module")
def runs(wanted, tmp_path_factory):
    """Small, and smaller from there."""
    folder = tmp_path_factory.mktemp("twice")
    first = shrink_run(wanted(keep=0.6, epochs=1), folder / "small")
    settings = Shrinking(wanted().model, source=str(folder / "small"), keep=0.6, epochs=1, precision="32")
    return folder, first, settings, shrink_run(settings, folder / "smaller")


def networks(path, model):
    trust.trust(model)
    return RunNetworks(Run(path))


def test_the_original_is_what_came_out_of_the_run(runs):
    folder, first, settings, second = runs
    small, smaller = (networks(folder / name, settings.model) for name in ("small", "smaller"))
    inputs = small.example_inputs(4)
    with torch.no_grad():
        came_out, went_in = (
            net(inputs)["logits"] for net in (small.network("compact"), smaller.network("trained"))
        )
    assert torch.equal(came_out, went_in)
    assert second["original_test_accuracy"] == first["shrunk_test_accuracy"]
    assert second["macs_kept"] <= 0.6
    assert second["macs_kept_of_first_original"] == pytest.approx(first["macs_kept"] * second["macs_kept"])


def test_the_small_network_can_be_used(runs):
    folder, _, settings, _ = runs
    smaller = networks(folder / "smaller", settings.model)
    assert smaller.network("compact")(smaller.example_inputs(2))["logits"].shape == (2, 10)
    assert {"compact.onnx", "report.html", "classify.py"} <= {p.name for p in (folder / "smaller").iterdir()}


def test_it_learns_from_the_first_original(runs):
    folder, _, settings, _ = runs
    smaller = networks(folder / "smaller", settings.model)
    teacher = teacher_of(smaller, smaller.network("trained")).state_dict()
    first = load_file(folder / "small" / "weights.safetensors")
    assert all(torch.equal(teacher[name], value) for name, value in first.items())


def test_without_the_first_original_it_learns_from_itself_and_says_so(runs, tmp_path):
    import shutil

    folder, _, settings, _ = runs
    shutil.copytree(folder / "small", tmp_path / "small")
    (tmp_path / "small" / "weights.safetensors").unlink()
    trust.trust(settings.model)
    said = []
    run = Run.create(tmp_path / "out")
    write_original(dataclasses.replace(settings, source=str(tmp_path / "small")), run, said.append)
    assert "it learns from itself as it is now" in said
    loaded = RunNetworks(run)
    original = loaded.network("trained")
    assert teacher_of(loaded, original) is original


@pytest.mark.parametrize("name", ["weights", "teacher"])
def test_what_it_would_learn_from_is_read_before_there_is_a_run(runs, tmp_path, name):
    import shutil

    folder, _, settings, _ = runs
    shutil.copytree(folder / "small", tmp_path / "small")
    (tmp_path / "small" / f"{name}.safetensors").write_bytes(b"")
    trust.trust(settings.model)
    with pytest.raises(RunError, match=rf"small/{name}\.safetensors does not hold the weights"):
        shrink_run(dataclasses.replace(settings, source=str(tmp_path / "small")), tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()


def test_code_of_the_run_has_to_be_named_again(runs, tmp_path):
    settings = runs[2]
    with pytest.raises(RunError, match="that code would be executed"):
        shrink_run(dataclasses.replace(settings, model=""), tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()
    with pytest.raises(RunError, match="not resnet20"):
        shrink_run(dataclasses.replace(settings, model="resnet20"), tmp_path / "out")


def test_images_and_their_split_are_those_of_the_run(runs):
    folder = runs[0]
    small, smaller = (read_json(folder / name / "config.json") for name in ("small", "smaller"))
    assert small["data"] == smaller["data"]
    assert small["model"] == smaller["model"]
