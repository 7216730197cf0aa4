"""A shrinking to a speed-up, with an engine without a clock: 784 > 16 > 16 > 10."""

import json

import pytest

from rotated_relu.core.errors import RunError, SlopeError
from rotated_relu.deploy import engines
from rotated_relu.deploy.latency import calibrate as calibration
from rotated_relu.deploy.latency import measuring
from rotated_relu.experiments.run_networks import open_run
from rotated_relu.experiments.shrinking.pipeline import made_small
from rotated_relu.pruning.latency.model import layer_milliseconds
from rotated_relu.pruning.latency.table import LatencyTable
from support.toy_engine import ToyEngine, without_a_clock


@pytest.fixture
def toy(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "compare_latency", without_a_clock)
    monkeypatch.setattr(engines, "ENGINES", dict(engines.ENGINES))
    monkeypatch.setattr(calibration, "_cache_folder", lambda: tmp_path / "cache")
    engines.register_engine(ToyEngine().engine)


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
