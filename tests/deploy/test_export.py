import onnx
import pytest
import torch
from torch import nn

from rotated_relu.core.errors import ExportError, MissingPackageError, ShapeError
from rotated_relu.deploy.conversion import to_onnx
from rotated_relu.deploy.export import export_onnx, export_openvino
from rotated_relu.deploy.sessions import OnnxRuntimeSession
from rotated_relu.nn.activation import Rotated, RotatedReLU
from support import nets


def operators(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def chain(groups=1):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        RotatedReLU(8),
        nn.Conv2d(8, 4, 3, padding=1, groups=groups),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 16, 6),
        RotatedReLU(6),
        nn.Linear(6, 2),
    )


@pytest.mark.parametrize("groups", [1, 2])
def test_export_is_checked_dynamic_and_has_no_slopes_left(tmp_path, groups):
    net = chain(groups)
    path = tmp_path / "net.onnx"

    report = export_onnx(net, torch.randn(1, 3, 6, 6), path)

    assert report.batch_sizes == (1, 3)
    assert report.to_dict()["batch_sizes"] == [1, 3]
    assert report.max_relative_difference <= 1e-4
    assert report.folded_slopes == 2
    assert "Mul" not in operators(path)
    assert report.file_bytes == path.stat().st_size
    assert [entry.version for entry in onnx.load(path).opset_import if not entry.domain] == [report.opset]
    # An input that the check has not seen.
    batch = torch.randn(7, 3, 6, 6)
    (found,) = OnnxRuntimeSession(path).run(batch)
    torch.testing.assert_close(found, net.eval()(batch), rtol=1e-4, atol=1e-5)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 3, 3, padding=1), RotatedReLU(3)

    def forward(self, x):
        x = self.act(x)
        return x + self.conv(x)


def test_a_slope_with_another_reader_stays(tmp_path):
    report = export_onnx(Residual(), torch.randn(2, 3, 4, 4), tmp_path / "net.onnx")
    assert report.folded_slopes == 0
    assert operators(tmp_path / "net.onnx").count("Mul") == 1


@pytest.mark.slow
def test_a_slope_along_tokens_does_not_fold_into_features(tmp_path):
    # 4 tokens of 4 features: the slope varies along the tokens, a matrix product reads the features.
    net = nn.Sequential(Rotated(nn.ReLU(), 4, channel_dim=1), nn.Linear(4, 2))
    assert export_onnx(net, torch.randn(2, 4, 4), tmp_path / "a.onnx").folded_slopes == 0
    net = nn.Sequential(Rotated(nn.GELU(), 4, channel_dim=-1), nn.Linear(4, 2))
    assert export_onnx(net, torch.randn(2, 5, 4), tmp_path / "b.onnx").folded_slopes == 1


class TwoInputs(nn.Module):
    def forward(self, tokens, scale):
        return {"rows": tokens.float() * scale, "sum": (tokens * 2).sum()}


def test_several_inputs_and_outputs_and_integers(tmp_path):
    report = export_onnx(
        TwoInputs(), (torch.tensor([[1, 2], [3, 4]]), torch.tensor(2.0)), tmp_path / "net.onnx"
    )
    assert report.max_absolute_difference == 0


class Anything(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 2)

    def forward(self, *args):
        return self.inner(args[0]) + args[1]


def test_inputs_without_names(tmp_path):
    path, net = tmp_path / "net.onnx", Anything()
    assert export_onnx(net, (torch.randn(2, 3), torch.randn(2, 2)), path).max_relative_difference <= 1e-4
    inputs = torch.randn(5, 3), torch.randn(5, 2)
    (found,) = OnnxRuntimeSession(path).run(inputs)
    torch.testing.assert_close(found, net(*inputs))


def test_channels_last_weights_export_alike(tmp_path):
    net = chain().to(memory_format=torch.channels_last)
    example = torch.randn(2, 3, 6, 6).contiguous(memory_format=torch.channels_last)
    assert export_onnx(net, example, tmp_path / "net.onnx").file_bytes > 0
    assert "Transpose" not in operators(tmp_path / "net.onnx")


@pytest.mark.slow
def test_a_compiled_network_exports_like_its_inside(tmp_path):
    assert (
        export_onnx(torch.compile(chain()), torch.randn(2, 3, 6, 6), tmp_path / "net.onnx").folded_slopes == 2
    )


def test_training_flags_and_terminal_are_left_alone(tmp_path, capfd):
    net = chain()
    net[1].eval()
    export_onnx(net, torch.randn(2, 3, 6, 6), tmp_path / "net.onnx")
    assert net.training
    assert not net[1].training
    assert capfd.readouterr() == ("", "")


def test_the_file_names_no_path_of_this_machine():
    content, *_ = to_onnx(chain(), torch.randn(2, 3, 6, 6))
    assert b"site-packages" not in content
    assert b".py" not in content


class FixedBatch(nn.Module):
    def forward(self, x):
        return x + torch.ones(2, 4)


