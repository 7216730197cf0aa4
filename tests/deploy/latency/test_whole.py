"""The time of a network as a whole scales the times of its layers."""

import onnx
import pytest
import torch
from torch import nn

from rotated_relu.core.errors import ExportError
from rotated_relu.core.modules import Call, as_inputs
from rotated_relu.deploy.conversion import to_onnx
from rotated_relu.deploy.engines import Engine
from rotated_relu.deploy.latency import measuring, whole
from rotated_relu.deploy.latency.calibrate import calibrate
from rotated_relu.pruning.estimate import CostEstimate
from support.nets import Residual
from support.toy_engine import ToyEngine, for_batch_size, install, time_of, without_a_clock

X = torch.zeros(1, 3, 4, 4)


@pytest.fixture
def toy(monkeypatch):
    return install(monkeypatch, ToyEngine())


def test_the_estimate_of_the_network_is_its_time_and_shares_stay(toy, tmp_path, monkeypatch):
    net = Residual(40)
    dead = {"block1.act1.slope": torch.ones(40, dtype=torch.bool)}
    monkeypatch.setattr(whole.Bench, "program_ms", lambda *_: 0.0)
    plain = CostEstimate(net, X, calibrate(net, X, engine="toy", threads=1, cache=tmp_path / "unknown"))
    monkeypatch.setattr(whole.Bench, "program_ms", lambda *_: 12.0)
    table = calibrate(net, X, engine="toy", threads=1, cache=tmp_path / "known")
    scaled = CostEstimate(net, X, table)
    assert scaled.whole("latency") == pytest.approx(12.0)
    assert scaled.share(dead, "latency") == pytest.approx(plain.share(dead, "latency"))
    assert table.networks == {}  # what is in the cache concerns the cache


def test_what_is_timed_is_the_exported_network_with_as_many_examples_as_the_table_is_for(toy, monkeypatch):
    seen = []
    bench = measuring.Bench(toy.engine, threads=1, batch_size=2)
    monkeypatch.setattr(
        measuring.Bench, "program_ms", lambda self, content, inputs: seen.append((content, inputs)) or 3.0
    )
    assert whole.whole_ms(bench, Residual(8), as_inputs(X).of_size(2)) == 3.0
    [(content, inputs)] = seen
    assert isinstance(content, bytes)
    assert inputs.batch_size == 2


def test_a_network_that_cannot_be_exported_leaves_the_layers_as_they_were_measured(
    toy, tmp_path, monkeypatch
):
    def refused(*_):
        raise ExportError("no")

    monkeypatch.setattr(whole, "to_onnx", refused)
    table = calibrate(Residual(8), X, engine="toy", threads=1, cache=tmp_path)
    assert table.call_ms == pytest.approx(0.25)  # the toy's, unscaled


def test_the_time_is_kept_and_measured_again_for_another_network_alone(toy, tmp_path, monkeypatch):
    timed = []
    monkeypatch.setattr(whole.Bench, "program_ms", lambda *_: timed.append(1) or 5.0)
    first = calibrate(Residual(40), X, engine="toy", threads=1, cache=tmp_path)
    assert calibrate(Residual(40), X, engine="toy", threads=1, cache=tmp_path) == first
    assert len(timed) == 1
    calibrate(Residual(24), X, engine="toy", threads=1, cache=tmp_path)
    assert len(timed) == 2


def test_an_engine_that_runs_modules_runs_the_network_itself(monkeypatch):
    monkeypatch.setattr(measuring, "compare_latency", without_a_clock)
    started = []

    def start(program, inputs, threads):
        started.append(program)
        return lambda: 2.0

    bench = measuring.Bench(Engine("made up", "module", start, lambda: "1"), 1, 1, known_reference_ms=2.0)
    net = nn.Linear(3, 2)
    assert whole.whole_ms(bench, net, Call(torch.zeros(1, 3))) == 2.0
    assert started[0] is net


def test_the_toy_takes_what_its_graph_takes(toy, tmp_path):
    """Nothing stubbed: the estimate is the time of the exported graph, flattening and all."""
    net = Residual(40).eval()
    expected = time_of(for_batch_size(onnx.load_from_string(to_onnx(net, X).content), 1))
    table = calibrate(net, X, engine="toy", threads=1, cache=tmp_path)
    assert CostEstimate(net, X, table).whole("latency") == pytest.approx(expected)
