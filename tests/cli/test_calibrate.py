"""The verb that measures layers, and pruning to a share of the milliseconds, with an engine without a clock."""

import errno
import json
import shutil

import pytest

from rotated_relu.deploy import engines
from rotated_relu.deploy.latency import anchoring, calibrate, measuring, store
from rotated_relu.deploy.latency.whole import UNKNOWN
from rotated_relu.pruning.latency.table import LatencyTable
from rotated_relu.training import scoring
from support.command_line import call, done
from support.toy_engine import CALL_MS, ToyEngine, install, linear_ms

SETTINGS = ["--model", "fcnn", "--data", "mnist5k", "--precision", "32", "--lr", "0.05", "--progress", "none"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trained run that no test changes: 784 > 500 > 10."""
    out = tmp_path_factory.mktemp("runs") / "trained"
    done("train", *SETTINGS, "--epochs", "1", "--out", out)
    return out


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    """A run of one's own, and an engine that takes no time; what networks take as a whole is unknown.

    The engine knows the linear layers of probes by their names, and sees none in an exported network.
    """
    monkeypatch.setattr(calibrate, "whole_ms", lambda *_: UNKNOWN)
    monkeypatch.setattr(anchoring._Shares, "of", lambda *_: None)
    install(monkeypatch, ToyEngine(), tmp_path / "cache")
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


WHOLE = CALL_MS + linear_ms(784, 500) + linear_ms(500, 10)


def test_a_table_is_measured_shown_and_written(capsys, run, tmp_path):
    out = tmp_path / "table.json"
    code, shown, _ = call(capsys, "calibrate", run, "--engine", "toy", "--threads", "1", "--out", out)
    assert code == 0
    assert "linear + relu" in shown
    table = LatencyTable.load(out)
    assert (table.engine, table.threads, table.batch_size) == ("toy", 1, 1)
    assert not (run / "latency.json").exists()


@pytest.mark.parametrize("name", ["weights.safetensors", "config.json"])
def test_other_files_are_not_written_over(capsys, run, name):
    before = (run / name).read_bytes()
    code, _, error = call(capsys, "calibrate", run, "--engine", "toy", "--out", run / name)
    assert code == 1
    assert "is there already and no latency table; choose another file" in " ".join(error.split())
    assert (run / name).read_bytes() == before


def test_tables_that_cannot_be_kept_are_found_before_measuring(capsys, monkeypatch, run):
    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(store, "check_place", full)
    monkeypatch.setattr(measuring, "compare_latency", lambda *_, **__: pytest.fail("measured"))
    code, _, error = call(capsys, "calibrate", run, "--engine", "toy")
    assert code == 1
    assert "cannot keep latency tables in" in error
    assert "No space left on device" in " ".join(error.split())
    assert not (run / "latency.json").exists()


def test_ctrl_c_while_a_training_measures_says_how_to_go_on(capsys, monkeypatch, run, tmp_path):
    engine = ToyEngine()
    engine.stop_at = 2
    engines.register_engine(engine.engine)
    options = (*SETTINGS, "--epochs", "1", "--speedup", "1.3", "--engine", "toy", "--out", tmp_path / "fast")
    monkeypatch.setattr("sys.argv", ["rotated-relu", "train", *map(str, options)])
    code, _, error = call(capsys, "train", *options)
    assert code == 130
    assert "what was measured is kept. Go on with: rotated-relu train --model fcnn" in " ".join(error.split())
    assert not (tmp_path / "fast" / "config.json").exists()


def test_a_speed_up_is_not_begun_in_a_run_of_another_kind(capsys, run):
    options = (*SETTINGS, "--epochs", "1", "--speedup", "1.3", "--engine", "toy", "--out", run)
    code, _, error = call(capsys, "train", *options)
    assert code == 1
    assert "holds a run that was trained for no speed-up; choose another directory" in " ".join(error.split())
    assert not (run / "latency.json").exists()


def test_processes_that_would_slow_each_other_do_not_measure(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    options = (*SETTINGS, "--epochs", "1", "--speedup", "1.3", "--engine", "toy", "--out", tmp_path / "fast")
    code, _, error = call(capsys, "train", *options)
    assert code == 1
    assert "2 processes cannot measure times" in " ".join(error.split())
    assert "once without torchrun until it trains" in " ".join(error.split())


def test_channels_go_for_a_share_of_the_milliseconds(capsys, run, monkeypatch):
    losses, original = [], scoring.sample_loss

    def noted(*arguments):
        loss = original(*arguments)
        return lambda: losses.append(float(loss())) or losses[-1]

    monkeypatch.setattr(scoring, "sample_loss", noted)
    code, shown, error = call(
        capsys, "prune", run, "--keep-latency", "0.7", "--engine", "toy", "--batch-size", "1"
    )
    assert code == 0, error
    assert "latency, estimated" in shown
    found = json.loads((run / "threshold.json").read_text())
    assert found["budget"] == {"latency": 0.7}
    assert found["kept"]["latency"] <= 0.7
    assert found["sweep"][-1]["cost"]["latency"] == pytest.approx(found["kept"]["latency"] * WHOLE)
    assert found["criterion"]["per"] == "latency"
    assert (run / "latency.json").is_file()
    assert len(set(losses)) > 1  # the network ran without what may go
    # The table of the run serves as that of another machine.
    again = call(capsys, "prune", run, "--keep-latency", "0.7", "--latency-table", run / "latency.json")
    assert again[0] == 0
    assert json.loads((run / "threshold.json").read_text())["kept"] == found["kept"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--keep-latency", "0.5", "--threshold", "0.1"), "give either --threshold or a share to keep"),
        (("--keep-latency", "0.5", "--keep-macs", "0.5"), "give either --keep-latency or shares"),
        (("--latency-table", "no.json"), "--latency-table is for --keep-latency"),
        (("--keep-latency", "0.5", "--latency-table", "no.json"), r"cannot read no.json"),
        (("--keep-latency", "1.5", "--engine", "toy"), "keep must be above 0 and at most 1"),
        (("--keep-latency", "0.5", "--engine", "toil"), "unknown engine"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_the_run_alone(capsys, run, options, message):
    code, _, error = call(capsys, "prune", run, *options)
    assert code != 0
    assert message in error
    assert not (run / "threshold.json").exists()
    assert not (run / "latency.json").exists()


def test_a_training_may_be_asked_for_a_speed_up(capsys, run, tmp_path):
    out = tmp_path / "fast"
    options = (*SETTINGS, "--epochs", "1", "--speedup", "1.3", "--engine", "toy", "--out", out)
    code, _, error = call(capsys, "train", *options)
    assert code == 0, error
    budget = json.loads((out / "config.json").read_text())["budget"]
    assert (budget["unit"], budget["keep"]) == ("latency", pytest.approx(1 / 1.3))
    assert budget["table"] == str((out / "latency.json").resolve())
    # Resumed, it has the same budget: nothing is measured again, and the settings are those that it began with.
    assert call(capsys, "train", "--out", out, "--progress", "none")[0] == 0


def test_a_budget_of_latency_needs_a_table(capsys, run, tmp_path):
    options = (
        *SETTINGS,
        "--epochs",
        "1",
        "--budget-unit",
        "latency",
        "--keep-macs",
        "0.5",
        "--out",
        tmp_path / "x",
    )
    code, _, error = call(capsys, "train", *options)
    assert code != 0
    assert "budget.table is None, but must be a file of measured times where budget.unit is latency" in error


@pytest.mark.slow
def test_what_is_measured_stands_beside_the_estimate(capsys, run):
    options = ("--engine", "toy", "--batch-size", "1")
    assert call(capsys, "prune", run, "--keep-latency", "0.7", *options)[0] == 0
    code, shown, error = call(capsys, "measure", run, *options, "--batch-size", "2", "--repeats", "1")
    assert code == 0, error
    assert "estimated, batch 1" in shown
    assert "estimated, batch 2" not in shown  # the table is for 1
    timed = json.loads((run / "measure.json").read_text())["latency"][0]
    assert timed["estimated_ms"]["rotated"] == pytest.approx(WHOLE)
    assert timed["estimated_layer_ms"]["rotated"] == pytest.approx(
        {"fc1": linear_ms(784, 500), "fc2": linear_ms(500, 10)}
    )
    assert timed["estimated_ms"]["compact"] <= 0.7 * WHOLE
