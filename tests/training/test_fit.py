"""Fit, resume, divergence, Ctrl-C and fine-tuning, on a few hundred synthetic images."""

import csv
import dataclasses
import errno
import os
import signal
import warnings

import pytest
import torch
from torch import nn

from rotated_relu.core.errors import CheckpointWarning, DivergedError, RunError
from rotated_relu.nn.models import ChannelPadShortcut
from rotated_relu.nn.slopes import slopes
from rotated_relu.training import (
    BudgetConfig,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    build_model,
    evaluate_model,
    finetune,
    fit,
)
from rotated_relu.training.engine.batches import MicroBatch
from rotated_relu.training.engine.step import Stepper
from support.training_data import CONFIG, CONV, IMAGES, made_images


def rows(path):
    with open(path / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def state(net):
    return {key: value.clone() for key, value in net.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_run_directory_is_complete(tmp_path):
    from safetensors.torch import load_file

    fitted = fit(CONFIG, tmp_path, images=IMAGES, progress="none", device="cpu")
    found = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "metrics.csv", "slopes.safetensors", "weights.safetensors", "tb"} <= found
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".part")]
    assert [row["epoch"] for row in rows(tmp_path)] == ["0", "1", "2"]
    assert set(rows(tmp_path)[0]) >= {
        "train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "lr", "penalty",
        "alive_at_0.1",
    }  # fmt: skip
    kept = load_file(tmp_path / "slopes.safetensors")
    assert set(kept) == {"start/act1.slope", "end/act1.slope"}
    assert torch.equal(kept["end/act1.slope"], fitted.net.act1.slope.detach())
    assert not torch.equal(kept["start/act1.slope"], kept["end/act1.slope"])
    assert same(load_file(tmp_path / "weights.safetensors"), state(fitted.net))
    assert not fitted.net.training
    assert float(rows(tmp_path)[-1]["validation_accuracy"]) == pytest.approx(fitted.validation_accuracy)


def test_it_learns(tmp_path):
    config = dataclasses.replace(CONFIG, epochs=15)
    fitted = fit(config, tmp_path, images=IMAGES, progress="none", device="cpu")
    assert evaluate_model(fitted.net, IMAGES.test) > 95


def test_repeating_a_finished_run_reads_it(tmp_path):
    first = fit(CONFIG, tmp_path, images=IMAGES, progress="none", device="cpu")
    stamp = (tmp_path / "weights.safetensors").stat().st_mtime_ns
    again = fit(CONFIG, tmp_path, images=IMAGES, progress="none", device="cpu")
    assert same(state(first.net), state(again.net))
    assert again.history == first.history
    assert (tmp_path / "weights.safetensors").stat().st_mtime_ns == stamp


def test_the_same_seed_gives_the_same_weights(tmp_path):
    one = fit(CONV, tmp_path / "a", images=IMAGES, progress="none", device="cpu")
    other = fit(CONV, tmp_path / "b", images=IMAGES, progress="none", device="cpu")
    third = fit(
        dataclasses.replace(CONV, seed=1), tmp_path / "c", images=IMAGES, progress="none", device="cpu"
    )
    assert same(state(one.net), state(other.net))
    assert not same(state(one.net), state(third.net))


class Stop(Exception):
    """Stands for a crash."""


def before_step(monkeypatch, epoch, step, do):
    """Call ``do(stepper)`` just before that step of that epoch."""
    original = Stepper.step

    def stepped(self, pieces, progress):
        if (progress.epoch, progress.step) == (epoch, step):
            do(self)
        return original(self, pieces, progress)

    monkeypatch.setattr(Stepper, "step", stepped)


def crash(stepper):
    raise Stop


@pytest.mark.parametrize("model", [ModelConfig("fcnn", options={"hidden": 8}), ModelConfig("wrn_16_4")])
def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path, monkeypatch, model):
    """Weights, metrics, momentum, schedule, order, augmentation and dropout go on where they were."""
    augmented = DataConfig("made", flip=True, crop_padding=1)
    config = dataclasses.replace(CONFIG, model=model, data=augmented, precision="32", slope_l1=1e-3)
    if model.name == "wrn_16_4":
        config = dataclasses.replace(
            config, model=dataclasses.replace(model, options={"dropout": 0.3}), batch_size=48, epochs=2
        )
    whole = fit(config, tmp_path / "whole", images=IMAGES, progress="none", device="cpu")
    with monkeypatch.context() as patch:
        before_step(patch, 1, 2 if model.name == "fcnn" else 0, crash)
        with pytest.raises(Stop):
            fit(config, tmp_path / "cut", images=IMAGES, progress="none", device="cpu")
    assert [row["epoch"] for row in rows(tmp_path / "cut")] == ["0"]
    assert not (tmp_path / "cut" / "weights.safetensors").exists()
    resumed = fit(config, tmp_path / "cut", images=IMAGES, progress="none", device="cpu")
    assert same(state(whole.net), state(resumed.net))
    tables = [(tmp_path / name / "metrics.csv").read_bytes() for name in ("whole", "cut")]
    assert tables[0] == tables[1]
    start = [(tmp_path / name / "slopes.safetensors").read_bytes() for name in ("whole", "cut")]
    assert start[0] == start[1]


