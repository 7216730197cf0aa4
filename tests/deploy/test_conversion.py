"""Conversion leaves the network, and torch, as they were; what cannot work is found first."""

import logging
import warnings

import pytest
import torch
from torch import nn

import rotated_relu as rr
from rotated_relu.core.errors import ExportError
from rotated_relu.deploy.conversion import raw_onnx, to_onnx
from rotated_relu.deploy.export import export_onnx, export_openvino
from rotated_relu.deploy.quantize import export_int8


class Remembers(nn.Module):
    """Writes into a buffer, an attribute and a list that it shares with a part, also in eval mode."""

    def __init__(self, fails=False):
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 3), nn.BatchNorm1d(3)
        self.register_buffer("mean", torch.zeros(3))
        self.fails, self.calls, self.last, self.heads = fails, 0, None, [None]
        self.linear.heads = self.heads

    def forward(self, x):
        y = self.norm(self.linear(x))
        self.mean += y.detach().mean(0)
        self.calls += 1
        self.last = self.heads[0] = y
        return y * 2 if not self.fails or y.sum() > 0 else y


def state_of(net):
    """All that a user could see of a network."""
    return {
        "values": {name: value.clone() for name, value in net.state_dict().items()},
        "modes": [module.training for module in net.modules()],
        "wanted": [parameter.requires_grad for parameter in net.parameters()],
        "grads": [parameter.grad for parameter in net.parameters()],
        "own": (net.calls, net.last, net.heads is net.linear.heads, list(net.heads)),
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()],
        "ids": [id(value) for value in [*net.parameters(), *net.buffers(), *net.modules()]],
        "forward": "forward" in vars(net),
    }


def settings_of_torch():
    return {
        "onnx": torch.onnx.is_in_onnx_export(),
        "grad": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "dynamo": torch._dynamo.config.get_config_copy(),
        "random": torch.get_rng_state().tolist(),
        "log": logging.root.manager.disable,
        "warnings": list(warnings.filters),
    }


@pytest.mark.parametrize("fails", [False, True])
def test_the_network_and_torch_are_as_before(fails):
    net = Remembers(fails).train()
    net.norm.eval()
    net.linear.bias.requires_grad_(False)
    net(torch.randn(5, 4)).sum().backward()
    x = torch.randn(2, 4)
    before, settings = state_of(net), settings_of_torch()
    if fails:
        with pytest.raises(ExportError, match="Remembers cannot be exported"):
            to_onnx(net, x)
    else:
        assert to_onnx(net, x).content
    after = state_of(net)
    for name in before.pop("values"):
        assert torch.equal(after["values"][name], net.state_dict()[name])
    assert before == {key: value for key, value in after.items() if key != "values"}
    assert settings_of_torch() == settings


def test_too_many_weights_are_found_before_torch_exports(monkeypatch):
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: pytest.fail("exported"))
    monkeypatch.setattr("rotated_relu.deploy.conversion.MAX_FILE_BYTES", 20)
    # 4 weights and 2 biases of 4 bytes
    with pytest.raises(ExportError, match="the weights alone have 24 bytes, more than the 2 GB"):
        raw_onnx(nn.Linear(2, 2), torch.randn(2, 2))


class Auxiliary(nn.Module):
    """A head that only training uses."""

    def __init__(self):
        super().__init__()
        self.head, self.other = nn.Linear(2, 2), nn.Linear(64, 64)

    def forward(self, x):
        return self.head(x)


def test_weights_that_nobody_reads_do_not_count(monkeypatch):
    net = Auxiliary()
    content = to_onnx(net, torch.randn(2, 2)).content
    monkeypatch.setattr("rotated_relu.deploy.conversion.MAX_FILE_BYTES", len(content) + 500)
    assert len(content) + 500 < 64 * 64 * 4
    assert to_onnx(net, torch.randn(2, 2)).content == content


@pytest.mark.parametrize("export", [export_onnx, export_openvino, export_int8])
@pytest.mark.parametrize("place", ["missing", "file", "folder"])
def test_a_place_that_cannot_be_written_is_found_before_the_work(tmp_path, monkeypatch, export, place):
    if export is export_openvino:
        pytest.importorskip("openvino")
    for module in ("export", "quantize"):
        monkeypatch.setattr(f"rotated_relu.deploy.{module}.to_onnx", lambda *_, **__: pytest.fail("exported"))
    (tmp_path / "file").touch()
    (tmp_path / "folder.xml").mkdir()
    path = tmp_path / "folder.xml" if place == "folder" else tmp_path / place / "net.xml"
    x = torch.randn(2, 2)
    with pytest.raises(ExportError, match=rf"^cannot write {path}: "):
        export(nn.Linear(2, 2), [x] if export is export_int8 else x, path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder.xml"]


def test_bad_settings_are_found_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr("rotated_relu.deploy.export.to_onnx", lambda *_, **__: pytest.fail("exported"))
    for settings in ({"tolerance": float("nan")}, {"batch_sizes": (0,)}, {"dynamic_size": True}):
        with pytest.raises(ExportError):
            export_onnx(nn.Linear(2, 2), torch.randn(2, 2), tmp_path / "net.onnx", **settings)


def test_an_unknown_engine_is_found_before_the_work(monkeypatch):
    monkeypatch.setattr("rotated_relu.deploy.engines.to_onnx", lambda *_, **__: pytest.fail("exported"))
    with pytest.raises(rr.errors.UnknownNameError, match="did you mean 'openvino'"):
        rr.measure(nn.Linear(2, 2), torch.randn(2, 2), engine="openvin")
