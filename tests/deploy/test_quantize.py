"""8-bit ONNX files."""

import onnx
import pytest
import torch

from rotated_relu.core.errors import ExportError
from rotated_relu.deploy.quantize import export_int8
from rotated_relu.deploy.sessions import OnnxRuntimeSession
from support.nets import AnySize


def test_eight_bits(tmp_path):
    torch.manual_seed(0)
    net, path = AnySize().eval(), tmp_path / "net.int8.onnx"
    report = export_int8(net, [torch.randn(8, 3, 12, 12) for _ in range(4)], path)
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert "QuantizeLinear" in kinds
    assert "DequantizeLinear" in kinds
    # 8 bits are 1/256 of the range of each tensor; a few layers of that stay within some percent
    assert 0 < report.relative_difference < 0.1
    assert report.to_dict()["calibration_batches"] == 4
    (found,) = OnnxRuntimeSession(path).run(torch.randn(3, 3, 12, 12))
    assert found.shape == (3, 2)
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.int8.onnx"]


def test_eight_bits_need_calibration_and_a_place(tmp_path):
    with pytest.raises(ExportError, match="at least one batch of calibration"):
        export_int8(AnySize(), [], tmp_path / "net.onnx")
    with pytest.raises(ExportError, match="cannot write"):
        export_int8(AnySize(), [torch.randn(2, 3, 12, 12)], tmp_path / "missing" / "net.onnx")
