"""``rotated-relu export`` and ``measure`` in every format and engine, on a small convolutional run."""

import json
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import rotated_relu
from rotated_relu.core.graph_layout import Tuned
from rotated_relu.deploy import conversion, fastest
from rotated_relu.deploy.conversion import apply_layout
from rotated_relu.deploy.engines import ENGINES
from rotated_relu.deploy.layout import EXACT_WIDTHS, LAYOUTS
from rotated_relu.deploy.sessions import OnnxRuntimeSession
from rotated_relu.deploy.timing import LatencyComparison
from rotated_relu.experiments.run_networks import open_run
from rotated_relu.experiments.stages import measure as measure_stage
from rotated_relu.pruning.removal import load_compacted, save
from support import command_line


def call(capsys, *arguments):
    """Exit code, stdout and stderr without the line breaks that depend on the terminal's width."""
    code, out, err = command_line.call(capsys, *arguments)
    return code, " ".join(out.split()), " ".join(err.split())


def write_images(folder):
    """Thirty grey images of each of three classes, which differ in brightness."""
    noise = np.random.default_rng(0)
    for label, grey in (("dark", 40), ("grey", 120), ("light", 200)):
        (folder / label).mkdir(parents=True)
        for index in range(30):
            pixels = noise.integers(grey - 40, grey + 40, (8, 8)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A pruned run of the demo's residual network that no test changes."""
    folder = tmp_path_factory.mktemp("small")
    data, out = write_images(folder / "images"), folder / "run"
    settings = ["--model", "demo_resnet", "--data", data, "--precision", "32", "--epochs", "1"]
    for arguments in (
        ["train", *settings, "--batch-size", "32", "--progress", "none", "--out", out],
        ["prune", out, "--threshold", "0.8", "--round-to", "1"],
    ):
        command_line.done(*arguments)
    return out


@pytest.fixture
def run(small, tmp_path):
    """A pruned run of one's own."""
    shutil.copytree(small, tmp_path / "run")
    return tmp_path / "run"


def networks_agree(run, outputs, images):
    expected = open_run(str(run)).network("compact")(images)
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_export_for_openvino(capsys, run):
    pytest.importorskip("openvino", reason="optional: pip install openvino")
    from rotated_relu.deploy.sessions import OpenVinoSession

    code, out, err = call(capsys, "export", run, "--format", "openvino", "--no-tune")
    assert code == 0
    assert "timing" not in err
    assert "compact.xml: compact network" in out
    assert "checked against openvino" in out
    assert (run / "compact.bin").stat().st_size > 1000
    assert not (run / "compact.onnx").exists()
    images = torch.randn(5, 1, 8, 8)
    networks_agree(run, OpenVinoSession(run / "compact.xml", threads=1).run(images)[0], images)


@pytest.mark.slow
def test_export_in_eight_bits(capsys, run):
    code, out, _ = call(capsys, "export", run, "--int8", "--no-tune")
    assert code == 0
    assert "compact.int8.onnx: compact network in 8 bits" in out
    assert "outputs differ by" in out
    small = run / "compact.int8.onnx"
    # one byte for each weight instead of four
    assert small.stat().st_size < (run / "compact.safetensors").stat().st_size / 2
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(small).graph.node}
    (found,) = OnnxRuntimeSession(small).run(torch.randn(3, 1, 8, 8))
    assert found.shape == (3, 3)


@pytest.mark.slow
def test_export_for_any_image_size(capsys, run):
    assert call(capsys, "export", run, "--dynamic-size", "--no-tune")[0] == 0
    assert shape_of(run / "compact.onnx") == ["batch", 1, "height", "width"]
    images = torch.randn(2, 1, 13, 9)  # neither the size of the images nor that of the check
    networks_agree(run, OnnxRuntimeSession(run / "compact.onnx").run(images)[0], images)


def shape_of(path):
    """Sizes of the input, by name where they are free."""
    dims = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    return [dim.dim_param or dim.dim_value for dim in dims]


@pytest.mark.slow
def test_the_layout_is_chosen_by_timing_unless_told_otherwise(capsys, monkeypatch, run):
    asked = []

    def compare(runs, repeats, **_):
        asked.append(len(runs))
        return LatencyComparison({name: [1.0 + index] * repeats for index, name in enumerate(runs)})

    monkeypatch.setattr("rotated_relu.deploy.fastest.compare_latency", compare)
    code, _, err = call(capsys, "export", run, "--batch-size", "1", "--batch-size", "8")
    assert code == 0
    assert "timing layouts of the network in onnxruntime" in err
    # at both batch sizes a screening of all layouts, and a comparison of three and the first; that one is fastest here
    assert asked[2:] == [4, 4]
    assert asked[0] == asked[1] > 4
    assert shape_of(run / "compact.onnx") == ["batch", 1, 8, 8]


@pytest.mark.slow
def test_a_layout_that_prune_has_timed_is_used_and_not_timed_again(capsys, monkeypatch, run):
    compact = load_compacted(run / "compact.safetensors", open_run(str(run)).network("trained"))
    wide = next(layout for layout in LAYOUTS if layout.name == "widths of 8")
    save(replace(compact, tuned=Tuned("onnxruntime", (1, 8), wide)), run / "compact.safetensors")
    monkeypatch.setattr(
        "rotated_relu.deploy.fastest.compare_latency", lambda *_, **__: pytest.fail("timed again")
    )
    asked = []
    apply = conversion.apply_layout
    monkeypatch.setattr(
        conversion, "apply_layout", lambda raw, layout: asked.append(layout) or apply(raw, layout)
    )
    assert call(capsys, "export", run, "--batch-size", "8", "--batch-size", "1")[0] == 0
    assert asked == [wide]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--format", "onxx"], 1, "unknown format 'onxx': did you mean 'onnx'"),
        (["--int8", "--format", "openvino"], 2, "8 bits are written as ONNX only"),
        (["--int8", "--dynamic-size"], 2, "8 bits are written for one image size"),
    ],
)
def test_options_that_cannot_work(capsys, run, options, code, message):
    found, _, err = call(capsys, "export", run, *options)
    assert found == code
    assert message in err.replace("│ ", "")
    assert not list(run.glob("compact.*n*x*"))


