"""Every verb on one small trained run, as a person would go through them."""

import csv
import errno
import json
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from rotated_relu.core.errors import SlopeError
from rotated_relu.core.run_directory import FILES, Run
from rotated_relu.deploy.timing import LatencyComparison
from rotated_relu.experiments.run_networks import open_run
from rotated_relu.experiments.stages import train as train_stage
from rotated_relu.experiments.stages.prune import prune_run
from rotated_relu.pruning.removal import read_plan
from rotated_relu.training import Terminated
from support.command_line import call, done
from support.undeletable import refuse_deletion

# One hidden layer of 500 on 5,000 digits: an epoch takes a fraction of a second.
SETTINGS = ["--model", "fcnn", "--data", "mnist5k", "--precision", "32", "--lr", "0.05", "--progress", "none"]


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trained run that no test changes."""
    out = tmp_path_factory.mktemp("runs") / "trained"
    done("train", *SETTINGS, "--epochs", "4", "--slope-l1", "0.02", "--out", out)
    return out


@pytest.fixture(scope="module")
def pruned(trained, tmp_path_factory):
    """A pruned run that no test changes."""
    out = tmp_path_factory.mktemp("runs") / "pruned"
    shutil.copytree(trained, out)
    done("prune", out, "--tolerance", "1", "--round-to", "1")
    return out


@pytest.fixture
def run(pruned, tmp_path):
    """A pruned run of one's own."""
    shutil.copytree(pruned, tmp_path / "run")
    return tmp_path / "run"


