"""What happens to a run on signals, broken files, full disks and second processes."""

import contextlib
import dataclasses
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rotated_relu.core.errors import CheckpointWarning, RunError
from rotated_relu.core.run_directory import Run, read_json
from rotated_relu.training import Config, KeepConfig, LogConfig, ScaleConfig, Terminated, fit
from rotated_relu.training.engine.progress import Progress
from rotated_relu.training.engine.step import Stepper
from support.training_data import CONFIG, IMAGES

RESULTS = Path(__file__).parents[3] / "results"
TRAINED = ("weights.safetensors", "metrics.csv", "slopes.safetensors")


def train(path, config=CONFIG, **options):
    return fit(config, path, images=IMAGES, progress="none", device="cpu", **options)


def outcome(path):
    return {name: (path / name).read_bytes() for name in TRAINED}


def at_step(monkeypatch, epoch, step, do):
    original = Stepper.step

    def stepped(self, pieces, progress):
        if (progress.epoch, progress.step) == (epoch, step):
            do()
        return original(self, pieces, progress)

    monkeypatch.setattr(Stepper, "step", stepped)


def stopped_at(path, monkeypatch, epoch=1, step=3, number=signal.SIGTERM):
    """A run that a signal stopped in the middle of an epoch."""
    with monkeypatch.context() as patch:
        at_step(patch, epoch, step, lambda: os.kill(os.getpid(), number))
        with pytest.raises(KeyboardInterrupt) as caught:
            train(path)
    return caught.value


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole")
    train(path)
    return outcome(path)


def checkpoint(path, name="last"):
    return torch.load(path / "checkpoints" / f"{name}.ckpt", weights_only=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_after_the_step_and_the_run_goes_on(tmp_path, monkeypatch, whole, number):
    error = stopped_at(tmp_path, monkeypatch, number=number)
    assert isinstance(error, Terminated) == (number == signal.SIGTERM)
    # The step during which the signal came is done, and kept.
    assert (checkpoint(tmp_path)["progress"]["epoch"], checkpoint(tmp_path)["progress"]["step"]) == (1, 4)
    train(tmp_path)
    assert outcome(tmp_path) == whole


def test_a_signal_in_the_last_step_of_an_epoch(tmp_path, monkeypatch, whole):
    """Six steps an epoch: what is left of it is the validation."""
    stopped_at(tmp_path, monkeypatch, step=5)
    assert checkpoint(tmp_path)["progress"]["step"] == 6
    train(tmp_path)
    assert outcome(tmp_path) == whole


def test_a_signal_during_validation(tmp_path, monkeypatch):
    """The network then computes with the averaged weights; kept are its own."""
    config = dataclasses.replace(CONFIG, ema=0.9)
    train(tmp_path / "whole", config)
    original = Stepper.validate

    def validate(self, split, stop):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(self, split, stop)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "validate", validate)
        with pytest.raises(Terminated):
            train(tmp_path / "cut", config)
    assert checkpoint(tmp_path / "cut")["progress"]["step"] == 6
    train(tmp_path / "cut", config)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


def test_usr1_keeps_the_state_and_goes_on(tmp_path, monkeypatch, whole):
    at_step(monkeypatch, 2, 1, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    kept = []
    from rotated_relu.training.engine import checkpoints

    original = checkpoints.write

    def write(run, state):
        kept.append((state["progress"]["epoch"], state["progress"]["step"]))
        original(run, state)

    monkeypatch.setattr(checkpoints, "write", write)
    train(tmp_path)
    assert kept == [(1, 0), (2, 0), (2, 2), (3, 0)]
    assert outcome(tmp_path) == whole


def test_minutes_between_checkpoints(tmp_path):
    """0 minutes: after each of the first five steps of an epoch of six, and after the epoch."""
    config = dataclasses.replace(CONFIG, epochs=1, keep=KeepConfig(minutes=0))
    train(tmp_path, config)
    assert checkpoint(tmp_path)["progress"]["epoch"] == 1
    assert checkpoint(tmp_path, "previous")["progress"]["step"] == 5


def test_counts_move_to_the_first_process_if_there_are_fewer_now():
    progress = Progress(epoch=1, step=2)
    state = progress.state(torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]))
    assert Progress.from_state(state, 1, 2).totals.sums.tolist() == [10, 20, 30]
    assert Progress.from_state(state, 0, 1).totals.sums.tolist() == [11, 22, 33]
    assert [Progress.from_state(state, rank, 3).totals.sums.tolist() for rank in (1, 2)] == [[0, 0, 0]] * 2


