"""The demo from end to end, on a network of one hidden layer so that it takes seconds; what it promises to leave."""

import json

import pytest

from rotated_relu.deploy.timing import LatencyComparison
from rotated_relu.experiments.pipelines import demo as demo_pipeline
from rotated_relu.pruning.removal import read_plan
from rotated_relu.training import Config
from support.command_line import call
from support.cut_network import cut

# 784-500-10 with a pull on the slopes that kills some of them within three epochs.
SMALL = {
    "model": {"name": "fcnn"},
    "data": {"name": "mnist5k", "flip": False, "crop_padding": 0},
    "optimizer": {"lr": 0.05},
    "epochs": 3,
    "precision": "32",
    "slope_l1": 0.03,
}
PROMISED = (
    "relu_test_accuracy",
    "rotated_test_accuracy",
    "compact_test_accuracy",
    "finetuned_test_accuracy",
    "threshold",
    "macs_saved",
    "parameters_saved",
    "latency_speedup",
    "certificate_max_relative_difference",
)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(
        demo_pipeline, "demo_config", lambda seed, epochs: Config.from_dict({**SMALL, "seed": seed})
    )
    monkeypatch.setattr(demo_pipeline, "ROUNDS", 3)
    # What is confirmed faster depends on the machine: here everything beats the original, all layouts alike.
    monkeypatch.setattr(
        "rotated_relu.deploy.fastest.compare_latency",
        lambda runs, repeats, **_: LatencyComparison(
            {name: [2.0 if name == "original" else 1.0] * repeats for name in runs}
        ),
    )
    monkeypatch.setattr(demo_pipeline, "FINETUNE_EPOCHS", 1)


@pytest.mark.slow
def test_demo_leaves_what_it_promises_and_can_be_repeated(capsys, monkeypatch, tmp_path):
    out, attempts = tmp_path / "demo", cut(monkeypatch)
    code, printed, _ = call(capsys, "demo", "--out", out, "--progress", "none")
    assert code == 0
    summary = json.loads((out / "summary.json").read_text())
    assert set(PROMISED) <= set(summary)
    for name in PROMISED[:4]:
        assert 50 < summary[name] <= 100
    # One hidden layer: 794 MACs per feature kept.
    assert summary["macs_saved"] == pytest.approx(1 - summary["filters_alive"] / summary["filters"])
    assert summary["certificate_max_relative_difference"] <= 1e-9
    assert summary["latency_speedup"] > 0
    assert summary["seed"] == 0
    assert {"torch", "onnxruntime", "rotated-relu"} <= set(summary["environment"]["versions"])
    for name in (
        "report.html",
        "compact.safetensors",
        "compact.onnx",
        "finetuned.safetensors",
        "measure.json",
    ):
        assert (out / name).stat().st_size > 0
    assert (out / "relu" / "weights.safetensors").is_file()
    assert "MACs saved" in printed
    assert str(out / "report.html") in printed.replace("\n", "")
    report = (out / "report.html").read_text()
    assert "Compacted, fine-tuned" in report
    assert "paper count" in report
    assert read_plan(out / "compact.safetensors")[0].threshold == summary["threshold"]

    # Again: trainings are reused, the rest is done anew, with the same outcome.
    before = (out / "weights.safetensors").stat().st_mtime_ns
    code, _, said = call(capsys, "demo", "--out", out, "--progress", "none")
    assert code == 0
    assert said.count("found trained") == 2
    assert (out / "weights.safetensors").stat().st_mtime_ns == before
    again = json.loads((out / "summary.json").read_text())
    for name in PROMISED[:5]:
        assert again[name] == pytest.approx(
            summary[name], abs=1.0
        )  # fine-tuning runs at another width perhaps

    # The demo's directory is a run like any other.
    code, printed, _ = call(capsys, "evaluate", out, "--weights", "compact")
    assert code == 0

    # With other options it stops and says which; with --fresh it starts over and leaves foreign files alone.
    code, _, said = call(capsys, "demo", "--out", out, "--seed", "1", "--progress", "none")
    assert code == 1
    assert "seed 0, asked for 1" in said
    assert "--fresh" in said
    (out / "notes.txt").write_text("mine")
    assert attempts == []
    demo_pipeline.clear(out)
    assert [child.name for child in out.iterdir()] == ["notes.txt"]


def test_clear_of_what_is_not_there(tmp_path):
    demo_pipeline.clear(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_ctrl_c_in_the_demo_names_the_same_command(capsys, monkeypatch, tmp_path):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("rotated_relu.training.fit", stop)
    code, _, err = call(capsys, "demo", "--out", tmp_path / "demo", "--seed", "3")
    assert code == 130
    assert f"Go on with: rotated-relu demo --out {tmp_path / 'demo'} --seed 3" in err
    assert not (tmp_path / "demo").exists() or not list((tmp_path / "demo").rglob("*.part"))


def test_the_real_recipe_differs_from_its_twin_in_the_slopes_only(monkeypatch):
    monkeypatch.undo()
    rotated = demo_pipeline.demo_config(seed=5, epochs=2)
    relu = demo_pipeline.relu_baseline(rotated)
    assert (rotated.seed, rotated.epochs, rotated.data.name) == (5, 2, "mnist5k")
    changed = {key for key, value in rotated.to_dict().items() if relu.to_dict()[key] != value}
    assert changed == {"model", "slope_l1"}
    assert (rotated.model.rotated, relu.model.rotated, relu.slope_l1) == (True, False, 0.0)


def test_fresh_does_not_empty_a_directory_that_is_no_run(capsys, tmp_path):
    """Files of somebody else may have the names of ours."""
    (tmp_path / "report.html").write_text("my thesis")
    code, _, error = call(capsys, "demo", "--fresh", "--out", tmp_path)
    assert code == 1
    assert "is not a run directory: it has no config.json, but report.html; nothing was deleted" in error
    assert (tmp_path / "report.html").read_text() == "my thesis"
