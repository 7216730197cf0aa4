"""A shrinking to a speed-up, with an engine without a clock: 784 > 16 > 16 > 10."""

import json

import pytest
import torch
from torch import nn

from rotated_relu.core.errors import RunError, SlopeError
from rotated_relu.experiments.run_networks import open_run
from rotated_relu.experiments.shrinking import delivery
from rotated_relu.experiments.shrinking.frontier import shrink_frontier
from rotated_relu.experiments.shrinking.pipeline import made_small, shrink_run
from rotated_relu.experiments.stages.calibrate import TableChoice
from rotated_relu.nn.activation import RotatedReLU
from rotated_relu.pruning.latency.model import layer_milliseconds
from rotated_relu.pruning.latency.table import LatencyTable
from support.latency_tables import table_for
from support.toy_engine import ToyEngine, install


@pytest.fixture
def toy(tmp_path, monkeypatch):
    return install(monkeypatch, ToyEngine(), tmp_path / "cache")


def test_what_cannot_be_reached_is_said_before_training(toy, wanted, tmp_path):
    # A call, three starts and the first layer of 784 inputs are most of the time here.
    asked = wanted(speedup=1.5, engine="toy", engine_batch_size=1)
    with pytest.raises(SlopeError, match=r"a speed-up of 1\.5: the fastest that can be reached"):
        made_small(asked, tmp_path / "run", device="auto", progress="none", say=lambda line: None)
    assert not (tmp_path / "run" / "shrink" / "metrics.csv").exists()


def test_what_is_asked_for_is_milliseconds(toy, wanted, tmp_path):
    told = []
    asked = wanted(speedup=1.02, engine="toy", engine_batch_size=1)
    loaded = made_small(asked, tmp_path / "run", device="auto", progress="none", say=told.append)
    assert any("to 1.02 times as fast" in line for line in told)
    table = LatencyTable.load(tmp_path / "run" / "latency.json")
    run = open_run(str(tmp_path / "run"))
    times = [
        table.call_ms + sum(layer_milliseconds(net, run.example_inputs(), table).values())
        for net in (run.network("trained"), run.network("compact"))
    ]
    assert times[0] / times[1] >= 1.02
    settings = json.loads((tmp_path / "run" / "shrinking.json").read_text())["settings"]
    assert (settings["speedup"], settings["engine"]) == (1.02, "toy")
    assert loaded.run.has("compact")


@pytest.mark.parametrize("speedup", [0.5, 0, float("inf"), float("nan")])
def test_a_speed_up_that_is_none_is_refused(wanted, speedup):
    with pytest.raises(RunError, match="speed-up must be at least 1"):
        wanted(speedup=speedup)


def test_a_speed_up_among_several_that_cannot_be_reached_is_said_before_training(toy, wanted, tmp_path):
    asked = [wanted(speedup=times, engine="toy", engine_batch_size=1) for times in (1.01, 1.5)]
    with pytest.raises(SlopeError, match=r"a speed-up of 1\.5: the fastest that can be reached"):
        shrink_frontier(asked, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("metrics.csv"))


def test_what_another_machine_s_table_cannot_reach_is_refused_with_it(tmp_path):
    # 8 -> 4 -> 1 at 1 ms for each pair of channels: 36 ms, 9 of them with one hidden unit left.
    net, x = nn.Sequential(nn.Linear(8, 4), RotatedReLU(4), nn.Linear(4, 1)), torch.zeros(1, 8)
    table_for(net, x, per_pair=1.0, start=0.0).save(tmp_path / "table.json")
    choice = TableChoice(str(tmp_path / "table.json"))
    with pytest.raises(SlopeError, match=r"0\.25 of it, 9 of 36 ms, a speed-up of 4"):
        choice.for_budget(net, x, 0.2, lambda line: None)
    assert choice.for_budget(net, x, 0.25, lambda line: None) == LatencyTable.load(tmp_path / "table.json")


def test_it_is_measured_where_it_was_asked_for():
    of_macs = {"speedup": None, "engine": "onnxruntime", "engine_batch_size": 8}
    assert delivery.timing(of_macs) == ("onnxruntime", [*delivery.BATCH_SIZES])
    # the last one is quoted
    assert delivery.timing({"speedup": 2.0, "engine": "openvino", "engine_batch_size": 8}) == (
        "openvino",
        [1, 8],
    )
    assert delivery.timing({"speedup": 2.0, "engine": "torch", "engine_batch_size": 1}) == ("torch", [1])


@pytest.mark.slow
def test_several_speed_ups_are_runs_of_their_own_and_one_page(toy, wanted, tmp_path):
    asked = [wanted(speedup=times, engine="toy", engine_batch_size=1) for times in (1.02, 1.01)]
    summary = shrink_frontier(asked, tmp_path / "out")
    assert [row["run"] for row in summary["runs"]] == ["speedup-1.01", "speedup-1.02"]
    assert [row["speedup"] for row in summary["runs"]] == [1.01, 1.02]
    assert summary["engine"].startswith("toy")
    assert "1.02 times as fast" in (tmp_path / "out" / "report.html").read_text()
    with pytest.raises(RunError, match="holds runs of several budgets"):
        shrink_run(asked[0], tmp_path / "out")


def test_the_summary_has_the_estimate_beside_the_measurement():
    # 6 ms before, 4 ms after by the table
    times = {"original": 6.0, "compact": 4.0}
    assert delivery._estimated(times, "original") == {"latency_speedup_estimated": 1.5}
    assert delivery._estimated({}, "original") == {}
