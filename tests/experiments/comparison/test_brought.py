"""A comparison that starts every method from the same trained weights."""

import dataclasses
import json

import pytest
import torch

from rotated_relu.core.errors import RunError, SlopeError, UnknownNameError
from rotated_relu.core.run_directory import read_json
from rotated_relu.experiments.comparison import compare, methods
from rotated_relu.experiments.comparison.run import Comparison
from rotated_relu.experiments.comparison.settings import Settings, Weights
from rotated_relu.experiments.comparison.start import base_settings
from rotated_relu.training import ModelConfig, build_model, finetune
from rotated_relu.training.config import DistillConfig
from rotated_relu.training.trained import write_tensors
from support.toy_engine import ToyEngine, exported_ms, install
from support.training_data import CONV, IMAGES

BASE = dataclasses.replace(
    CONV, model=ModelConfig("demo_resnet", rotated=False), epochs=2, distill=DistillConfig(0.5)
)
METHODS = ("budget", "group_norm", "depgraph")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "brought.safetensors"
    net = build_model(BASE, IMAGES)
    finetune(net, dataclasses.replace(BASE, distill=DistillConfig(), epochs=12), IMAGES)
    write_tensors(path, {name: value.contiguous() for name, value in net.state_dict().items()})
    return path, net.eval()


def settings(path, **changes):
    given = {
        "methods": METHODS, "levels": (0.3,), "finetuned_levels": (0.3,), "strengths": (0.1,), "keep": (0.7,),
        "latency_repeats": 0,
    }  # fmt: skip
    return Settings(BASE, Weights(str(path)), **{**given, **changes})


def comparison(path, chosen, say=lambda line: None):
    made = Comparison(chosen, path, say=say, device="cpu", progress="none")
    made.task.__dict__["images"] = IMAGES
    return made


@pytest.mark.slow
def test_every_method_has_the_same_epochs_from_the_same_weights(tmp_path, weights, monkeypatch):
    pytest.importorskip("torch_pruning")
    path, net = weights
    # 400 steps of a network as small as this take a minute.
    quick = dataclasses.replace(methods.METHODS["depgraph"], steps=8)
    monkeypatch.setitem(methods.METHODS, "depgraph", quick)
    taught = []
    real = compare_finetune()
    monkeypatch.setattr(
        "rotated_relu.experiments.comparison.fitting.finetune",
        lambda *args, **kwargs: taught.append((args[1].epochs, kwargs["teacher"])) or real(*args, **kwargs),
    )
    made = comparison(tmp_path, settings(path))
    for stage in (made.train, made.prune, made.finetune, made.time, made.test):
        stage()
    rows = {row["method"]: row for row in made.rows() if "finetuned_test" in row}
    assert set(rows) == set(METHODS)
    spent = {name: row["finetune_epochs"] for name, row in rows.items()}
    # what needs a training before it prunes has had one of the two epochs for it
    assert spent == {"budget": 1, "group_norm": 2, "depgraph": 1}
    trained = {path.parent.name for path in (tmp_path / "trainings").glob("*/weights.safetensors")}
    assert trained == {"budget-keep0.7-seed0", "depgraph-seed0"}
    # All learn from the network that was brought, which nothing has changed.
    for _, teacher in taught:
        assert all(
            torch.equal(a, b)
            for a, b in zip(teacher.state_dict().values(), net.state_dict().values(), strict=True)
        )
    assert made.trainings.reference()[0].keys() == {"validation", "test"}
    compare.write_results(made, "toy", "rotated-relu compare")
    check_results(tmp_path)


def test_a_budget_of_milliseconds_trains_towards_a_speed_up(tmp_path, weights, monkeypatch):
    toy = install(monkeypatch, ToyEngine(), tmp_path / "cache")
    told = []
    chosen = settings(weights[0], methods=("budget_latency",), speedups=(1.2,), engines=("toy",))
    made = comparison(tmp_path / "out", chosen, told.append)
    for stage in (made.train, made.prune, made.finetune):
        stage()
    (row,) = made.rows()
    assert (row["method"], row["level"], row["finetune_epochs"]) == ("budget_latency", 0.0, 1)
    assert any(
        "Rotated ReLU + budget of milliseconds (ours) as trained (1.2 times as fast)" in line for line in told
    )
    assert (tmp_path / "out" / "trainings" / "budget_latency-keep0.833333-seed0.latency.json").is_file()
    nets = made.trainings.plain(0), made.finetuned(next(iter(made.points)))
    plain, small = (exported_ms(net, made.task.example_inputs) for net in nets)
    assert plain / small >= 0.98 * 1.2  # the share is met within 2 %
    # It goes on with the table that it began with.
    started = toy.started
    again = comparison(tmp_path / "out", chosen)
    again.train()
    assert toy.started == started