class Unexportable(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("net", "message"),
    [(FixedBatch(), "dynamic batch dimension"), (Unexportable(), "Unexportable cannot be exported")],
)
def test_networks_that_cannot_be_exported(tmp_path, net, message):
    with pytest.raises(ExportError, match=message):
        export_onnx(net, torch.randn(2, 4), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_an_older_file_survives_a_failed_check(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"older")
    with pytest.raises(ExportError, match="more than the tolerance of 0; nothing was written"):
        export_onnx(chain().double().float(), torch.randn(2, 3, 6, 6), path, tolerance=0)
    assert path.read_bytes() == b"older"
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.onnx"]


def changed(change):
    """A session whose outputs are changed."""
    run = OnnxRuntimeSession.run
    return lambda session, inputs: [change(output) for output in run(session, inputs)]


def test_wrong_result_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(OnnxRuntimeSession, "run", changed(lambda output: output + 1))
    with pytest.raises(ExportError, match=r"differ by .* at batch size 1"):
        export_onnx(chain(), torch.randn(2, 3, 6, 6), tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (lambda *_: [torch.zeros(1, 3)], "torch returns shapes"),
        (lambda *_: 1 / 0, "cannot run the exported model at batch size 1: division by zero"),
    ],
)
def test_a_model_that_runs_differently_is_refused(tmp_path, monkeypatch, outputs, message):
    monkeypatch.setattr(OnnxRuntimeSession, "run", outputs)
    with pytest.raises(ExportError, match=message):
        export_onnx(nn.Linear(2, 2), torch.randn(2, 2), tmp_path / "net.onnx")


def test_a_model_too_large_for_one_file_is_refused(monkeypatch):
    monkeypatch.setattr("rotated_relu.deploy.conversion.MAX_FILE_BYTES", 100)
    with pytest.raises(ExportError, match="more than the 2 GB"):
        to_onnx(nn.Linear(2, 2), torch.randn(2, 2))


def test_nan_on_one_side_is_a_difference(tmp_path, monkeypatch):
    monkeypatch.setattr(OnnxRuntimeSession, "run", changed(lambda output: output * float("nan")))
    with pytest.raises(ExportError, match="inf"):
        export_onnx(chain(), torch.randn(2, 3, 6, 6), tmp_path / "net.onnx")


@pytest.mark.slow
def test_unwritable_places(tmp_path, monkeypatch):
    with pytest.raises(ExportError, match=r"cannot write .*missing"):
        export_onnx(nn.Linear(2, 2), torch.randn(2, 2), tmp_path / "missing" / "net.onnx")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rotated_relu.deploy.export.os.replace", full)
    with pytest.raises(ExportError, match="No space left on device"):
        export_onnx(nn.Linear(2, 2), torch.randn(2, 2), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_inputs_that_do_not_fit(tmp_path):
    with pytest.raises(ShapeError):
        export_onnx(nn.Linear(2, 2), torch.randn(2, 3), tmp_path / "net.onnx")


@pytest.mark.slow
def test_images_of_any_size(tmp_path):
    net, path = nets.AnySize(), tmp_path / "net.onnx"
    report = export_onnx(net, torch.randn(2, 3, 12, 12), path, dynamic_size=True)
    assert report.image_sizes == ((12, 12), (18, 24))
    images = torch.randn(3, 3, 17, 29)  # neither of the two
    (found,) = OnnxRuntimeSession(path).run(images)
    torch.testing.assert_close(found, net.eval()(images), rtol=1e-4, atol=1e-5)
    assert export_onnx(net, torch.randn(2, 3, 12, 12), path).image_sizes == ()


def test_openvino_files_compute_the_same(tmp_path):
    pytest.importorskip("openvino")
    from rotated_relu.deploy.sessions import OpenVinoSession

    net, path = nets.AnySize(), tmp_path / "net.xml"
    report = export_openvino(net, torch.randn(2, 3, 12, 12), path, dynamic_size=True)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["net.bin", "net.xml"]
    assert report.file_bytes == sum(entry.stat().st_size for entry in tmp_path.iterdir())
    assert report.max_relative_difference <= 1e-4
    images = torch.randn(5, 3, 15, 11)
    (found,) = OpenVinoSession(path, threads=1).run(images)
    torch.testing.assert_close(found, net.eval()(images), rtol=1e-4, atol=1e-5)
    OpenVinoSession(path, threads=1).runnable(images)()


def test_openvino_errors(tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    with pytest.raises(ExportError, match=r"name the \.xml file, not net\.onnx"):
        export_openvino(nn.Linear(2, 2), torch.randn(2, 2), tmp_path / "net.onnx")
    with pytest.raises(ExportError, match="cannot write"):
        export_openvino(nn.Linear(2, 2), torch.randn(2, 2), tmp_path / "missing" / "net.xml")
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'rotated-relu\[openvino\]'"):
        export_openvino(nn.Linear(2, 2), torch.randn(2, 2), tmp_path / "net.xml")
