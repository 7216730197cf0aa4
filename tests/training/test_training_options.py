"""Options of a training run: each by itself where it has an answer by hand, and all together."""

import csv
import dataclasses
import functools
import os

import pytest
import torch
from torch import nn

from rotated_relu.nn.slopes import slopes
from rotated_relu.training import LogConfig, ModelConfig, OptimizerConfig, ScheduleConfig, build_model, fit
from rotated_relu.training.engine.optimizers import Average
from rotated_relu.training.profile import profile
from support.command_line import done
from support.training_data import CONFIG, CONV, IMAGES


def train(path, config):
    return fit(config, path, images=IMAGES, progress="none", device="cpu")


def test_parts_of_a_batch_sum_to_the_whole(tmp_path):
    """Without batch norm it makes no difference into how many parts a batch is divided."""
    config = dataclasses.replace(CONFIG, precision="64", batch_size=24)
    one = train(tmp_path / "one", config).net
    four = train(tmp_path / "four", dataclasses.replace(config, accumulate=4)).net
    for name, value in one.state_dict().items():
        torch.testing.assert_close(four.state_dict()[name], value, rtol=1e-6, atol=1e-6)


def test_average_by_hand():
    """Decay 0.5 comes down from above: (1 + n) / (10 + n) is 0.1, 2/11, 3/12 for n = 0, 1, 2."""
    net = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        net.weight.fill_(1.0)
    average = Average(net, 0.5)
    expected = 1.0
    for number, decay in enumerate((0.1, 2 / 11, 0.25)):
        with torch.no_grad():
            net.weight.add_(1)
        average.update(number)
        expected = decay * expected + (1 - decay) * (number + 2)
    assert float(average.values["weight"]) == pytest.approx(expected)
    with average.applied():
        assert net.weight.item() == pytest.approx(expected)
    assert net.weight.item() == 4.0


def test_average_is_what_is_validated_and_saved(tmp_path):
    """The training itself is the same."""
    plain = train(tmp_path / "plain", CONFIG)
    averaged = train(tmp_path / "averaged", dataclasses.replace(CONFIG, ema=0.999))
    assert plain.history[0]["train_loss"] == averaged.history[0]["train_loss"]
    assert plain.history[0]["validation_loss"] != averaged.history[0]["validation_loss"]
    assert not torch.equal(plain.net.fc1.weight, averaged.net.fc1.weight)


def test_average_holds_batch_statistics():
    net = nn.BatchNorm1d(2)
    average = Average(net, 0.9)
    assert set(average.values) == {"weight", "bias", "running_mean", "running_var"}


@pytest.mark.parametrize("precision", ["bf16", "fp16", "32", "64"])
def test_precisions_train(tmp_path, precision):
    history = train(tmp_path, dataclasses.replace(CONFIG, precision=precision, epochs=6)).history
    assert history[-1]["train_loss"] < 0.7 * history[0]["train_loss"]