def test_train_leaves_a_complete_run(trained):
    for name in ("config", "metrics", "slopes", "weights", "provenance"):
        assert (trained / FILES[name][0]).is_file()
    assert read(trained / "config.json")["slope_l1"] == 0.02
    with (trained / "metrics.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4


def test_train_again_only_reads(capsys, trained):
    before = (trained / "weights.safetensors").stat().st_mtime_ns
    for arguments in ([*SETTINGS, "--epochs", "4", "--slope-l1", "0.02"], []):
        code, out, _ = call(capsys, "train", *arguments, "--out", trained)
        assert code == 0
        assert "validation accuracy" in out
    assert (trained / "weights.safetensors").stat().st_mtime_ns == before


def test_train_with_other_settings_is_refused_and_says_which(capsys, trained):
    code, _, err = call(capsys, "train", *SETTINGS, "--epochs", "9", "--out", trained)
    assert code == 1
    assert "epochs 4, asked for 9" in err


def test_relu_turns_the_penalty_off(capsys, tmp_path):
    arguments = ["--epochs", "1", "--slope-l1", "0.01", "--relu", "--out", tmp_path / "relu"]
    code, out, _ = call(capsys, "train", *SETTINGS[:-2], "--progress", "none", *arguments[:2], *arguments[4:])
    assert code == 0
    assert read(tmp_path / "relu" / "config.json")["model"]["rotated"] is False
    assert "next: rotated-relu measure" in out  # there are no slopes to prune
    code, _, err = call(capsys, "prune", tmp_path / "relu")
    assert code == 1
    assert "has no slopes" in err


def test_prune_keeps_the_score_and_proves_it(pruned):
    found = read(pruned / "threshold.json")
    assert found["value"] > 0
    assert found["alive"] < found["total"] == 500
    assert found["score"] >= found["baseline_score"] - 1
    assert found["certificate"]["max_relative_difference"] <= 1e-9
    plan, certificate = read_plan(pruned / "compact.safetensors")
    assert plan.threshold == found["value"]
    assert certificate.to_dict() == found["certificate"]


def test_prune_leaves_the_trained_weights_alone(trained, pruned):
    before, after = (load_file(path / "weights.safetensors") for path in (trained, pruned))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_hidden_layer_has_as_many_features_as_slopes_alive(pruned):
    alive = read(pruned / "threshold.json")["alive"]
    shapes = [tuple(value.shape) for value in load_file(pruned / "compact.safetensors").values()]
    assert (alive, 784) in shapes
    assert (10, alive) in shapes


def test_prune_to_a_budget(capsys, run):
    code, out, _ = call(capsys, "prune", run, "--keep-macs", "0.5")
    assert code == 0
    found = read(run / "threshold.json")
    # MACs are 784 h + 10 h for h features alive, so half of them is half of 500 features.
    assert found["alive"] == 250
    assert found["kept"]["macs"] == 0.5
    assert "50.0 %" in out


def test_prune_by_what_the_loss_says(capsys, run):
    code, _, err = call(capsys, "prune", run, "--score", "tailor")
    assert code == 1
    assert "taylor" in err
    assert read(run / "threshold.json")["criterion"]["score"] == "slope"  # nothing was touched
    code, out, _ = call(capsys, "prune", run, "--score", "taylor", "--keep-macs", "0.5")
    found = read(run / "threshold.json")
    assert code == 0
    assert (found["criterion"]["score"], found["criterion"]["per"]) == ("taylor", "macs")
    assert "Channels that go: Taylor score per MAC below" in " ".join(out.split())
    assert read_plan(run / "compact.safetensors")[0].criterion.to_dict() == found["criterion"]
    assert found["kept"]["macs"] <= 0.5
    assert found["certificate"]["max_relative_difference"] < 1e-9


def test_prune_by_what_reads_the_channels(capsys, run):
    code, out, _ = call(capsys, "prune", run, "--score", "consumer", "--keep-macs", "0.5")
    assert code == 0
    assert "|slope| times the consumers' norm below" in " ".join(out.split())
    assert read(run / "threshold.json")["alive"] == 250


def test_prune_that_removes_nothing_says_so_and_suggests_no_fine_tuning(capsys, run):
    code, out, _ = call(capsys, "prune", run, "--threshold", "0", "--round-to", "1")
    assert code == 0
    assert "nothing was removed: no filter can go" in " ".join(out.split())
    assert "finetune" not in out


def test_prune_at_a_given_threshold_and_round_up(capsys, run):
    value = read(run / "threshold.json")["value"]
    code, _, _ = call(capsys, "prune", run, "--threshold", value, "--round-to", "16")
    assert code == 0
    plan, _ = read_plan(run / "compact.safetensors")
    alive = read(run / "threshold.json")["alive"]
    widths = {layer.outputs[1] for layer in plan.layers if layer.outputs[0] == 500}
    assert widths == {-(-alive // 16) * 16}


def made_up(monkeypatch, original, others):
    """Instead of timing, so that the outcome is the same on every machine: ms of the original and of all others."""
    monkeypatch.setattr(
        "rotated_relu.deploy.fastest.compare_latency",
        lambda runs, repeats, **_: LatencyComparison(
            {name: [original if name == "original" else others] * repeats for name in runs}
        ),
    )


@pytest.mark.slow
def test_prune_times_candidates_by_default(capsys, monkeypatch, run):
    made_up(monkeypatch, original=3.0, others=2.0)
    value = read(run / "threshold.json")["value"]
    code, _, err = call(capsys, "prune", run, "--threshold", value)
    assert code == 0
    assert "timing" in err
    assert "1.50 and 1.50 times as fast as the original" in " ".join(err.split())
    found = read(run / "threshold.json")
    # onnxruntime runs graphs: all that is dead goes from the modules
    assert found["round_to"] == read_plan(run / "compact.safetensors")[0].round_to == 1
    assert found["rounding_milliseconds"]["original"] == [3.0, 3.0]


@pytest.mark.slow
def test_prune_keeps_everything_where_nothing_is_confirmed_faster(capsys, monkeypatch, run):
    made_up(monkeypatch, original=2.0, others=2.0)
    code, out, err = call(capsys, "prune", run, "--threshold", read(run / "threshold.json")["value"])
    assert code == 0
    assert "everything stays: no candidate was confirmed faster" in " ".join(err.split())
    assert read(run / "threshold.json")["round_to"] is None
    assert "0.0 %" in out
    assert "filters are dead: everything stays" in " ".join(out.split())
    assert "finetune" not in out


@pytest.mark.parametrize("text", ["0", "eight", "-8"])
def test_prune_with_a_rounding_that_is_none(capsys, run, text):
    code, _, err = call(capsys, "prune", run, "--round-to", text)
    assert code == 2
    assert "neither 'auto' nor a positive whole number" in " ".join(err.replace("│", " ").split())


def test_prune_again_deletes_what_the_first_one_led_to(capsys, run):
    stale = ("finetuned.safetensors", "compact.onnx", "measure.json", "report.html", "evaluation.json")
    for name in stale:
        (run / name).write_text("of another threshold")
    assert call(capsys, "prune", run, "--keep-parameters", "0.8")[0] == 0
    assert not any((run / name).exists() for name in stale)


def test_prune_again_says_what_went_and_keeps_what_is_of_the_trained_network(capsys, run):
    (run / "compact.onnx").write_text("of another threshold")
    (run / "trained.onnx").write_text("of the trained network")
    accuracies = {"trained": {"test": 91.0}, "compact": {"test": 90.0}, "finetuned": {"test": 90.5}}
    (run / "evaluation.json").write_text(json.dumps(accuracies))
    code, _, err = call(capsys, "prune", run, "--threshold", "0.5", "--round-to", "1")
    assert code == 0
    assert "deleted, as made from the former network: compact.onnx\n" in err
    assert read(run / "evaluation.json") == {"trained": {"test": 91.0}}
    assert (run / "trained.onnx").is_file()


def test_a_folder_where_a_file_belongs_is_refused_before_any_work(capsys, run):
    (run / "compact.onnx").mkdir()
    (run / "compact.onnx" / "mine").write_text("not ours")
    before = {path.name for path in run.iterdir()}
    code, _, err = call(capsys, "prune", run, "--threshold", "0.5", "--round-to", "1")
    assert code == 1
    assert "compact.onnx is a folder, where a file of the run belongs: move it away" in err
    assert {path.name for path in run.iterdir()} == before
    assert (run / "compact.onnx" / "mine").is_file()


def test_prune_again_loses_nothing_when_a_file_cannot_be_deleted(capsys, monkeypatch, run):
    (run / "compact.onnx").write_text("of another threshold")
    before = (run / "weights.safetensors").read_bytes()
    refuse_deletion(monkeypatch, "compact.onnx")
    code, _, err = call(capsys, "prune", run, "--threshold", "0.5", "--round-to", "1")
    assert code == 1
    assert "compact.safetensors is new" in err
    assert "cannot be deleted: compact.onnx" in err
    assert (run / "compact.onnx").is_file()
    found = read(run / "threshold.json")
    assert found["value"] == 0.5
    plan, certificate = read_plan(run / "compact.safetensors")
    assert plan.threshold == 0.5
    assert certificate.to_dict() == found["certificate"]
    assert (run / "weights.safetensors").read_bytes() == before


def test_prune_that_cannot_write_loses_nothing(capsys, monkeypatch, run):
    for name in ("finetuned.safetensors", "compact.onnx"):
        (run / name).write_text("of this threshold")
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rotated_relu.pruning.removal.save", full)
    code, _, err = call(capsys, "prune", run, "--threshold", "0.5", "--round-to", "1")
    assert code == 1
    assert "No space left" in err
    after = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert {name: after[name] for name in before if name != ".lock"} == {
        name: content for name, content in before.items() if name != ".lock"
    }


def test_finetune_again_retires_every_export(capsys, run):
    exported = ("compact.onnx", "compact.xml", "compact.bin", "compact.int8.onnx")
    for name in exported:
        (run / name).write_text("of the compacted weights")
    code, _, err = call(capsys, "finetune", run, "--epochs", "1", "--progress", "none")
    assert code == 0
    assert f"deleted, as made from the former network: {', '.join(exported)}" in err
    assert not any((run / name).exists() for name in exported)


@pytest.mark.parametrize("verb", ["prune", "export", "measure"])
def test_an_unknown_engine_is_refused_before_any_work(capsys, monkeypatch, run, verb):
    def work(*_, **__):
        raise AssertionError

    monkeypatch.setattr("rotated_relu.experiments.run_networks.RunNetworks.network", work)
    given = ["--format", "tpu"] if verb == "export" else ["--engine", "tpu"]
    code, _, err = call(capsys, verb, run, *given)
    assert code == 1
    assert "unknown" in err
    assert "tpu" in err


@pytest.mark.parametrize(
    "arguments", [["prune", "--threshold", "0.5"], ["export"], ["measure"], ["finetune"], ["report"]]
)
def test_a_run_that_cannot_be_written_to_is_refused_before_any_work(capsys, monkeypatch, run, arguments):
    def work(*_, **__):
        raise AssertionError

    monkeypatch.setattr("rotated_relu.experiments.run_networks.RunNetworks.network", work)
    monkeypatch.setattr("pathlib.Path.write_bytes", _read_only)
    code, _, err = call(capsys, arguments[0], run, *arguments[1:])
    assert code == 1
    assert "Read-only file system; choose a directory that you may write to" in err


def _read_only(path, *_):
    raise OSError(30, "Read-only file system", str(path))


def test_export_waits_for_nobody_who_writes_into_the_run(capsys, run):
    with Run(run).claimed():
        code, _, err = call(capsys, "export", run, "--no-tune")
    assert code == 1
    assert "is in use by process" in err
    assert not (run / "compact.onnx").exists()


def test_evaluate_waits_for_nobody_who_writes_into_the_run(capsys, run):
    known = (run / "evaluation.json").read_bytes() if (run / "evaluation.json").exists() else None
    with Run(run).claimed():
        code, out, err = call(capsys, "evaluate", run)
    assert (code, out) == (1, "")
    assert "is in use by process" in err
    assert ((run / "evaluation.json").read_bytes() if known else None) == known


@pytest.mark.parametrize(
    ("arguments", "progress", "result"),
    [
        (
            ["prune", "--tolerance", "1", "--round-to", "1"],
            r"searching the threshold: \d+ of \d+, .* left",
            "filters alive",
        ),
        (
            ["export", "--no-tune"],
            r"comparing it in onnxruntime, .* left",
            "compact.onnx",
        ),
    ],
)
def test_progress_goes_to_stderr_and_results_to_stdout(capsys, monkeypatch, run, arguments, progress, result):
    monkeypatch.setattr("rotated_relu.core.progress.EVERY", 0.0)  # a line after every step
    code, out, err = call(capsys, arguments[0], run, *arguments[1:], "--progress", "lines")
    assert code == 0
    assert re.search(progress, err)
    assert not re.search(progress, out)
    assert result in out
    assert result not in err.replace(str(run), "")


def test_prune_to_a_share_that_no_network_has_is_refused_with_what_it_can_have(capsys, run):
    before = (run / "compact.safetensors").read_bytes()
    code, _, err = call(capsys, "prune", run, "--keep-macs", "0.001")
    assert code == 1
    assert "no threshold keeps at most 0.001 of the macs" in " ".join(err.split())
    assert (run / "compact.safetensors").read_bytes() == before


@pytest.mark.slow
def test_nobody_is_shown_how_a_layout_is_spelled_within(capsys, run):
    code, out, err = call(capsys, "export", run, "--batch-size", "1")
    assert code == 0
    assert call(capsys, "report", run)[0] == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    shown = out + err + page[: page.index("<script")]
    assert not re.search(r"\bForm\(|GraphLayout\(|narrowing_bias|eagerness", shown)


def test_a_run_that_may_only_be_read_is_evaluated(capsys, monkeypatch, run):
    monkeypatch.setattr("os.access", lambda *_, **__: False)
    before = sorted(path.name for path in run.iterdir())
    code, out, err = call(capsys, "evaluate", run)
    assert code == 0
    assert "compact network, validation accuracy" in out
    assert "may only be read: the result is not kept" in err
    assert sorted(path.name for path in run.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "target", "kept"),
    [
        (["prune", "--threshold", "0.5"], "prune.prune_run", "thresholds that were evaluated"),
        (["export", "--no-tune"], "export.export_run", "stays as it was"),
        (["measure", "--repeats", "3"], "measure.measure_run", "nothing is kept"),
        (["report"], "report.report_run", "stays as it was"),
    ],
)
def test_ctrl_c_says_what_is_kept_and_how_to_go_on(capsys, monkeypatch, run, arguments, target, kept):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"rotated_relu.cli.{target}", stop)
    verb, *options = arguments
    code, out, err = call(capsys, verb, run, *options)
    assert code == 130
    assert out == ""
    (line,) = err.strip().splitlines()
    assert kept in line
    assert line.endswith(f"Go on with: rotated-relu {' '.join([verb, str(run), *options])}")


def test_prune_with_a_threshold_that_kills_everything(capsys, run):
    before = (run / "compact.safetensors").read_bytes()
    code, _, err = call(capsys, "prune", run, "--threshold", "100")
    assert code == 1
    assert "threshold 100 kills every slope" in err
    assert (run / "compact.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--threshold", "0.1", "--keep-macs", "0.5"], "either --threshold or a share"),
        (["--keep-macs", "50"], "fraction to keep"),
        (["--keep-macs", "0.0001"], "no threshold keeps at most 0.0001 of the macs"),
        (["--threshold", "-1"], "finite and not negative"),
    ],
)
def test_prune_with_options_that_cannot_work(capsys, run, options, message):
    code, _, err = call(capsys, "prune", run, *options)
    assert code == 1
    assert message in err


