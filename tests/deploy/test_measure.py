"""All that is measured of one network, in every engine."""

import pytest
import torch

from rotated_relu.core.counting import file_bytes
from rotated_relu.core.errors import ShapeError, UnknownNameError
from rotated_relu.deploy.measure import measure
from support import nets


@pytest.mark.parametrize("engine", ["torch", "onnxruntime", "openvino"])
def test_measure_fills_every_field_and_restores_training(engine):
    if engine == "openvino":
        pytest.importorskip("openvino")
    net = nets.classifier()
    net[1].eval()
    found = measure(net, torch.randn(4, 3, 6, 6), engine=engine, repeats=3, warmup=1, threads=1)
    assert net.training
    assert not net[1].training
    assert (found.parameters, found.conv_linear_weights, found.macs) == (285, 256, 216 * 36 + 40)
    assert (found.batch_size, found.threads, found.repeats) == (4, 1, 3)
    assert 0 < found.latency_p10_ms <= found.latency_ms <= found.latency_p90_ms
    assert found.engine.startswith(engine)
    assert found.to_dict()["file_bytes"] == file_bytes(net)


def test_bad_engine_and_bad_input():
    with pytest.raises(UnknownNameError, match="did you mean 'torch'"):
        measure(nets.classifier(), torch.randn(1, 3, 6, 6), engine="toch")
    with pytest.raises(ShapeError):
        measure(nets.classifier(), torch.randn(1, 4, 6, 6))


def test_no_samples_are_refused_before_the_work(monkeypatch):
    monkeypatch.setattr("rotated_relu.deploy.measure.runner", lambda *_, **__: pytest.fail("started"))
    with pytest.raises(ValueError, match="at least one timed sample, got repeats=0"):
        measure(nets.classifier(), torch.randn(1, 3, 6, 6), repeats=0)
