"""A network's table: measured once, kept, gone on with; right to the microsecond for an engine that is made up."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from rotated_relu.core import progress
from rotated_relu.core.errors import ArgumentError, LatencyError, UnknownNameError
from rotated_relu.deploy import engines
from rotated_relu.deploy.engines import Engine
from rotated_relu.deploy.latency import calibrate as calibration
from rotated_relu.deploy.latency import measuring
from rotated_relu.deploy.latency.calibrate import calibrate, class_of, doubtful, falling
from rotated_relu.deploy.latency.whole import UNKNOWN
from rotated_relu.pruning.estimate import CostEstimate
from rotated_relu.pruning.latency.geometry import LayerGeometry
from rotated_relu.pruning.latency.model import plain_copy
from rotated_relu.pruning.removal import remove_channels
from rotated_relu.pruning.removal.adapters import Adapters
from support.nets import Residual
from support.toy_engine import CALL_MS, START_MS, ToyEngine, convolution_ms, install, linear_ms

X = torch.zeros(1, 3, 4, 4)


@pytest.fixture
def toy(monkeypatch):
    """What the network takes as a whole is unknown: test_whole.py has that."""
    monkeypatch.setattr(calibration, "whole_ms", lambda *_: UNKNOWN)
    return install(monkeypatch, ToyEngine())


@pytest.fixture
def wide():
    return Residual(40)


def test_the_estimate_is_what_the_engine_takes(toy, wide, tmp_path):
    table = calibrate(wide, X, engine="toy", batch_size=2, threads=1, cache=tmp_path)
    assert (table.engine, table.batch_size, table.threads, table.call_ms) == ("toy", 2, 1, CALL_MS)
    # Stem, four convolutions on 4 x 4 of which two add and multiply by slopes, mean, linear.
    conv = convolution_ms(40, 40, 2 * 16, 9)
    expected = (
        CALL_MS + convolution_ms(3, 40, 32, 9) + 4 * conv + 2 * 2 * START_MS + START_MS + linear_ms(40, 5)
    )
    assert CostEstimate(wide, X, table).whole("latency") == pytest.approx(expected)


def test_the_steps_of_the_engine_are_found(toy, wide, tmp_path):
    table = calibrate(wide, X, engine="toy", threads=1, cache=tmp_path)
    grids = {str(geometry): grid for geometry, grid in table.entries.items()}
    dense = grids["conv 3x3 on 4x4"]
    assert (dense.inputs, dense.outputs) == ((3, 16, 32, 40), (16, 32, 40))
    assert (dense.input_step, dense.output_step) == (16, 16)
    assert grids["linear"].output_step == 16
    assert dense.at(33, 17) == pytest.approx(convolution_ms(40, 32, 16, 9))


def test_a_second_calibration_measures_nothing(toy, wide, tmp_path):
    first = calibrate(wide, X, engine="toy", threads=1, cache=tmp_path)
    before = toy.started
    assert calibrate(wide, X, engine="toy", threads=1, cache=tmp_path) == first
    assert toy.started == before
    # Another batch size, another number of threads and another version are other tables.
    calibrate(wide, X, engine="toy", batch_size=3, threads=1, cache=tmp_path)
    calibrate(wide, X, engine="toy", threads=2, cache=tmp_path)
    engines.register_engine(ToyEngine(version="2").engine)
    calibrate(wide, X, engine="toy", threads=1, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def test_networks_share_what_they_have_in_common(toy, wide, tmp_path):
    calibrate(wide, X, engine="toy", threads=1, cache=tmp_path)
    before = toy.started
    table = calibrate(Residual(24), X, engine="toy", threads=1, cache=tmp_path)
    assert toy.started == before  # 24 channels of a convolution are paid as 32
    conv = convolution_ms(24, 24, 16, 9)
    expected = CALL_MS + convolution_ms(3, 24, 16, 9) + 4 * conv + 5 * START_MS + linear_ms(24, 5)
    assert CostEstimate(Residual(24), X, table).whole("latency") == pytest.approx(expected)
    calibrate(Residual(56), X, engine="toy", threads=1, cache=tmp_path)
    assert toy.started > before


def test_what_was_stopped_goes_on(toy, wide, tmp_path):
    whole = ToyEngine()
    engines.register_engine(whole.engine)
    expected = calibrate(wide, X, engine="toy", threads=1, cache=tmp_path / "other")
    engines.register_engine(toy.engine)
    toy.stop_at = whole.started - 10
    with pytest.raises(KeyboardInterrupt):
        calibrate(wide, X, engine="toy", threads=1, cache=tmp_path)
    toy.started, toy.stop_at = 0, None
    assert (
        calibrate(wide, X, engine="toy", threads=1, cache=tmp_path).entries.keys() == expected.entries.keys()
    )
    assert toy.started < whole.started / 2


def test_without_time_only_the_narrowest_and_the_widest_are_measured(toy, wide, tmp_path):
    table = calibrate(wide, X, engine="toy", threads=1, minutes=1e-9, cache=tmp_path)
    dense = next(grid for geometry, grid in table.entries.items() if str(geometry) == "conv 3x3 on 4x4")
    assert (dense.inputs, dense.outputs) == ((3, 40), (16, 40))
    # The next time it becomes finer.
    again = calibrate(wide, X, engine="toy", threads=1, cache=tmp_path)
    finer = next(grid for geometry, grid in again.entries.items() if str(geometry) == "conv 3x3 on 4x4")
    assert finer.inputs == (3, 16, 32, 40)


def test_progress_counts_what_is_measured(toy, wide, tmp_path, monkeypatch):
    told = []

    def reach(task, done, told_=False):
        task.done = done
        told.append((done, task.total))

    monkeypatch.setattr(progress.Task, "reach", reach)
    calibrate(wide, X, engine="toy", threads=1, cache=tmp_path)
    *layers, network = told
    assert layers == sorted(layers)
    assert layers[-1][0] == layers[-1][1]
    assert network == (1, 1)  # as a whole


@pytest.mark.parametrize("content", ["", "{}", "[1, 2", json.dumps({"format": "rotated-relu latency table"})])
def test_a_damaged_cache_is_measured_again(toy, wide, tmp_path, content):
    expected = calibrate(wide, X, engine="toy", threads=1, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_text(content)
    assert calibrate(wide, X, engine="toy", threads=1, cache=tmp_path) == expected


def test_bad_arguments_are_named_before_anything_is_measured(toy, wide, tmp_path):
    for options, message in (
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"threads": 1.5}, "threads must be a whole number"),
        ({"precision": "fp17"}, "precision must be one of"),
        ({"minutes": 0}, "minutes must be above 0"),
        ({"minutes": "soon"}, "minutes must be a number"),
    ):
        with pytest.raises(ArgumentError, match=message):
            calibrate(wide, X, engine="toy", cache=tmp_path, **options)
    with pytest.raises(UnknownNameError, match="unknown engine"):
        calibrate(wide, X, engine="toil", cache=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(LatencyError, match="cannot keep latency tables in"):
        calibrate(wide, X, engine="toy", cache=tmp_path / "file")
    assert toy.started == 0


def test_times_never_rise_towards_the_narrow():
    assert falling([[3.0, 2.0], [1.0, 4.0]]) == ((1.0, 2.0), (1.0, 4.0))


def test_times_out_of_proportion_are_doubted():
    # From 16 to 32 outputs the time may double and a bit; it may not fall.
    times = {(8, 16): 1.0, (8, 32): 2.5, (16, 16): 0.8, (16, 32): 2.7}
    assert doubtful(times, [8, 16], [16, 32]) == [(16, 32), (8, 16)]
    assert doubtful({**times, (8, 32): 2.7, (16, 32): 2.0}, [8, 16], [16, 32]) == [(8, 32), (8, 16)]


def test_what_was_disturbed_is_measured_again(toy, wide, tmp_path, monkeypatch):
    expected = calibrate(wide, X, engine="toy", threads=1, cache=tmp_path / "quiet")
    times, calls = measuring.Bench.times, []

    def disturbed(bench, layers):
        calls.append(layers)
        slow = 5.0 if len(calls) % 7 == 6 else 1.0
        return [slow * time for time in times(bench, layers)]

    monkeypatch.setattr(measuring.Bench, "times", disturbed)
    table = calibrate(wide, X, engine="toy", threads=1, cache=tmp_path / "busy")
    near = [
        one == pytest.approx(other)
        for geometry, grid in expected.entries.items()
        for row, busy in zip(grid.milliseconds, table.entries[geometry].milliseconds, strict=True)
        for one, other in zip(row, busy, strict=True)
    ]
    assert sum(near) > 0.9 * len(near)


def test_classes_of_operations():
    kinds = {class_of(LayerGeometry(kind, (4, 4))) for kind in ("add", "mean", "max_pool")}
    assert kinds == {"depthwise"}
    assert class_of(LayerGeometry("conv", (4, 4), group=(1, 1))) == "depthwise"
    assert [class_of(LayerGeometry("linear")), class_of(LayerGeometry("add", (5,)))] == ["linear", "other"]


class ModuleEngine(ToyEngine):
    """Runs modules: 0.01 ms for each layer and norm that is called, and 0.001 ms for each weight of a layer."""

    def __init__(self):
        super().__init__()
        self.engine = Engine("toy", "module", self._start, lambda: "1", ("torch",))

    def _start(self, module, inputs, threads):
        layers = [part for part in module.modules() if isinstance(part, (nn.Conv2d, nn.Linear))]
        norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
        weights = sum(layer.weight.numel() for layer in layers if not isinstance(layer, Adapters))
        milliseconds = 0.25 + 0.01 * (len(layers) + len(norms)) + 0.001 * weights
        return lambda: milliseconds


def test_modules_of_layers_that_are_gone_are_paid(monkeypatch, tmp_path):
    engine = install(monkeypatch, ModuleEngine())
    net = Residual(8)
    table = calibrate(net, X, engine="toy", threads=1, cache=tmp_path)
    conv = LayerGeometry(
        "conv", (4, 4), (3, 3), (1, 1), (1, 1), (1, 1), norm=True, activation="relu", slopes=True
    )
    assert table.entries[conv].absent_ms == pytest.approx(0.02)
    assert table.entries[replace(conv, addition=True)].absent_ms == 0
    dead = {"block1.act1.slope": torch.ones(8, dtype=torch.bool)}
    estimate = CostEstimate(net, X, table)
    # Two layers of 8 x 8 x 9 weights are gone; they and their norms are called still.
    assert estimate.whole("latency") - estimate.of(dead, "latency") == pytest.approx(2 * 0.576)
    small = remove_channels(net, X, dead).model
    plain, inputs = plain_copy(small, X)
    assert estimate.of(dead, "latency") == pytest.approx(engine._start(plain, inputs, 1)())