def test_a_speed_up_that_cannot_be_had_is_refused_before_anything_is_trained(tmp_path, weights, monkeypatch):
    install(monkeypatch, ToyEngine(), tmp_path / "cache")
    chosen = settings(weights[0], methods=("budget",), speedups=(1.1, 50.0), engines=("toy",))
    made = comparison(tmp_path / "out", chosen)
    with pytest.raises(SlopeError, match="a speed-up of 50: the fastest that can be reached"):
        made.train()
    assert not list((tmp_path / "out" / "trainings").glob("*/*"))
    unknown = dataclasses.replace(chosen, engines=("toys",))
    with pytest.raises(UnknownNameError, match="engine"):
        comparison(tmp_path / "other", unknown)


def compare_finetune():
    from rotated_relu.training import finetune

    return finetune


def check_results(path):
    data = read_json(path / "compare.json")
    assert data["brought"] is True
    entries = data["equal_training"]["test"]
    assert {entry["method"] for entry in entries} == set(METHODS)
    assert all(entry["target"] == 0.3 for entry in entries)
    assert dict(data["made"])["epochs"].startswith("2 for every method in all")
    page = (path / "compare.md").read_text()
    assert "## After equal training, test images" in page
    assert "rotated-relu compare" in page
    assert "![Accuracy after equal training](compare-equal-test-macs.svg)" in page
    assert "before fine-tuning" not in page  # those validation images may have been trained on
    assert (path / "compare-equal-test-macs.svg").read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("told", "advice"),
    [({}, "were not given: --mean, --std"), ({"mean": [0.4], "std": [0.2]}, "those of the weights")],
)
def test_a_network_that_guesses_is_refused_before_anything_is_trained(tmp_path, told, advice):
    path = tmp_path / "untrained.safetensors"
    net = build_model(BASE, IMAGES)
    with torch.no_grad():
        net.fc.weight.zero_()  # every picture is of one class: a third of them is
    write_tensors(path, {name: value.contiguous() for name, value in net.state_dict().items()})
    chosen = settings(path, methods=("budget",))
    kind = "given" if told else "dataset"
    data = dataclasses.replace(chosen.base.data, normalisation=kind, **told)
    made = comparison(
        tmp_path / "out", dataclasses.replace(chosen, base=dataclasses.replace(chosen.base, data=data))
    )
    with pytest.raises(RunError, match=f"gets 33.3 % right, and naming one class gets 33.3 %.*{advice}"):
        made.train()
    assert not list((tmp_path / "out" / "trainings").iterdir())


def test_other_weights_are_another_comparison(tmp_path, weights):
    chosen = settings(weights[0], methods=("budget",))
    comparison(tmp_path, chosen)
    comparison(tmp_path, chosen)
    with pytest.raises(RunError, match="weights"):
        comparison(tmp_path, dataclasses.replace(chosen, weights=Weights("other.pt")))
    assert json.loads((tmp_path / "settings.json").read_text())["weights"]["place"] == str(weights[0])


def test_settings_without_a_recipe_are_those_of_shrink(tmp_path):
    given = {"model.name": "demo_resnet", "data.name": "mnist5k", "epochs": 7, "distill.weight": 0.3}
    base, place = base_settings(None, "a.pt", given)
    assert (base.model.name, base.data.name, base.epochs, base.distill.weight) == (
        "demo_resnet",
        "mnist5k",
        7,
        0.3,
    )
    assert (base.optimizer.lr, base.schedule.warmup, base.data.flip) == (0.02, 0.02, False)
    assert place == "a.pt"
    with pytest.raises(RunError, match="give a recipe"):
        base_settings(None, None, {})


def test_a_recipe_with_weights_keeps_its_settings():
    base, place = base_settings("demo", "a.pt", {"epochs": 3})
    assert (base.data.name, base.batch_size, base.epochs, place) == ("mnist5k", 64, 3, "a.pt")