def test_the_penalty_does_not_depend_on_the_loss_scale(tmp_path, monkeypatch):
    """fp16 scales the loss, here by 256; the pull on the slopes is the same as in float32: one step of 0.1 * 2."""
    base = dataclasses.replace(
        CONFIG,
        epochs=1,
        batch_size=96,
        precision="fp16",
        optimizer=OptimizerConfig(lr=0.1, momentum=0.0, weight_decay=0.0),
        schedule=ScheduleConfig("constant"),
    )
    # At the usual first scale, 65536, the one step would overflow and be left out.
    monkeypatch.setattr(torch.amp, "GradScaler", functools.partial(torch.amp.GradScaler, init_scale=256.0))
    start = build_model(base, IMAGES).act1.slope.detach()
    plain = train(tmp_path / "plain", base).net.act1.slope.detach()
    pulled = train(tmp_path / "pulled", dataclasses.replace(base, slope_l1=2.0)).net.act1.slope.detach()
    assert not torch.equal(plain, start)
    torch.testing.assert_close(pulled, plain - 0.2 * start.sign(), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_all_options_together(tmp_path):
    config = dataclasses.replace(
        CONV,
        precision="bf16",
        channels_last=True,
        compile=True,
        fast=True,
        accumulate=2,
        batch_size=24,
        ema=0.9,
        slope_l1=1e-3,
        penalty_form="proximal",
        epochs=2,
        label_smoothing=0.1,
    )
    fitted = train(tmp_path, config)
    assert fitted.history[1]["train_loss"] < fitted.history[0]["train_loss"]
    # The names are those of the plain network, whatever form and wrapper it was trained in.
    assert fitted.net.state_dict().keys() == build_model(config, IMAGES).state_dict().keys()
    again = train(tmp_path, config)
    assert torch.equal(next(iter(slopes(again.net).values())), next(iter(slopes(fitted.net).values())))


def test_the_fast_form_computes_the_same(tmp_path):
    """20 steps in float64."""
    config = dataclasses.replace(CONV, precision="64", epochs=4, slope_l1=1e-3, batch_size=19)
    plain = train(tmp_path / "plain", config).net
    fast = train(tmp_path / "fast", dataclasses.replace(config, fast=True)).net
    assert type(fast.layer1[0].act1) is type(plain.layer1[0].act1)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(fast.state_dict()[name], value, rtol=1e-6, atol=1e-6)


def test_a_network_that_cannot_be_captured_is_trained_as_it_is(tmp_path, monkeypatch):
    from rotated_relu.core.errors import CaptureError
    from rotated_relu.training import fit as module

    def refuse(net, example):
        raise CaptureError("no")

    monkeypatch.setitem(module.__globals__, "fast_training", refuse)
    assert len(train(tmp_path, dataclasses.replace(CONFIG, fast=True, epochs=1)).history) == 1


@pytest.mark.parametrize("rotated", [True, False])
def test_profile_adds_up(rotated):
    config = dataclasses.replace(
        CONFIG, model=ModelConfig("fcnn", rotated), slope_l1=1e-3 if rotated else 0.0
    )
    found = profile(config, IMAGES, "cpu", warm_up=1, steps=8)
    assert list(found["phases"]) == ["data", "forward", "backward", "optimizer", "penalty", "other"]
    shares = [part["share"] for part in found["phases"].values()]
    assert sum(shares) == pytest.approx(1)
    assert (found["phases"]["penalty"]["milliseconds"] > 0) == rotated
    total = sum(part["milliseconds"] for part in found["phases"].values())
    assert found["milliseconds_per_step"] == pytest.approx(total)
    assert found["images_per_second"] == pytest.approx(16 / total * 1000)


def test_weights_and_biases_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = dataclasses.replace(CONFIG, epochs=2, log=LogConfig(tensorboard=False, wandb="test"))
    train(tmp_path / "run", config)
    assert not (tmp_path / "run" / "tb").exists()
    written = list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(written) == 1
    content = written[0].read_bytes()
    assert b"validation_accuracy" in content
    assert b"slopes/act1.slope" in content


def test_weights_and_biases_is_asked_for_before_training(tmp_path, monkeypatch):
    import sys

    from rotated_relu.core.errors import MissingPackageError

    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        MissingPackageError, match=r"wandb is not installed: pip install 'rotated-relu\[wandb\]'"
    ):
        train(tmp_path, dataclasses.replace(CONFIG, log=LogConfig(wandb="test")))
    assert not (tmp_path / "checkpoints").exists()


def test_seconds_are_apart_from_the_metrics(tmp_path):
    train(tmp_path, CONFIG)
    with (tmp_path / "timings.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [row["epoch"] for row in found] == ["0", "1", "2"]
    assert all(float(row["seconds"]) >= 0 for row in found)
    assert "seconds" not in (tmp_path / "metrics.csv").read_text()
    assert os.listdir(tmp_path / "checkpoints") != []


@pytest.mark.slow
def test_profile_on_the_command_line(tmp_path, capsys):
    done("train", "demo", "--no-fast", "--profile", "--device", "cpu", "--out", tmp_path / "run")
    shown = capsys.readouterr().out
    assert all(phase in shown for phase in ("data", "forward", "backward", "optimizer", "penalty", "other"))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["profile.json"]