def test_a_broken_last_checkpoint_falls_back_to_the_previous(tmp_path, monkeypatch):
    whole = fit(CONFIG, tmp_path / "whole", images=IMAGES, progress="none", device="cpu")
    with monkeypatch.context() as patch:
        before_step(patch, 2, 2, crash)
        with pytest.raises(Stop):
            fit(CONFIG, tmp_path / "cut", images=IMAGES, progress="none", device="cpu")
    last = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.warns(CheckpointWarning, match=r"last.ckpt is truncated or damaged .*from previous.ckpt"):
        resumed = fit(CONFIG, tmp_path / "cut", images=IMAGES, progress="none", device="cpu")
    assert same(state(whole.net), state(resumed.net))


def test_ctrl_c_is_resumable(tmp_path, monkeypatch):
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        before_step(patch, 1, 2, lambda stepper: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            fit(CONFIG, tmp_path, images=IMAGES, progress="none", device="cpu")
    assert signal.getsignal(signal.SIGINT) is handler
    assert not (tmp_path / "weights.safetensors").exists()
    fit(CONFIG, tmp_path, images=IMAGES, progress="none", device="cpu")
    assert len(rows(tmp_path)) == 3


def break_weights(stepper):
    with torch.no_grad():
        stepper.net.fc1.weight[0, 0] = float("nan")


@pytest.mark.parametrize("changes", [{}, {"accumulate": 2}, {"compile": True}, {"precision": "fp16"}])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, monkeypatch, changes):
    before_step(monkeypatch, 1, 1, break_weights)
    config = dataclasses.replace(CONFIG, **changes)
    with pytest.raises(DivergedError) as caught:
        fit(config, tmp_path, images=IMAGES, progress="none", device="cpu")
    message = str(caught.value)
    assert "epoch 2, step 2" in message
    assert "fc1 (Linear), whose weight is not finite" in message
    assert "lower the learning rate" in message
    assert not (tmp_path / "weights.safetensors").exists()
    kept = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(bool(value.isfinite().all()) for value in kept["net"].values())


def test_weights_that_are_not_finite_are_not_kept(tmp_path, monkeypatch):
    """The loss of a step is that of the weights before it: the last step of an epoch can break them unseen."""
    original = Stepper.step

    def stepped(self, pieces, progress):
        original(self, pieces, progress)
        if (progress.epoch, progress.step) == (1, 6):
            break_weights(self)

    monkeypatch.setattr(Stepper, "step", stepped)
    with pytest.raises(DivergedError, match=r"not finite after epoch 2, step 6 \(fc1.weight\)"):
        fit(CONFIG, tmp_path, images=IMAGES, progress="none", device="cpu")
    kept = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(bool(value.isfinite().all()) for value in kept["net"].values())


def test_another_configuration_is_refused(tmp_path):
    fit(CONFIG, tmp_path, images=IMAGES, progress="none", device="cpu")
    other = dataclasses.replace(CONFIG, optimizer=dataclasses.replace(CONFIG.optimizer, lr=0.2))
    with pytest.raises(RunError, match=r"optimizer.lr 0.05, asked for 0.2"):
        fit(other, tmp_path, images=IMAGES, progress="none", device="cpu")


def test_a_path_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError):
        fit(CONFIG, tmp_path / "file", images=IMAGES, progress="none", device="cpu")


@pytest.mark.parametrize("what", ["checkpoint", "metrics"])
def test_a_full_disk_names_the_place(tmp_path, monkeypatch, what):
    from rotated_relu.training.engine import checkpoints, logs

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")

    if what == "checkpoint":
        monkeypatch.setattr(checkpoints.torch, "save", full)
    else:
        monkeypatch.setattr(logs.csv, "DictWriter", full)
    with pytest.raises(RunError, match="free some space"):
        fit(CONFIG, tmp_path, images=IMAGES, progress="none", device="cpu")
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith((".part", ".ckpt"))]