def test_slopes_that_stay_are_listed_with_the_reason(capsys, run):
    code, out, _ = call(capsys, "export", run, "--weights", "trained", "--no-tune")
    assert code == 0
    # two in each of three blocks; the stem's slopes are read by the first block's convolution and by its addition
    assert "slopes of 6 activations cost nothing" in out
    reason = "two kinds of consumers: an addition, which has no weights, and Conv"
    assert f"slopes of relu stay: {reason} next: rotated-relu finetune" in out


SPEED = {"torch.compile": 1.0, "openvino": 2.0, "torch": 3.0, "onnxruntime": 4.0}


@pytest.fixture
def made_up(monkeypatch):
    """Each engine takes a time of its own, twice as long for the first network as for the last."""

    def timed(self, engine, size):
        last = list(self.nets)[-1]
        times = {name: [size * SPEED[engine] * (1 if name == last else 2)] * 3 for name in self.nets}
        return self.plain(size, LatencyComparison(times))

    monkeypatch.setattr(measure_stage._Bench, "timed", timed)


def test_all_engines_are_compared_and_the_fastest_named(capsys, made_up, run):
    pytest.importorskip("openvino", reason="optional: pip install openvino")
    code, out, _ = call(capsys, "measure", run, "--engine", "all", "--batch-size", "1", "--batch-size", "8")
    assert code == 0
    data = json.loads((run / "measure.json").read_text())
    assert [entry["engine"].split()[0] for entry in data["engines"]] == list(ENGINES)
    assert [name.split()[0] for name in data["fastest"].values()] == ["torch.compile"] * 2
    for size in (1, 8):
        assert f"fastest at batch {size}: torch.compile {torch.__version__}" in out
    assert "(2.00 x)" in out


def test_engines_without_their_package_are_left_out_of_all(capsys, monkeypatch, made_up, run):
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    code, _, err = call(capsys, "measure", run, "--engine", "all", "--batch-size", "1")
    assert code == 0
    assert "openvino is left out: openvino is not installed" in err
    data = json.loads((run / "measure.json").read_text())
    assert len(data["engines"]) == len(ENGINES) - 1
    code, _, err = call(capsys, "measure", run, "--engine", "openvino", "--batch-size", "1")
    assert code == 1
    assert "pip install 'rotated-relu[openvino]'" in err


@pytest.mark.parametrize("engine", ENGINES)
def test_one_engine_alone_is_the_fastest(capsys, made_up, run, engine):
    if engine == "openvino":
        pytest.importorskip("openvino", reason="optional: pip install openvino")
    code, out, _ = call(capsys, "measure", run, "--engine", engine, "--batch-size", "8")
    assert code == 0
    data = json.loads((run / "measure.json").read_text())
    assert [name.split()[0] for name in data["fastest"].values()] == [engine]
    assert f"{8 * SPEED[engine]:.0f} ms" in out
    assert "fastest at" not in out  # with one engine there is nothing to compare


@pytest.mark.slow
def test_the_reference_is_timed_with_all_its_channels(monkeypatch):
    # our exporter takes channels with slopes of 0 out of a graph: compaction would seem to gain nothing
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), rotated_relu.RotatedReLU(8), torch.nn.Conv2d(8, 4, 1)
    ).eval()
    net[1].slope.data[:5] = 0.0
    monkeypatch.setattr(
        fastest,
        "fastest_graph",
        lambda raw, *_, **__: fastest.FastestLayout(
            EXACT_WIDTHS, apply_layout(raw, EXACT_WIDTHS).content, {}
        ),
    )
    bench = measure_stage._Bench(
        {"trained": net, "compact": net}, lambda n: torch.zeros(n, 3, 6, 6), [1], 1, 1
    )
    timed = [bench.graph(name, "onnxruntime", torch.zeros(1, 3, 6, 6)) for name in bench.nets]
    assert [first_conv_width(content) for content in timed] == [8, 3]


def first_conv_width(content):
    graph = onnx.load_from_string(content).graph
    conv = next(node for node in graph.node if node.op_type == "Conv")
    return next(tensor.dims[0] for tensor in graph.initializer if tensor.name == conv.input[1])


@pytest.mark.slow
def test_engines_run_for_real(capsys, run):
    pytest.importorskip("openvino", reason="optional: pip install openvino")
    engines = ["openvino", "torch"]  # onnxruntime: tests/test_cli_pipeline.py
    options = [option for engine in engines for option in ("--engine", engine)]
    code, out, _ = call(
        capsys, "measure", run, *options, "--batch-size", "2", "--repeats", "2", "--threads", "1"
    )
    assert code == 0
    data = json.loads((run / "measure.json").read_text())
    assert [entry["engine"].split()[0] for entry in data["engines"]] == engines
    for entry in data["engines"]:
        (timed,) = entry["latency"]
        assert set(timed["milliseconds"]) == {"rotated", "compact"}
        assert all(len(times) == 2 and min(times) > 0 for times in timed["milliseconds"].values())
    medians = [entry["latency"][0]["medians_ms"]["compact"] for entry in data["engines"]]
    fastest = data["engines"][medians.index(min(medians))]["engine"]
    assert f"fastest at batch 2: {fastest}" in out