def test_prune_a_run_whose_slopes_are_not_finite(run):
    weights = load_file(run / "weights.safetensors")
    name = next(key for key in weights if key.endswith("slope"))
    weights[name][3] = float("nan")
    save_file(weights, run / "weights.safetensors")
    with pytest.raises(SlopeError, match=rf"{name}: 1 of 500 slopes are NaN"):
        prune_run(open_run(str(run)))


def test_a_truncated_file_is_one_message(capsys, run):
    whole = (run / "compact.safetensors").read_bytes()
    (run / "compact.safetensors").write_bytes(whole[:200])
    code, _, err = call(capsys, "evaluate", run, "--weights", "compact")
    assert code == 1
    assert "compact.safetensors is truncated" in err
    assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_finetune_export_evaluate_measure_report(capsys, run):
    code, out, _ = call(capsys, "finetune", run, "--epochs", "1", "--progress", "none")
    assert code == 0
    assert "before" in out
    assert not (run / "finetune").exists()
    assert read_plan(run / "finetuned.safetensors")[0] == read_plan(run / "compact.safetensors")[0]

    code, out, _ = call(capsys, "export", run)
    assert code == 0
    assert "finetuned network" in out
    assert (run / "compact.onnx").stat().st_size > 1000
    assert call(capsys, "export", run, "--weights", "trained")[0] == 0
    assert (run / "trained.onnx").stat().st_size > (run / "compact.onnx").stat().st_size

    for weights in ("trained", "compact", "finetuned"):
        assert call(capsys, "evaluate", run, "--weights", weights, "--split", "test")[0] == 0
    assert call(capsys, "evaluate", run)[0] == 0
    accuracies = read(run / "evaluation.json")
    assert set(accuracies) == {"trained", "compact", "finetuned"}
    assert set(accuracies["finetuned"]) == {"validation", "test"}
    assert all(50 < value <= 100 for splits in accuracies.values() for value in splits.values())

    code, out, _ = call(capsys, "measure", run, "--repeats", "2", "--batch-size", "1", "--batch-size", "8")
    assert code == 0
    measured = read(run / "measure.json")
    alive = read(run / "threshold.json")["alive"]
    assert measured["networks"]["rotated"]["macs"] == 784 * 500 + 500 * 10
    assert measured["networks"]["compact"]["macs"] == 784 * alive + alive * 10
    assert measured["saved"]["compact"]["macs"] == pytest.approx(1 - alive / 500)
    assert [timed["batch_size"] for timed in measured["latency"]] == [1, 8]
    assert "speed-up, batch 8" in out

    code, out, _ = call(capsys, "report", run)
    assert code == 0
    assert "<html" in (run / "report.html").read_text()[:2000].lower()