def test_weights_of_another_network_are_refused(tmp_path):
    from safetensors.torch import save_file

    fit(CONFIG, tmp_path, images=IMAGES, progress="none", device="cpu")
    save_file({"other": torch.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(RunError, match="does not hold the weights"):
        fit(CONFIG, tmp_path, images=IMAGES, progress="none", device="cpu")


@pytest.mark.parametrize("form", ["subgradient", "proximal"])
def test_the_penalty_kills_slopes(tmp_path, form):
    """Strong enough, it pulls every slope to zero, whatever the images say."""
    free = fit(CONFIG, tmp_path / "free", images=IMAGES, progress="none", device="cpu")
    pulled = dataclasses.replace(CONFIG, slope_l1=5.0, penalty_form=form)
    dead = fit(pulled, tmp_path / "pulled", images=IMAGES, progress="none", device="cpu")
    assert free.net.act1.slope.detach().abs().mean() > 0.5
    sizes = dead.net.act1.slope.detach().abs()
    if form == "proximal":
        assert (sizes == 0).all()
    else:
        # The sign of the gradient flips at every crossing, so slopes end within the last steps' reach.
        assert sizes.max() < 0.7


def test_proximal_step_by_hand(tmp_path):
    """One step, learning rate 0.1, momentum 0.5, strength 2: each slope loses 2 * 0.1 / 0.5 = 0.4 more."""
    images = made_images(16)
    base = dataclasses.replace(
        CONFIG,
        epochs=1,
        optimizer=OptimizerConfig(lr=0.1, momentum=0.5, weight_decay=0.0),
        schedule=ScheduleConfig("constant"),
    )
    plain = fit(base, tmp_path / "a", images=images, progress="none", device="cpu").net.act1.slope.detach()
    pulled = dataclasses.replace(base, slope_l1=2.0, penalty_form="proximal")
    shrunk = fit(pulled, tmp_path / "b", images=images, progress="none", device="cpu").net.act1.slope.detach()
    expected = plain.sign() * (plain.abs() - 0.4).clamp_min(0)
    torch.testing.assert_close(shrunk, expected)


def test_subgradient_step_by_hand(tmp_path):
    """One batch, one step of SGD: strength 2 at learning rate 0.1 moves each slope by 0.2 towards zero."""
    images = made_images(16)
    base = dataclasses.replace(
        CONFIG, epochs=1, optimizer=OptimizerConfig(lr=0.1), schedule=ScheduleConfig("constant")
    )
    plain = fit(base, tmp_path / "a", images=images, progress="none", device="cpu").net.act1.slope.detach()
    pulled = dataclasses.replace(base, slope_l1=2.0)
    moved = fit(pulled, tmp_path / "b", images=images, progress="none", device="cpu").net.act1.slope.detach()
    start = build_model(base, images).act1.slope.detach()
    torch.testing.assert_close(moved, plain - 0.2 * start.sign())


def test_plain_and_rotated_networks_see_the_same_batches(tmp_path):
    """Same order and augmentation for the same seed, however many draws the model took."""

    def seen(rotated):
        config = dataclasses.replace(CONV, model=ModelConfig("demo_resnet", rotated))
        batches = []
        with pytest.MonkeyPatch.context() as patch:
            original = MicroBatch.prepared

            def record(self, *args):
                out = original(self, *args)
                batches.append(out[0])
                return out

            patch.setattr(MicroBatch, "prepared", record)
            fit(config, tmp_path / str(rotated), images=IMAGES, progress="none", device="cpu")
        return torch.cat(batches)

    assert torch.equal(seen(True), seen(False))


def test_adam_and_slopes_without_decay(tmp_path):
    config = dataclasses.replace(
        CONFIG, epochs=1, optimizer=OptimizerConfig("adam", lr=1e-3, weight_decay=0.1, decay_slopes=False)
    )
    fitted = fit(config, tmp_path, images=IMAGES, progress="none", device="cpu")
    assert len(fitted.history) == 1


def test_finetune_trains_any_network_in_place():
    class Narrow(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 3, 3, padding=1)
            self.bn = nn.BatchNorm2d(3)
            self.pad = ChannelPadShortcut(3, 4, 1)
            self.fc = nn.Linear(4 * 36, 3)

        def forward(self, x):
            return self.fc(self.pad(self.bn(self.conv(x)).relu()).flatten(1))

    torch.manual_seed(0)
    net = Narrow()
    before = state(net)
    config = dataclasses.replace(CONFIG, epochs=8)
    assert finetune(net, config, IMAGES, device="cpu") is net
    assert not torch.equal(before["bn.running_mean"], net.bn.running_mean)
    assert evaluate_model(net, IMAGES.test) > 90


def test_finetune_resumes(tmp_path, monkeypatch):
    def fresh():
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 3))

    whole = finetune(fresh(), CONFIG, IMAGES, tmp_path / "whole", device="cpu")
    with monkeypatch.context() as patch:
        before_step(patch, 2, 2, crash)
        with pytest.raises(Stop):
            finetune(fresh(), CONFIG, IMAGES, tmp_path / "cut", device="cpu")
    resumed = finetune(fresh(), CONFIG, IMAGES, tmp_path / "cut", device="cpu")
    assert same(state(whole), state(resumed))


