"""A trained network of somebody's own file, shrunk: the whole path, stopped in every stage, and what is refused."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open

from rotated_relu.core.compiler import need_compiler
from rotated_relu.core.errors import CompilerError, RunError, ShapeError
from rotated_relu.core.preprocessing import Preprocessing, from_metadata
from rotated_relu.core.run_directory import Run, read_json, read_metrics
from rotated_relu.experiments.run_networks import RunNetworks
from rotated_relu.experiments.shrinking import pipeline
from rotated_relu.experiments.shrinking.original import write_original
from rotated_relu.experiments.shrinking.pipeline import made_small, shrink_run
from rotated_relu.experiments.shrinking.settings import holds, parts, phases, training_config
from rotated_relu.training.brought import trust
from support.command_line import call
from support.owners_network import CODE, built

FILES = ("compact.safetensors", "metrics.csv", "weights.safetensors", "config.json", "provenance.json")


@pytest.fixture(scope="module")
def whole(wanted, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    return out, shrink_run(wanted(), out)


def test_what_it_leaves(whole):
    out, summary = whole
    assert {"compact.safetensors", "compact.onnx", "summary.json", "report.html"} <= {
        p.name for p in out.iterdir()
    }
    assert json.loads((out / "summary.json").read_text()) == summary
    # 784 * 16 + 16 * 16 + 16 * 10 = 12,960 multiplications, a whole number of which is left.
    assert summary["macs_kept"] <= 0.5
    assert summary["macs_kept"] * 12960 == pytest.approx(round(summary["macs_kept"] * 12960))
    assert summary["original_test_accuracy"] > 70
    assert summary["validation_images"] == "held out of the training images"
    assert summary["shrunk_test_accuracy"] > summary["original_test_accuracy"] - 8
    assert summary["certificate_max_relative_difference"] <= 1e-9
    assert (summary["epochs"], summary["latency_batch_size"]) == (2, 1)
    assert [row["epoch"] for row in read_metrics(out / "metrics.csv")] == [0, 1]
    assert not (out / "shrink").exists()
    assert not (out / "finetune").exists()


def test_the_page_speaks_of_the_original(whole):
    text = (whole[0] / "report.html").read_text()
    assert "Original" in text
    assert "Shrinking, validation" in text  # the curves are not those of the original's training
    assert "Original, validation" not in text
    assert "no result yet" not in text


def test_repeated_it_only_reads(whole, monkeypatch, wanted):
    monkeypatch.setattr(pipeline, "shrink_network", None)
    assert shrink_run(wanted(), whole[0]) == whole[1]


STAGES = {
    "choosing": ("rotated_relu.training.engine.step.Stepper.validate", 1),
    "removing": ("rotated_relu.deploy.autotune.compact", 1),
    "training on": ("rotated_relu.training.engine.step.Stepper.validate", 1),
    "saving": ("rotated_relu.pruning.removal.save", 1),
    "exporting": ("rotated_relu.experiments.shrinking.delivery.export_run", 1),
    "measuring": ("rotated_relu.experiments.shrinking.delivery.measure_run", 1),
    "testing": ("rotated_relu.experiments.shrinking.delivery.evaluate_run", 2),
    "reporting": ("rotated_relu.experiments.shrinking.delivery.report_run", 1),
}


@pytest.mark.slow
def test_stopped_in_every_stage_it_ends_the_same(whole, tmp_path, wanted):
    """One directory, stopped once in each stage, in the order in which they come."""
    import importlib

    out = tmp_path / "run"
    for place, number in STAGES.values():
        with pytest.MonkeyPatch.context() as patch:
            owner_name, _, name = place.rpartition(".")
            try:
                holder = importlib.import_module(owner_name)
            except ModuleNotFoundError:
                module, _, kind = owner_name.rpartition(".")
                holder = getattr(importlib.import_module(module), kind)
            patch.setattr(holder, name, stopping(getattr(holder, name), number))
            with pytest.raises(KeyboardInterrupt):
                shrink_run(wanted(), out)
    shrink_run(wanted(), out)
    for name in FILES:
        assert content(out / name) == content(whole[0] / name), name


def content(path):
    """Of a file; safetensors writes the parts of its header in any order."""
    if path.suffix != ".safetensors":
        return path.read_bytes()
    with safe_open(path, "pt") as opened:
        tensors = {name: opened.get_tensor(name).numpy().tobytes() for name in opened.keys()}  # noqa: SIM118
        return tensors, opened.metadata()


def stopping(function, number):
    """The function, which is stopped by Ctrl-C at its n-th call."""
    calls = []

    def stopped(*arguments, **keywords):
        calls.append(1)
        if len(calls) == number:
            raise KeyboardInterrupt
        return function(*arguments, **keywords)

    return stopped


def test_compiled_it_is_the_same_training(whole, tmp_path, monkeypatch, wanted):
    """The compiler itself takes seconds: in its place dynamo runs the graphs as they are."""
    compiled, real = [], torch.compile

    def recorded(module, **options):
        compiled.append(module)
        return real(module, backend="eager")

    monkeypatch.setattr(torch, "compile", recorded)
    need_compiler.cache_clear()
    loaded = made_small(
        wanted(compile=True), tmp_path / "run", device="cpu", progress="none", say=lambda line: None
    )
    need_compiler.cache_clear()
    # The network with its slopes, the small one, and the original, from which both learn; Fabric compiles what it
    # wraps once more.
    assert len({id(one) for one in compiled if isinstance(one, torch.nn.Module)}) == 3
    for name, value in loaded.network("compact").state_dict().items():
        plain = RunNetworks(Run(whole[0])).network("compact").state_dict()[name]
        torch.testing.assert_close(value, plain, rtol=1e-3, atol=1e-3)


def test_where_nothing_can_be_compiled_it_is_said_before_anything_is_read(tmp_path, monkeypatch, wanted):
    def broken(module, **options):
        raise RuntimeError("no compiler found")

    monkeypatch.setattr(torch, "compile", broken)
    need_compiler.cache_clear()
    with pytest.raises(CompilerError, match="no compiler found"):
        shrink_run(wanted(compile=True), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["shrinking.json", "summary.json"])
@pytest.mark.parametrize("content", ["[]", "{}", '{"settings": null, "seconds": "long"}'])
def test_damaged_files_are_named(whole, tmp_path, wanted, name, content):
    shutil.copytree(whole[0], tmp_path / "run")
    (tmp_path / "run" / name).write_text(content)
    with pytest.raises(RunError, match=name):
        shrink_run(wanted(), tmp_path / "run")


@pytest.mark.parametrize(("name", "key"), [("measure.json", "saved"), ("measure.json", "latency")])
def test_what_the_summary_needs_is_named(whole, tmp_path, wanted, name, key):
    shutil.copytree(whole[0], tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    path = tmp_path / "run" / name
    path.write_text(json.dumps({k: value for k, value in json.loads(path.read_text()).items() if k != key}))
    with pytest.raises(RunError, match=f"{name}.*{key}"):
        shrink_run(wanted(), tmp_path / "run")


def test_other_settings_need_another_directory(whole, wanted):
    with pytest.raises(RunError, match=r"other settings \(epochs, keep\)"):
        shrink_run(wanted(keep=0.4, epochs=3), whole[0])


def test_a_network_that_guesses_is_refused_and_nothing_is_left(tmp_path, wanted):
    torch.save(built(CODE).state_dict(), tmp_path / "untrained.pt")
    out = tmp_path / "run"
    with pytest.raises(
        RunError, match=r"is not trained on these 10 classes .* --mean, --std and --image-size"
    ):
        shrink_run(wanted(weights=f"{tmp_path}/untrained.pt"), out)
    assert not (out / "config.json").exists()
    corrected = wanted(epochs=1).located()
    write_original(corrected, Run(out), lambda line: None)  # the corrected command goes through
    assert holds(Run(out), corrected)


def test_code_of_a_run_is_not_executed_by_other_verbs(capsys, whole, monkeypatch):
    code, _, error = call(capsys, "evaluate", whole[0])
    assert code == 1
    assert "owners_net.py:build: that code would be executed" in error
    monkeypatch.setattr(trust, "_everything", False)
    assert call(capsys, "--trust-code", "evaluate", whole[0])[0] == 0


def test_the_command_says_what_it_cost(capsys, whole, owner):
    arguments = [
        "--model",
        f"{owner}/owners_net.py:build",
        "--weights",
        f"{owner}/net.pth",
        "--data",
        "mnist5k",
    ]
    code, out, _ = call(capsys, "shrink", *arguments, "--epochs", "2", "--precision", "32", "--out", whole[0])
    assert code == 0
    assert f"{100 * whole[1]['macs_kept']:.1f} % of the MACs" in out
    assert "report.html" in out
    assert f"use it: python {whole[0]}/classify.py PICTURE" in out
    code, _, error = call(capsys, "shrink", *arguments, "--model-option", "width", "--out", whole[0])
    assert code == 2
    assert "is not NAME=VALUE" in error


def test_epochs_are_divided_and_share_one_schedule(wanted):
    assert [parts(n) for n in (1, 2, 5, 20)] == [(1, 0), (1, 1), (2, 3), (10, 10)]
    config = training_config(wanted(epochs=5))
    choosing, training_on = phases(config, 0.3)
    assert (choosing.epochs, training_on.epochs) == (2, 3)
    assert choosing.schedule.part == (0.0, 0.4)
    assert training_on.schedule.part == (0.4, 1.0)
    assert (choosing.budget.keep, training_on.budget.keep) == (0.3, 1.0)


def test_the_default_rate_is_proportional_to_the_batch(wanted):
    assert training_config(wanted(batch_size=64)).optimizer.lr == pytest.approx(0.01)
    assert training_config(wanted(lr=0.3)).optimizer.lr == 0.3


def test_files_say_what_their_input_and_output_are(whole):
    import onnx

    out = whole[0]
    known = read_json(out / "provenance.json")["input"]
    with safe_open(out / "compact.safetensors", "pt") as opened:
        header = opened.metadata()
    props = {entry.key: entry.value for entry in onnx.load(out / "compact.onnx").metadata_props}
    for said in (header, props):
        preprocessing, names = from_metadata(said)
        assert names == tuple("0123456789")
        assert list(preprocessing.mean) == known["mean"]
        assert preprocessing.image_size == (28, 28)
    assert props["rotated_relu.scores"] == "0"


def test_validation_images_are_said_to_be_held_out(wanted, tmp_path):
    said = []
    run = Run.create(tmp_path)
    trust.trust(wanted().model)
    write_original(wanted().located(), run, said.append)
    assert "held out of the training images, which the network may have seen" in said[-1]


def test_a_corrected_command_goes_through_before_anything_has_trained(wanted, tmp_path):
    """A budget that cannot be met is refused when the training would begin; the run is free for another one."""
    from rotated_relu.core.errors import SlopeError

    out = tmp_path / "run"
    with pytest.raises(SlopeError, match="keep at least"):
        shrink_run(wanted(keep=0.001), out)
    corrected = wanted(keep=0.5, epochs=1).located()
    assert not holds(Run(out), corrected)
    made_small(corrected, out, device="auto", progress="none", say=lambda line: None)
    assert holds(Run(out), corrected)


@pytest.mark.parametrize(
    ("code", "error", "says"),
    [
        (
            CODE.replace("width, 10)", "width, 4)"),
            RunError,
            "has 4 outputs, and the images are of 10 classes",
        ),
        (CODE.replace("784", "3 * 784"), ShapeError, "does not run"),
    ],
)
def test_a_network_that_does_not_fit_the_images_is_refused_with_one_line(code, error, says, wanted, tmp_path):
    (tmp_path / "other.py").write_text(code)
    torch.save(built(code).state_dict(), tmp_path / "w.pt")
    with pytest.raises(error, match=says):
        shrink_run(wanted(model=f"{tmp_path}/other.py:build", weights=f"{tmp_path}/w.pt"), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_page_that_is_made_anew_names_the_same_command(whole, wanted, tmp_path):
    from rotated_relu.experiments.report.collect import report_data
    from rotated_relu.experiments.run_networks import RunNetworks

    shutil.copytree(whole[0], tmp_path / "run")
    for name in ("summary.json", "report.html"):
        (tmp_path / "run" / name).unlink()
    shrink_run(wanted(), tmp_path / "run", command="rotated-relu shrink this")
    assert report_data(RunNetworks(Run(tmp_path / "run")))["made"]["command"] == "rotated-relu shrink this"


def test_preprocessing_of_the_weights_counts_where_nothing_else_is_said(wanted):
    known = Preprocessing((0.5,), (0.2,), (224, 224), 256, "bicubic")
    data = training_config(wanted(), known).data
    assert (data.image_size, data.resize, data.interpolation) == (224, 256, "bicubic")
    assert (data.mean, data.std, data.own_validation) == ([0.5], [0.2], True)
    # Half the size of everything is the same part of the picture; what is said goes before what is known.
    assert training_config(wanted(image_size=112), known).data.resize == 128
    said = training_config(wanted(image_size=32, resize=40, interpolation="nearest", mean=[0.1]), known).data
    assert (said.image_size, said.resize, said.interpolation) == (32, 40, "nearest")
    assert (said.mean, said.std) == ([0.1], [0.2])
    plain = training_config(wanted()).data
    assert (plain.image_size, plain.resize, plain.interpolation) == (None, None, "bilinear")


def test_openvino_is_exported_for_a_finished_run_too(whole, wanted, tmp_path):
    pytest.importorskip("openvino")
    shutil.copytree(whole[0], tmp_path / "run")
    before = (tmp_path / "run" / "measure.json").read_bytes()
    shrink_run(wanted(), tmp_path / "run", openvino=True)
    assert (tmp_path / "run" / "compact.xml").is_file()
    assert (tmp_path / "run" / "compact.bin").is_file()
    assert (tmp_path / "run" / "measure.json").read_bytes() == before


def test_the_average_is_of_the_last_training_alone(wanted):
    choosing, training_on = phases(training_config(wanted(epochs=4)), 0.5, 0.99)
    assert (choosing.ema, training_on.ema) == (0.0, 0.99)
    only, none = phases(training_config(wanted(epochs=1)), 0.5, 0.99)
    assert (only.ema, none) == (0.99, None)


def test_widths_that_are_left_are_multiples_of_the_step(wanted, tmp_path):
    # 784 > 16 > 16 > 10: 12,544 + 256 + 160 MACs; with 8 in front 6,272 + 128 + 160, 51 %, and only so under 55 %.
    asked = wanted(keep=0.55, round_to=8)
    loaded = made_small(asked, tmp_path / "run", device="auto", progress="none", say=lambda line: None)
    small = loaded.network("compact")
    widths = [module.out_features for module in small.modules() if isinstance(module, torch.nn.Linear)]
    assert widths in ([8, 16, 10], [8, 8, 10])
