"""An experiment with one command: what it leaves, and that it goes on from wherever it was stopped or killed."""

import os
import pkgutil
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rotated_relu.cli import reproduce
from rotated_relu.core.errors import RunError
from rotated_relu.core.run_directory import read_json, write_json
from rotated_relu.experiments.pipelines import reproduce as reproduction
from rotated_relu.pruning.removal import read_plan
from rotated_relu.pruning.removal.checkpoint import read_tensors
from rotated_relu.training import Config, build_model, load_data
from support import command_line

HERE = Path(__file__).parent
ONE = ["--data", "mnist5k", "--epochs", "1", "--progress", "none"]
TWO = [
    "fcnn_mnist_two_step",
    "--data",
    "mnist5k",
    "--epochs",
    "2",
    "--threshold",
    "0.9",
    "--progress",
    "none",
]


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(reproduction, "ROUNDS", 1)
    monkeypatch.setattr(reproduction, "BATCH_SIZES", (1,))


def call(capsys, *arguments):
    return command_line.call(capsys, "reproduce", *arguments)


def outcome(out):
    """What must not depend on interruptions: the table and every weight."""
    names = ("reproduction.json", "metrics.csv", "finetune_metrics.csv", "evaluation.json")
    kept = {name: (out / name).read_bytes() for name in names}
    for name in ("weights", "compact", "finetuned"):
        kept[name] = {
            key: value.numpy().tobytes() for key, value in read_tensors(out / f"{name}.safetensors").items()
        }
    return kept


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproduction, "ROUNDS", 1)
        patch.setattr(reproduction, "BATCH_SIZES", (1,))
        command_line.done("reproduce", "fcnn_mnist", *ONE, "--out", out)
    return out


@pytest.mark.parametrize(
    ("found", "reused"),
    [
        ({"criterion": {"score": "slope"}}, True),
        ({"criterion": {"score": "taylor"}}, False),
        ({"score_kind": "taylor"}, False),  # as files of 0.1.0 name it
        ({}, True),
    ],
)
def test_a_pruning_by_another_score_is_not_taken_for_the_papers(found, reused):
    plan = reproduction.plan_for("fcnn_mnist", {}, tolerance=0.2)
    known = {"budget": None, "round_to": 1, "tolerance": 0.2, "value": 0.1, **found}
    assert reproduction._as_asked(known, plan) is reused


@pytest.mark.slow
def test_the_table_and_the_files(whole):
    record = read_json(whole / "reproduction.json")
    rows = {row["network"]: row for row in record["networks"]}
    assert list(rows) == [
        "ReLU",
        "rotated",
        "at the paper's threshold 1",
        "compacted",
        "compacted, retrained",
    ]
    assert record["epochs"] == {"training": 1, "retraining": 1}
    for row in rows.values():
        assert 20 < row["test_accuracy"] <= 100
        assert 20 < row["validation_accuracy"] <= 100
    # One hidden layer: each dead feature is one of 500, in either count; biases and slopes are in neither.
    share = 1 - record["filters_alive"] / 500
    for name in ("compacted", "compacted, retrained"):
        for key in (
            "paper_memory_saved",
            "paper_flops_saved",
            "achieved_weights_saved",
            "achieved_macs_saved",
        ):
            assert rows[name][key] == pytest.approx(share)
    end = read_tensors(whole / "slopes.safetensors")["end/act1.slope"]
    assert rows["at the paper's threshold 1"]["paper_memory_saved"] == pytest.approx(
        float((end.abs() < 1).float().mean())
    )
    assert "achieved_macs_saved" not in rows["at the paper's threshold 1"]
    assert record["published"]["threshold"] == 1.0
    assert (whole / "report.html").stat().st_size > 0
    assert (whole / "relu" / "weights.safetensors").is_file()
    assert not (whole / "finetune").exists()


def test_finished_it_is_only_shown(capsys, whole):
    before = outcome(whole)
    times = {path: path.stat().st_mtime_ns for path in whole.rglob("*.safetensors")}
    code, printed, said = call(capsys, "fcnn_mnist", *ONE, "--out", whole)
    assert code == 0
    assert said.count("found") == 4
    assert outcome(whole) == before
    assert times == {path: path.stat().st_mtime_ns for path in whole.rglob("*.safetensors")}
    assert "saved, achieved" in " ".join(printed.split())
    assert "The published row is 300 epochs on mnist; these are 1 + 1 on mnist5k." in printed


def test_other_settings_of_the_training_are_refused(capsys, whole):
    code, _, said = call(capsys, "fcnn_mnist", *ONE, "--seed", "1", "--out", whole)
    assert code == 1
    assert "holds a run with other settings (seed 0, asked for 1)" in said