def test_evaluation_is_in_percent_and_leaves_the_mode_alone():
    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Dropout(0.9).eval()

        def forward(self, x):
            assert not self.training
            return torch.tensor([1.0, 0.0, 0.0]).expand(len(x), 3)

    net = First()
    net.training = True
    net.inner.training = False
    # The labels are 0, 1, 2, 0, ...: a third of them is the first class.
    assert evaluate_model(net, IMAGES.test, batch_size=7) == pytest.approx(100 / 3)
    assert net.training
    assert not net.inner.training


def test_model_follows_the_images():
    net = build_model(CONFIG, IMAGES)
    assert (net.fc1.in_features, net.fc2.out_features) == (36, 3)
    conv = build_model(CONV, IMAGES)
    assert (conv.conv1.in_channels, conv.fc.out_features) == (1, 3)
    assert len(slopes(conv)) == 1 + 3 * 2  # the stem, then three blocks of two activations


def test_progress_lines(tmp_path, capsys):
    config = dataclasses.replace(CONFIG, epochs=2)
    fit(config, tmp_path, images=IMAGES, progress="lines", device="cpu")
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = [line for line in shown.err.splitlines() if line.startswith("epoch")]
    assert len(lines) == 2
    assert lines[0].endswith(" left")
    assert "left" not in lines[1]
    assert lines[1].startswith("epoch 2/2  loss ")
    assert "validation" in lines[1]
    assert "alive 8" in lines[1]


def test_progress_bar_and_no_noise(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(dataclasses.replace(CONFIG, epochs=1), tmp_path, images=IMAGES, progress="bar", device="cpu")


def test_tensorboard_has_scalars_and_histograms(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(dataclasses.replace(CONFIG, epochs=2), tmp_path, images=IMAGES, progress="none", device="cpu")
    log = EventAccumulator(str(tmp_path / "tb"))
    log.Reload()
    assert "validation_accuracy" in log.Tags()["scalars"]
    assert log.Tags()["histograms"] == ["slopes/act1.slope"]
    assert [event.step for event in log.Scalars("lr")] == [0, 1]


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_budget_is_met_and_leaves_exact_zeros(tmp_path, capsys, ema):
    config = dataclasses.replace(CONFIG, budget=BudgetConfig(0.5, end=0.6, window=0.1), ema=ema, epochs=5)
    net = fit(config, tmp_path, images=IMAGES, progress="lines", device="cpu").net
    # 36 -> 8 -> 3: every hidden unit costs 39, so half of 8 units is half of the multiplications.
    assert int((net.act1.slope == 0).sum()) == 4
    assert float(rows(tmp_path)[-1]["macs_left"]) == 50
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch")]
    assert "MACs 100.0 %, target 50 %" in lines[0]  # the ramp begins at a fifth of the run
    assert "alive 4 of 8  MACs 50.0 %, target 50 %" in lines[-1]


def test_slopes_can_start_at_one():
    config = dataclasses.replace(CONFIG, model=ModelConfig("fcnn", slope_init="ones"))
    assert build_model(config, IMAGES).act1.slope.tolist() == [1.0] * 500


def test_pulling_the_norm_scales(tmp_path):
    """Network Slimming: strong enough, every batch norm's scale goes to zero, without any slope."""
    model = ModelConfig("demo_resnet", rotated=False)
    config = dataclasses.replace(
        CONV, model=model, total_shrinkage=30.0, penalty_form="proximal", penalized="norms", epochs=2
    )
    net = fit(config, tmp_path, images=IMAGES, progress="none", device="cpu").net
    scales = [m.weight for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(scales) > 3
    assert all(bool((scale == 0).all()) for scale in scales)
