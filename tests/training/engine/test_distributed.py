"""Several processes: the same as one with the whole batch. Two of them, over gloo."""

import csv
import dataclasses
import functools
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rotated_relu.training import ConfigError, ScaleConfig, fit
from rotated_relu.training.engine.batches import BatchShard, TrainBatches
from rotated_relu.training.engine.distributed import launched
from support import command_line
from support.process_run import IMAGES, config_for

HERE = Path(__file__).parents[2] / "support"


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start_both(run, net, strategy, script="process_run.py"):
    """What torchrun does, without its seconds of overhead: the two processes, with their places in the environment."""
    port = str(free_port())
    return [
        subprocess.Popen(
            [sys.executable, script, str(run), net, strategy],
            cwd=HERE,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "LOCAL_WORLD_SIZE": "2",
                "GROUP_RANK": "0",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "TORCHELASTIC_RUN_ID": "test",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]


def finish(processes):
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    return [process.returncode for process in processes], "\n".join(outputs)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Runs of two processes: ``done(net, strategy)`` is the directory; each is made once."""

    @functools.cache
    def made(net, strategy):
        run = tmp_path_factory.mktemp(f"{net}-{strategy}") / "run"
        codes, output = finish(start_both(run, net, strategy))
        assert codes == [0, 0], output
        return run

    return made


@pytest.mark.slow
@pytest.mark.parametrize(("net", "strategy"), [("fcnn", "ddp"), ("resnet", "ddp"), ("fcnn", "fsdp")])
def test_two_processes_compute_what_one_computes(tmp_path, done, net, strategy):
    """20 steps of the same global batches; the validation images divide unevenly, and each counts once.

    In float64 where there are batch norms: in float32 PyTorch's differs from ours in the last digits, and 20 steps
    magnify that.
    """
    run = done(net, strategy)
    config = dataclasses.replace(config_for(net, strategy), scale=ScaleConfig())
    one = fit(config, tmp_path / "one", images=IMAGES, progress="none", device="cpu")
    two = load_file(run / "weights.safetensors")
    for name, value in one.net.state_dict().items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-5, msg=name)
    tables = [list(csv.DictReader((path / "metrics.csv").open())) for path in (tmp_path / "one", run)]
    assert len(tables[0]) == len(tables[1]) == 5
    for single, both in zip(*tables, strict=True):
        for key, value in single.items():
            assert float(both[key]) == pytest.approx(float(value), rel=1e-4, abs=1e-5), key


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_and_the_run_goes_on(tmp_path, done):
    """The one that is told tells the others, at the same step."""
    codes, output = finish(start_both(tmp_path / "run", "fcnn", "ddp", "signalled_run.py"))
    assert codes == [143, 143], output
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()
    assert finish(start_both(tmp_path / "run", "fcnn", "ddp"))[0] == [0, 0]
    whole = done("fcnn", "ddp")
    name = "weights.safetensors"
    assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes()
    # Two whole runs of two processes already differ in the eighth digit of a float32 loss; of one process they do not.
    found, expected = (
        list(csv.DictReader((run / "metrics.csv").open())) for run in (tmp_path / "run", whole)
    )
    for one, other in zip(found, expected, strict=True):
        for key, value in other.items():
            assert float(one[key]) == pytest.approx(float(value), rel=1e-6), key


@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_one_process_stops_all(tmp_path):
    codes, output = finish(start_both(tmp_path / "run", "fcnn", "nan", "signalled_run.py"))
    assert codes == [3, 3], output
    assert "epoch 3, step 2; it began in another process" in output
    assert "epoch 3, step 2; first layer with a non-finite output: fc1 (Linear), whose weight" in output
    kept = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["progress"]["epoch"] == 2


def test_the_pieces_of_all_processes_are_the_batches_of_one():
    config = config_for("fcnn")
    whole = TrainBatches(IMAGES.train, config)
    shares = [TrainBatches(IMAGES.train, config, BatchShard(rank, 2, parts=3)) for rank in range(2)]
    for (single,), *divided in zip(whole.epoch(1), *(share.epoch(1) for share in shares), strict=True):
        # Part after part, and within each part process after process.
        pieces = [piece for both in zip(*divided, strict=True) for piece in both]
        assert [len(piece.labels) for piece in pieces] == [4] * 6
        for name in ("images", "labels"):
            assert torch.equal(torch.cat([getattr(piece, name) for piece in pieces]), getattr(single, name))
        assert torch.equal(torch.cat([piece.draws for piece in pieces], dim=1), single.draws)


def test_a_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(ConfigError, match=r"batch_size is 24, but must be a multiple of 5: 5 processes"):
        TrainBatches(IMAGES.train, config_for("fcnn"), BatchShard(0, 5))


def test_processes_that_were_not_started_are_asked_for():
    with pytest.raises(
        ConfigError, match=r"2 devices on 3 nodes, but 1 on 1 .*torchrun --nnodes 3 --nproc-per-node 2"
    ):
        launched(ScaleConfig(devices=2, nodes=3))


def test_torchrun_says_how_many_there_are(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert launched(ScaleConfig()) == (4, 2)


def test_other_processes_than_the_first_do_not_prune(monkeypatch, tmp_path):
    monkeypatch.setenv("RANK", "1")
    command_line.done("prune", tmp_path / "no-such-run")