def test_without_measuring_the_page_is_complete_but_for_what_it_names(capsys, run):
    _, out, _ = call(capsys, "finetune", run, "--epochs", "1", "--progress", "none")
    assert f"next: rotated-relu export {run}" in " ".join(out.split())
    accuracies = read(run / "evaluation.json")
    assert set(accuracies["compact"]) == set(accuracies["finetuned"]) == {"validation"}
    _, out, _ = call(capsys, "export", run, "--no-tune")
    assert f"next: rotated-relu measure {run}" in out
    assert call(capsys, "report", run)[0] == 0
    page = " ".join((run / "report.html").read_text().split())
    assert "no result yet" not in page
    assert "The network is" in page
    assert "smaller at" in page
    assert f"Nothing has been timed: rotated-relu measure {run}" in page
    assert f"The test images have not been read: rotated-relu evaluate {run} --split test" in page
    assert "No filter has been removed" not in page


def test_measure_against_another_run_and_in_torch(capsys, run, trained):
    code, out, _ = call(
        capsys, "measure", run, "--against", trained, "--engine", "torch", "--repeats", "1", "--threads", "1"
    )
    assert code == 0
    measured = read(run / "measure.json")
    assert list(measured["networks"]) == ["reference", "rotated", "compact"]
    assert measured["saved"]["rotated"]["macs"] == 0
    words = " ".join(out.split())  # a long name of the processor breaks the line
    assert "1 thread" in words
    assert "1 threads" not in words


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["measure", "--engine", "onnx"], "unknown engine 'onnx': did you mean 'onnxruntime'"),
        (["evaluate", "--split", "tset"], "unknown split 'tset': did you mean 'test'"),
        (["evaluate", "--weights", "compct"], "unknown weights 'compct': did you mean 'compact'"),
        (["evaluate", "--weights", "finetuned"], "write it first: rotated-relu finetune"),
    ],
)
def test_choices_that_do_not_exist(capsys, run, arguments, message):
    code, _, err = call(capsys, arguments[0], run, *arguments[1:])
    assert code == 1
    assert message in err


