"""Models opened in onnxruntime and OpenVINO behave alike."""

import pytest
import torch
from torch import nn

import rotated_relu as rr
from rotated_relu.core.errors import ExportError, FileFormatError
from rotated_relu.deploy.conversion import to_onnx
from rotated_relu.deploy.sessions import OnnxRuntimeSession, OpenVinoSession


@pytest.fixture(params=[OnnxRuntimeSession, OpenVinoSession])
def kind(request):
    if request.param is OpenVinoSession:
        pytest.importorskip("openvino")
    return request.param


@pytest.fixture(scope="module")
def linear():
    """A linear layer and its model."""
    net = nn.Linear(2, 3)
    return net, to_onnx(net, torch.randn(4, 2)).content


def test_a_session_runs_what_torch_runs_and_again_on_other_inputs(kind, linear):
    net, content = linear
    session = kind(content, threads=1)
    one, other = torch.randn(4, 2), torch.randn(7, 2)
    (first,) = session.run(one)
    (second,) = session.run(other)
    # the first result is still there
    torch.testing.assert_close(first, net(one))
    torch.testing.assert_close(second, net(other))


def test_a_runnable_runs_on_the_inputs_that_it_was_made_for(kind, linear):
    net, content = linear
    x = torch.randn(4, 2)
    found = kind(content, threads=1).runnable(x)()
    torch.testing.assert_close(torch.from_numpy(found[0]), net(x))


class Second(nn.Module):
    """Reads its second input alone, as a network does whose mask is optional."""

    def forward(self, mask, x, count):
        return 2 * x


def test_an_input_that_nothing_reads_keeps_its_place(kind, tmp_path):
    inputs = torch.ones(4, dtype=torch.bool), torch.randn(4, 2), torch.tensor([3])
    content = to_onnx(Second(), inputs).content
    (tmp_path / "net.onnx").write_bytes(content)
    for source in (content, tmp_path / "net.onnx"):
        torch.testing.assert_close(kind(source).run(inputs)[0], 2 * inputs[1])
    other = torch.zeros(7, dtype=torch.bool), torch.randn(7, 2), torch.tensor([5])
    torch.testing.assert_close(kind(content).run(other)[0], 2 * other[1])


def test_a_file_of_openvinos_has_the_inputs_of_the_network(tmp_path):
    pytest.importorskip("openvino")
    inputs = torch.ones(4, dtype=torch.bool), torch.randn(4, 2), torch.tensor([3])
    rr.export_openvino(Second(), inputs, tmp_path / "net.xml")
    torch.testing.assert_close(OpenVinoSession(tmp_path / "net.xml").run(inputs)[0], 2 * inputs[1])


def test_files_are_opened_by_name(kind, linear, tmp_path):
    net, content = linear
    (tmp_path / "net.onnx").write_bytes(content)
    x = torch.randn(4, 2)
    for path in (tmp_path / "net.onnx", str(tmp_path / "net.onnx")):
        torch.testing.assert_close(kind(path).run(x)[0], net(x))


@pytest.mark.parametrize("content", [None, b"\x00\x01", b"<net>"])
def test_a_file_that_is_no_model_is_named(tmp_path, content):
    path = tmp_path / "bad.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FileFormatError, match=rf"onnxruntime cannot open {path}"):
        OnnxRuntimeSession(path)


def test_a_file_that_openvino_cannot_open(tmp_path):
    pytest.importorskip("openvino")
    (tmp_path / "bad.xml").write_bytes(b"<net>")
    with pytest.raises(ExportError, match="OpenVINO cannot open the model"):
        OpenVinoSession(tmp_path / "bad.xml")