def test_handlers_are_back_afterwards(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    train(tmp_path)
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == before


# --- broken files ---


class Payload:
    """A pickle that, if it were loaded, would leave a file behind."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (os.system, (f"touch {self.mark}",))


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_malicious_checkpoint_is_not_executed(tmp_path, monkeypatch, whole, how):
    stopped_at(tmp_path, monkeypatch)
    mark, last = tmp_path / "executed", tmp_path / "checkpoints" / "last.ckpt"
    if how == "pickle":
        last.write_bytes(pickle.dumps(Payload(mark)))
    else:
        torch.save({"format": 2, "net": Payload(mark)}, last)
    with pytest.warns(
        CheckpointWarning, match=r"last.ckpt is damaged, or holds more than tensors .*previous.ckpt"
    ):
        train(tmp_path)
    assert not mark.exists()
    assert outcome(tmp_path) == whole


def test_without_any_readable_checkpoint_nothing_is_overwritten(tmp_path, monkeypatch):
    stopped_at(tmp_path, monkeypatch)
    for path in (tmp_path / "checkpoints").iterdir():
        path.write_bytes(b"garbage")
    with pytest.raises(
        RunError, match=r"no checkpoint can be read: .*last.ckpt is .*previous.ckpt is .*to start over"
    ):
        train(tmp_path)
    assert {path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()} == {b"garbage"}


def test_a_folder_in_the_place_of_a_checkpoint_is_refused_before_an_epoch_of_work(tmp_path, monkeypatch):
    stopped_at(tmp_path, monkeypatch)
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.unlink()
    last.mkdir()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(RunError, match=r"last\.ckpt is a folder, where a checkpoint is to be; move it away"):
        train(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_a_checkpoint_of_other_settings_is_refused(tmp_path, monkeypatch):
    stopped_at(tmp_path / "one", monkeypatch)
    other = dataclasses.replace(CONFIG, seed=1)
    shutil.copytree(tmp_path / "one" / "checkpoints", tmp_path / "two" / "checkpoints")
    with pytest.raises(RunError, match=r"belongs to a run with other settings \(seed 0, asked for 1\)"):
        train(tmp_path / "two", other)


@pytest.mark.parametrize("state", [{"pytorch-lightning_version": "2.6", "loops": {}}, {"format": 99}])
def test_a_checkpoint_of_another_version_is_refused(tmp_path, state):
    (tmp_path / "checkpoints").mkdir()
    torch.save(state, tmp_path / "checkpoints" / "last.ckpt")
    with pytest.raises(RunError, match=r"written by another version .*format (1|99), this one reads 2"):
        train(tmp_path)


def test_a_setting_that_the_checkpoint_does_not_know_has_its_default(tmp_path, monkeypatch, whole):
    stopped_at(tmp_path, monkeypatch)
    state = checkpoint(tmp_path)
    del state["config"]["trains"]
    torch.save(state, tmp_path / "checkpoints" / "last.ckpt")
    train(tmp_path)
    assert outcome(tmp_path) == whole


def test_a_checkpoint_of_another_network_is_refused(tmp_path, monkeypatch):
    """Same settings, but the builder has changed since."""
    stopped_at(tmp_path, monkeypatch)
    last = tmp_path / "checkpoints" / "last.ckpt"
    state = checkpoint(tmp_path)
    del state["net"]["fc1.weight"]
    torch.save(state, last)
    with pytest.raises(RunError, match="does not fit this network"):
        train(tmp_path)


# --- disks ---


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 1 MiB, where this process may mount one."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_a_disk_that_fills_up_during_training(small_disk, monkeypatch, whole):
    """The run stops with a clear error, and goes on where it was once there is room."""
    filler = small_disk / "filler"

    def fill():
        with contextlib.suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(b"0" * 4096)

    with monkeypatch.context() as patch:
        at_step(patch, 1, 3, fill)
        with pytest.raises(RunError, match="No space left on device; free some space"):
            train(small_disk / "run")
    assert checkpoint(small_disk / "run")["progress"]["epoch"] == 1
    filler.unlink()
    train(small_disk / "run")
    assert outcome(small_disk / "run") == whole


def test_a_read_only_directory(small_disk):
    remounted = subprocess.run(
        ["mount", "-o", "remount,ro", str(small_disk)], capture_output=True, check=False
    )
    assert remounted.returncode == 0
    with pytest.raises(RunError, match="Read-only file system; choose a directory that you may write to"):
        train(small_disk / "run")


# --- two processes, old runs, changed circumstances ---

HOLD = """
import sys
from pathlib import Path
from rotated_relu.core.run_directory import Run
with Run(Path(sys.argv[1])).claimed():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path):
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout.readline() == "held\n"
    with pytest.raises(RunError, match=rf"is in use by process {first.pid} on .*; wait for it, stop it"):
        train(tmp_path)
    assert not (tmp_path / "checkpoints").exists()
    first.kill()
    first.wait()
    train(tmp_path)


def test_what_a_killed_process_left_half_written_is_cleared_away(tmp_path):
    left = [tmp_path / ".metrics.csv.123.part", tmp_path / "checkpoints" / ".last.ckpt.123.part"]
    left[1].parent.mkdir()
    for path in left:
        path.write_text("half")
    with Run(tmp_path).claimed():
        assert not any(path.exists() for path in left)


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/*/config.json")), ids=lambda path: path.parent.name)
def test_runs_of_earlier_versions_are_understood(path):
    """Settings that did not exist then have their defaults."""
    config = Config.from_dict(read_json(path))
    assert (
        config.data.name
        == {"resnet20-cifar10": "data/cifar10", "fcnn-mnist5k": "mnist5k"}[path.parents[1].name]
    )
    assert (config.accumulate, config.ema, config.scale) == (1, 0.0, ScaleConfig())


def test_how_a_run_is_carried_out_may_change(tmp_path, monkeypatch, whole):
    stopped_at(tmp_path, monkeypatch)
    changed = dataclasses.replace(
        CONFIG,
        keep=KeepConfig(minutes=1),
        log=LogConfig(tensorboard=False),
        data=dataclasses.replace(CONFIG.data, workers=0),
    )
    train(tmp_path, changed)
    assert outcome(tmp_path) == whole
    assert read_json(tmp_path / "config.json")["keep"]["minutes"] == 1