def test_finetuning_starts_over_with_other_settings(capsys, run):
    (run / "finetune" / "checkpoints").mkdir(parents=True)
    (run / "finetune" / "config.json").write_text('{"epochs": 7}')
    (run / "finetune" / "checkpoints" / "last.ckpt").write_text("of other settings")
    assert call(capsys, "finetune", run, "--epochs", "1", "--lr", "0.001", "--progress", "none")[0] == 0
    assert not (run / "finetune").exists()


@pytest.mark.parametrize(
    ("verb", "target", "again"),
    [
        (["train", "demo", "--out"], "rotated_relu.training.fit", "train --out"),
        (["finetune"], "rotated_relu.training.finetune", "finetune"),
    ],
)
@pytest.mark.parametrize(("error", "exit_code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_a_stopped_training_says_how_to_go_on(
    capsys, monkeypatch, run, verb, target, again, error, exit_code
):
    def stop(*_, **__):
        raise error

    monkeypatch.setattr(target, stop)
    path = run.parent / "new" if verb[0] == "train" else run
    code, _, err = call(capsys, *verb, path)
    assert code == exit_code
    assert f"Go on with: rotated-relu {again} {path}" in err


@pytest.mark.slow
def test_ctrl_c_in_a_real_training_and_resuming_it(capsys, tmp_path):
    out = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "rotated_relu.cli",
        "train",
        *SETTINGS,
        "--epochs",
        "60",
        "--out",
        str(out),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 300
        while not (out / "checkpoints" / "last.ckpt").is_file():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130
    assert f"Go on with: rotated-relu train --out {out}" in err
    assert "Traceback" not in err
    assert not (out / "weights.safetensors").exists()
    assert call(capsys, "train", "--out", out, "--progress", "none")[0] == 0
    with (out / "metrics.csv").open() as file:
        assert [int(float(row["epoch"])) for row in csv.DictReader(file)] == list(range(60))


def test_a_full_disk_leaves_the_run_as_it_was(capsys, monkeypatch, run):
    """Every writer of the verbs goes through a rename; what fails is what comes before it."""
    import os

    def full(self, *_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    before = (run / "threshold.json").read_bytes()
    monkeypatch.setattr("pathlib.Path.write_text", full)
    code, _, err = call(capsys, "evaluate", run)
    assert code == 1
    assert "No space left on device; free some space" in err
    monkeypatch.undo()
    assert not (run / "evaluation.json").exists()
    assert (run / "threshold.json").read_bytes() == before
    assert not list(run.glob(".*.part"))


def test_overrides_are_checked_as_a_whole():
    from rotated_relu.training import Config

    assert train_stage.override(Config(slope_l1=0.1), {"model.rotated": False}).slope_l1 == 0.0
    config = Config.from_dict({"model": {"name": "wrn_40_4", "options": {"dropout": 0.3}}})
    assert train_stage.override(config, {"model.name": "resnet20"}).model.options == {}
    assert train_stage.override(config, {"model.name": "wrn_40_4"}).model.options == {"dropout": 0.3}