@pytest.mark.slow
def test_another_threshold_keeps_the_training(capsys, whole, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    code, _, said = call(capsys, "fcnn_mnist", *ONE, "--threshold", "0.8", "--no-baseline", "--out", out)
    assert code == 0
    assert "rotated: found trained" in said
    assert read_plan(out / "compact.safetensors")[0].threshold == 0.8
    record = read_json(out / "reproduction.json")
    assert record["threshold"] == 0.8
    assert record["threshold_by"] == "given"
    assert "ReLU" not in {row["network"] for row in record["networks"]}


# Where to stop, one after the other in the same directory: a function of that stage, and in which of its calls.
STAGES = {
    "relu": ("rotated_relu.training.engine.step.Stepper.validate", 1),
    "training": ("rotated_relu.training.engine.step.Stepper.validate", 2),
    "search": ("rotated_relu.experiments.stages.prune.KeptSearch.add", 3),
    "compacting": ("rotated_relu.pruning.removal.save", 1),
    "retraining": ("rotated_relu.training.engine.step.Stepper.validate", 1),
    "retrained": ("rotated_relu.core.run_directory.Run.discard_folder", 1),
    "measuring": ("rotated_relu.experiments.pipelines.baseline.measure_networks", 1),
    "testing": ("rotated_relu.experiments.pipelines.reproduce.keep_accuracy", 4),
    "reporting": ("rotated_relu.experiments.pipelines.reproduce.report_run", 1),
}


def at_stage(stage, do, patch):
    """Call ``do`` before the stage's function does its work."""
    path, number = STAGES[stage]
    owner, _, name = path.rpartition(".")
    original, calls = pkgutil.resolve_name(path), []

    def stopped(*arguments, **options):
        calls.append(name)
        if len(calls) == number:
            do()
        return original(*arguments, **options)

    patch.setattr(pkgutil.resolve_name(owner), name, stopped)


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.slow
def test_stopped_in_every_stage_it_ends_the_same(capsys, monkeypatch, whole, tmp_path):
    out = tmp_path / "run"
    for stage in STAGES:
        with monkeypatch.context() as patch:
            at_stage(stage, interrupt, patch)
            code, _, said = call(capsys, "fcnn_mnist", *ONE, "--out", out)
        assert code == 130, stage
        assert f"Go on with: rotated-relu reproduce fcnn_mnist --out {out} --epochs 1 --data mnist5k" in said
    assert call(capsys, "fcnn_mnist", *ONE, "--out", out)[0] == 0
    assert outcome(out) == outcome(whole)
    assert not list(out.rglob("*.part"))
    assert not (out / "finetune").exists()


KILLED = """
import os, signal, sys
import pytest
import test_reproduce as test

test.reproduction.ROUNDS, test.reproduction.BATCH_SIZES = 1, (1,)
stage, *arguments = sys.argv[1:]
test.at_stage(stage, lambda: os.kill(os.getpid(), signal.SIGKILL), pytest.MonkeyPatch())
test.command_line.done("reproduce", *arguments)
"""


@pytest.mark.slow
def test_killed_within_stages_it_ends_the_same(capsys, whole, tmp_path):
    out = tmp_path / "run"
    for stage in ("search", "retraining"):
        killed = subprocess.run(
            [sys.executable, "-c", KILLED, stage, "fcnn_mnist", *ONE, "--out", out],
            cwd=HERE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert call(capsys, "fcnn_mnist", *ONE, "--out", out)[0] == 0
    assert outcome(out) == outcome(whole)


@pytest.mark.slow
def test_the_test_images_are_read_last(capsys, monkeypatch, whole, tmp_path):
    """Once per network, after everything else."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    (out / "evaluation.json").unlink()
    (out / "relu" / "evaluation.json").unlink()
    read, original = [], reproduction.keep_accuracy
    monkeypatch.setattr(reproduction, "keep_accuracy", lambda *a: read.append(a[3]) or original(*a))
    assert call(capsys, "fcnn_mnist", *ONE, "--out", out)[0] == 0
    assert read == ["validation"] * 5 + ["test"] * 5


@pytest.mark.slow
def test_two_steps(capsys, tmp_path):
    """Frozen weights are those that compaction cut from the random ones; frozen slopes are those of step 1."""
    out = tmp_path / "run"
    code, _, said = call(capsys, *TWO, "--no-baseline", "--out", out)
    assert code == 0
    assert "step 1: slopes on random weights: training, 1 epoch" in said
    record = read_json(out / "reproduction.json")
    names = [row["network"] for row in record["networks"]]
    assert names == [
        "step 1: slopes on random weights",
        "at the paper's threshold 0.03",
        "compacted",
        "step 2: weights trained",
    ]
    first, second = record["networks"][0], record["networks"][-1]
    assert second["test_accuracy"] > first["test_accuracy"] + 20
    assert 0 < second["achieved_macs_saved"] == pytest.approx(1 - record["filters_alive"] / 500)
    compact, after = (read_tensors(out / f"{name}.safetensors") for name in ("compact", "finetuned"))
    assert (compact["act1.slope"] == after["act1.slope"]).all()
    assert (compact["fc1.weight"] != after["fc1.weight"]).any()
    slopes = read_tensors(out / "slopes.safetensors")["end/act1.slope"]
    assert (after["act1.slope"] == slopes[slopes.abs() >= 0.9]).all()
    config = Config.from_dict(read_json(out / "config.json"))
    images = load_data(config)
    drawn, trained = build_model(config, images), read_tensors(out / "weights.safetensors")
    assert torch.equal(drawn.fc1.weight, trained["fc1.weight"])
    assert not torch.equal(drawn.act1.slope, trained["act1.slope"])
    assert read_json(out / "finetune.json")["trains"] == "weights"


def test_two_step_recipes_take_the_published_threshold():
    changes = {"data.name": "mnist5k", "epochs": 12}
    plan = reproduction.plan_for("fcnn_mnist_two_step", changes)
    assert (plan.threshold, plan.tolerance) == (0.03, None)
    assert (plan.train.epochs, plan.retrain_epochs) == (5, 7)
    assert (plan.baseline.epochs, plan.baseline.trains) == (12, "all")
    assert reproduction.plan_for("fcnn_mnist_two_step", changes, tolerance=1.0).threshold is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fcnn_mnst"], "unknown recipe 'fcnn_mnst': did you mean 'fcnn_mnist"),
        (["fcnn_mnist", "--tolerance", "1", "--threshold", "1"], "either --tolerance or --threshold"),
        (["fcnn_mnist", "--data", "mnist5k", "--validation", "9999"], "cannot hold 9999 images out of 4000"),
    ],
)
def test_what_cannot_work(capsys, tmp_path, arguments, words):
    code, _, said = call(capsys, *arguments, "--out", tmp_path / "run")
    assert code == 1
    assert words in said


def test_several_processes_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    plan = reproduction.plan_for("fcnn_mnist", {})
    with pytest.raises(RunError, match="reproduce works in one process"):
        reproduction.reproduce_run(plan, tmp_path)


def test_published_figures_stand_in_the_table(monkeypatch):
    row = {"network": "compacted", "validation_accuracy": 90.0, "test_accuracy": 89.0}
    saved = {"paper_memory_saved": 0.25, "paper_flops_saved": 0.2}
    record = {
        "recipe": "preact_resnet164_cifar10_l1",
        "model": "preact_resnet164",
        "data": "cifar10",
        "epochs": {"training": 1200, "retraining": 60},
        "seed": 0,
        "threshold": 0.1,
        "threshold_by": "given",
        "filters": 10,
        "filters_alive": 5,
        "networks": [{**row, **saved, "achieved_weights_saved": 0.1, "achieved_macs_saved": 0.05}],
        "published": {
            "memory_saved": 64.67,
            "flops_saved": 52.96,
            "note": "",
            "epochs": 1200,
            "data": "cifar10",
        },
    }
    columns = reproduce.outcome_table(record).columns
    assert list(columns[3].cells) == ["25.0 % / 20.0 %", "64.7 % / 53.0 %"]
    assert list(columns[4].cells) == ["10.0 % / 5.0 %", ""]
    assert not any("The published row is" in line for line in reproduce.notes(record))


def test_it_says_how_many_stages_of_how_many_are_done_and_the_time_left(tmp_path, monkeypatch):
    monkeypatch.setattr("rotated_relu.core.progress.EVERY", 0.0)
    for name in ("train_baseline", "_prune", "_retrain", "_measured"):
        monkeypatch.setattr(reproduction, name, lambda *args, **keywords: None)
    monkeypatch.setattr(
        reproduction, "_finish", lambda pair, *_: write_json(pair.rotated.run.file("reproduction"), {})
    )
    said = []
    plan = reproduction.plan_for("fcnn_mnist", {"epochs": 1})
    (tmp_path / "run").mkdir()
    reproduction.reproduce_run(plan, tmp_path / "run", progress="lines", say=said.append)
    # Two trainings, pruning, retraining, measuring, and the table, after which nothing is left.
    assert [line.partition(", ")[0] for line in said] == [
        f"reproducing fcnn_mnist: {done} of 6" for done in range(1, 6)
    ]
    assert all(line.endswith(" left") for line in said)
