"""The time of a call, divided among layers."""

import dataclasses

import pytest
import torch
from torch import nn

import rotated_relu as rr
from rotated_relu.core.modules import as_inputs
from rotated_relu.deploy.conversion import to_onnx
from rotated_relu.deploy.engines import ENGINES
from rotated_relu.deploy.profiling import layer_shares, layers_of


class Residual(nn.Module):
    """Two convolutions, a shortcut, a linear layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.head((x + self.body(x).relu()).mean((2, 3)))


@pytest.fixture(scope="module")
def residual():
    net, x = Residual().eval(), torch.randn(2, 3, 8, 8)
    return net, x, to_onnx(net, x).content


def parameters(net):
    return {name for name, _ in net.named_parameters()}


def test_an_operation_counts_with_its_weights_or_with_the_layer_before_it(residual):
    import onnx

    net, _, content = residual
    layers = layers_of(content, parameters(net))
    by_kind = [(node.op_type, layers[node.name]) for node in onnx.load_from_string(content).graph.node]
    assert [layer for kind, layer in by_kind if kind == "Conv"] == ["stem", "body"]
    assert [layer for kind, layer in by_kind if kind == "Relu"] == ["stem", "body"]
    assert [layer for kind, layer in by_kind if kind == "Gemm"] == ["head"]
    # it reads both, and the first of them is the stem's
    assert dict(by_kind)["Add"] in ("stem", "body")


def test_weights_that_were_made_narrower_still_belong_to_their_layer():
    # The last convolution reads 4 of 8 channels: the first one's weights are written anew, with half of the rows.
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    with torch.no_grad():
        net[2].weight[:, ::2] = 0
    x = torch.randn(1, 3, 9, 9)
    content = to_onnx(net, x).content
    import onnx

    shapes = {tuple(one.dims) for one in onnx.load_from_string(content).graph.initializer}
    assert (4, 3, 3, 3) in shapes
    layers = layers_of(content, parameters(net))
    assert set(layers.values()) == {"0", "2"}


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_engine_divides_its_time_among_all_layers(residual, engine):
    pytest.importorskip(engine)
    net, x, content = residual
    shares = layer_shares(content, x, net, engine=engine, threads=1, calls=3)
    assert {"stem", "body", "head"} <= set(shares) <= {"stem", "body", "head", ""}
    assert sum(shares.values()) == pytest.approx(1)
    assert all(share > 0 for name, share in shares.items() if name)


def test_names_that_an_engine_ends_or_makes_up(residual, monkeypatch):
    # Convolutions and what is fused into them are called by their result and an ending; a change of layout by nothing
    # that the model knows, so it counts with what ran before it.
    net, x, content = residual
    layers = layers_of(content, parameters(net))
    stem = next(name for name, layer in layers.items() if layer == "stem")
    told = [(f"{stem}_nchwc", 3.0), ("ReorderOutput", 1.0), ("narrow", 4.0)]
    engine = dataclasses.replace(ENGINES["onnxruntime"], profile=lambda *given: told)
    monkeypatch.setitem(ENGINES, "onnxruntime", engine)
    assert layer_shares(content, x, net) == {"stem": 1.0}


def test_an_engine_without_a_profiler_says_nothing(residual, monkeypatch):
    net, x, content = residual
    monkeypatch.setitem(
        ENGINES, "quiet", dataclasses.replace(ENGINES["onnxruntime"], name="quiet", profile=None)
    )
    assert layer_shares(content, x, net, engine="quiet") is None


def test_slopes_of_a_rotated_network_belong_to_its_layers():
    net = rr.models.create("demo_resnet", 4, True, in_channels=3).eval()
    x = torch.randn(1, 3, 16, 16)
    layers = layers_of(to_onnx(net, x).content, parameters(net))
    weighted = {name for name, module in net.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))}
    assert weighted <= set(layers.values())


def test_a_linear_layer_that_is_fused_with_its_activation_counts_with_itself(monkeypatch):
    pytest.importorskip("onnxruntime")
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 3)), torch.randn(2, 4, 4)
    content, engine = to_onnx(net, x).content, ENGINES["onnxruntime"]
    ran = dict.fromkeys(name for name, _ in engine.profile(content, as_inputs(x), 1, 2))
    # The same time for each operation that ran: one for each layer, and the reshape in front of both.
    alike = dataclasses.replace(engine, profile=lambda *given: [(name, 1.0) for name in ran])
    monkeypatch.setitem(ENGINES, "onnxruntime", alike)
    shares = layer_shares(content, x, net)
    assert {"1", "3"} <= set(shares) <= {"1", "3", ""}
    assert shares["1"] == shares["3"] == pytest.approx(1 / len(ran))
