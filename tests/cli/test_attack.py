"""``rotated-relu attack`` on small trained runs."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from rotated_relu.experiments.paper.paths import Block
from rotated_relu.experiments.report.collect import paths_part, report_data
from rotated_relu.experiments.run_networks import open_run
from support.command_line import call, done

pytest.importorskip("torchattack", reason="optional: pip install torchattack")

SETTINGS = ["--model", "fcnn", "--data", "mnist5k", "--precision", "32", "--lr", "0.05", "--progress", "none"]
FEW = ["--images", "60", "--pgd-images", "20", "--steps", "4", "--progress", "none"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A pruned run and a ReLU run, which no test changes."""
    folder = tmp_path_factory.mktemp("runs")
    done("train", *SETTINGS, "--epochs", "1", "--out", folder / "rotated")
    done("train", *SETTINGS, "--epochs", "1", "--relu", "--out", folder / "relu")
    done("prune", folder / "rotated", "--threshold", "0.9", "--round-to", "1")
    return folder


@pytest.fixture
def own(runs, tmp_path):
    """Copies of one's own."""
    for name in ("rotated", "relu"):
        shutil.copytree(runs / name, tmp_path / name)
    return tmp_path / "rotated", tmp_path / "relu"


@pytest.mark.slow
def test_attack_compares_all_networks_of_all_runs(capsys, own):
    run, rival = own
    code, out, err = call(capsys, "attack", run, rival, *FEW)
    assert code == 0
    assert err == ""
    found = json.loads((run / "attack.json").read_text())
    assert [(row["run"], row["weights"], row["kind"]) for row in found["networks"]] == [
        (str(run), "trained", "rotated"),
        (str(run), "compact", "compact"),
        (str(rival), "trained", "relu"),
    ]
    for row in found["networks"]:
        assert 100 >= row["clean"] >= row["fgsm"] >= 0
        assert 0 <= row["pgd"] <= 100
        assert row["lipschitz"] > 0
    settings = found["settings"]
    assert (settings["images"], settings["pgd_images"], settings["split"]) == (60, 20, "test")
    assert (settings["eps"], settings["steps"]) == (0.031, 4)
    assert settings["step"] == pytest.approx(0.0062)
    assert found["library"].startswith("torchattack ")
    assert not (rival / "attack.json").exists()
    assert "eps 0.031, 4 steps; 60 test images, 20 for PGD and Lipschitz" in out


def test_the_report_shows_the_attacks(capsys, own):
    run, rival = own
    assert call(capsys, "attack", run, rival, *FEW)[0] == 0
    found = json.loads((run / "attack.json").read_text())["networks"]
    data = report_data(open_run(str(run)))
    assert [(row["key"], row["label"]) for row in data["attack"]["networks"]] == [
        ("rotated", "Rotated"),
        ("compact", "Compacted"),
        ("relu", "ReLU (relu)"),
    ]
    for row, kept in zip(data["attack"]["networks"], found, strict=True):
        assert all(row[name] == kept[name] for name in ("clean", "fgsm", "pgd", "lipschitz"))
    assert "paths" not in data  # no residual blocks
    assert call(capsys, "report", run)[0] == 0
    assert "Under attack" in (run / "report.html").read_text(encoding="utf-8")


def test_path_lengths_are_binned_by_their_common_divisor():
    # Blocks of 40 and 60 filters: lengths 0, 40, 60, 100, all multiples of 20, six of which fit into 60 bins.
    part = paths_part([Block("a", 40, 30), Block("b", 60, 0, passable=False)])
    assert (part["blocks"], part["width"]) == (2, 20)
    assert part["before"] == {"paths": 4, "mean": 50.0, "shares": [0.25, 0, 0.25, 0.25, 0, 0.25]}
    # 30 of 40 filters alive, and nothing gets through the other block: lengths 0 and 30.
    assert part["after"] == {"paths": 2, "mean": 15.0, "shares": [0.5, 0.5]}
    # 100 blocks of 10 filters: 1,000 filters in at most 60 bins of a multiple of 10.
    assert paths_part([Block("a", 10, 10)] * 100)["width"] == 20


def test_the_same_command_gives_the_same_result(capsys, own):
    results = []
    for _ in range(2):
        assert call(capsys, "attack", own[0], *FEW, "--random-start", "--device", "cpu")[0] == 0
        results.append((own[0] / "attack.json").read_bytes())
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("progress", "shown"), [("lines", "trained network, 1 of 2"), ("bar", "compact network, 2 of 2")]
)
def test_progress_goes_to_stderr(capsys, monkeypatch, own, progress, shown):
    monkeypatch.setenv("FORCE_COLOR", "1")  # a bar is drawn in terminals alone
    monkeypatch.setenv("COLUMNS", "300")
    code, out, err = call(capsys, "attack", own[0], *FEW[:-1], progress)
    assert code == 0
    assert shown in err
    assert shown not in out


def test_more_images_than_there_are_means_all(capsys, own):
    # 1,000 digits are the test split.
    code, out, _ = call(capsys, "attack", own[1], "--images", "5000", "--pgd-images", "1", "--steps", "1")
    assert code == 0
    assert json.loads((own[1] / "attack.json").read_text())["settings"]["images"] == 1000
    assert "1,000 test images" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--eps", "8"], "eps is 8, but must be above 0 and at most 1"),
        (["--device", "gpu"], "unknown device 'gpu'"),
        (["--progress", "line"], "unknown progress 'line': did you mean 'lines' or 'none'?"),
    ],
)
def test_attack_with_options_that_cannot_work(capsys, own, options, message):
    code, out, err = call(capsys, "attack", own[0], *options)
    assert (code, out) == (1, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (own[0] / "attack.json").exists()


def test_runs_of_different_images_are_refused(capsys, own):
    run, rival = own
    config = json.loads((rival / "config.json").read_text())
    config["data"]["name"] = str(write_images(run.parent / "images"))
    (rival / "config.json").write_text(json.dumps(config))
    code, _, err = call(capsys, "attack", run, rival, *FEW)
    assert code == 1
    assert f"{rival} has other test images than {run}" in err
    assert not (run / "attack.json").exists()


def write_images(folder):
    """Ten grey images of each class; returns the folder."""
    for label in "0123456789":
        (folder / label).mkdir(parents=True)
        for index in range(10):
            Image.fromarray(np.full((28, 28), index, np.uint8)).save(folder / label / f"{index}.png")
    return folder


def test_a_failure_half_way_writes_nothing(capsys, own):
    run, rival = own
    (run / "attack.json").write_text("of an earlier time")
    (rival / "weights.safetensors").write_bytes(b"damaged")
    code, out, err = call(capsys, "attack", run, rival, *FEW)
    assert (code, out) == (1, "")
    assert "weights.safetensors" in err
    assert (run / "attack.json").read_text() == "of an earlier time"


def test_pruning_again_deletes_the_result(capsys, own):
    (own[0] / "attack.json").write_text("of another network")
    assert call(capsys, "prune", own[0], "--threshold", "0.8", "--round-to", "1")[0] == 0
    assert not (own[0] / "attack.json").exists()
