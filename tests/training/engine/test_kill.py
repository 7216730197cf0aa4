"""Real kills: the run that goes on ends bit for bit as the run that was never killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from support.command_line import done

HERE = Path(__file__).parents[2] / "support"


def start(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=HERE,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_to(point, run):
    process = start("killed_run.py", run, point)
    output = process.communicate()[0]
    assert process.returncode == (0 if point == "never" else -signal.SIGKILL), output


def outcome(run):
    names = ("weights.safetensors", "metrics.csv", "slopes.safetensors", "config.json", "provenance.json")
    return {name: (run / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    run_to("never", run)
    return outcome(run)


# Eight steps in two epochs of four, with a checkpoint after every step.
@pytest.mark.slow
def test_killed_again_and_again(tmp_path, whole):
    run = tmp_path / "run"
    for point in ("step-0-2", "saving-1", "validating-0", "logged-0", "renaming-2", "step-1-3"):
        run_to(point, run)
        assert not (run / "weights.safetensors").exists()
    run_to("never", run)
    assert outcome(run) == whole
    assert not list(run.rglob("*.part"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(run / "tb"))
    log.Reload()
    assert [event.step for event in log.Scalars("train_loss")] == [0, 1]


PRUNE_AND_DIE = """
import os, signal, sys
from rotated_relu.cli import main
from rotated_relu.experiments.stages import prune

original, calls = prune.KeptSearch.add, []

def add(self, point):
    original(self, point)
    calls.append(point)
    if len(calls) == 5:
        os.kill(os.getpid(), signal.SIGKILL)

prune.KeptSearch.add = add
main(["prune", sys.argv[1], "--round-to", "1"])
"""


@pytest.mark.slow
def test_killed_while_it_searches_the_threshold(tmp_path, capsys):
    """The evaluated thresholds are kept; the search that goes on evaluates only the others."""
    settings = [
        "--model",
        "fcnn",
        "--data",
        "mnist5k",
        "--precision",
        "32",
        "--lr",
        "0.05",
        "--progress",
        "none",
    ]
    run, copy = tmp_path / "run", tmp_path / "copy"
    done("train", *settings, "--epochs", "1", "--slope-l1", "0.02", "--out", run)
    shutil.copytree(run, copy)
    done("prune", run, "--round-to", "1")
    killed = start("-c", PRUNE_AND_DIE, copy)
    output = killed.communicate()[0]
    assert killed.returncode == -signal.SIGKILL, output
    assert len(json.loads((copy / "threshold.partial.json").read_text())["sweep"]) == 5
    assert not (copy / "threshold.json").exists()
    done("prune", copy, "--round-to", "1")
    assert "5 thresholds of a search that was stopped known" in capsys.readouterr().err
    assert (copy / "threshold.json").read_bytes() == (run / "threshold.json").read_bytes()
    one, other = (load_file(path / "compact.safetensors") for path in (run, copy))
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert not (copy / "threshold.partial.json").exists()
