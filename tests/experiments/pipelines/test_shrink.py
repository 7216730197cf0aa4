"""A trained network of somebody's own file, shrunk: the whole path, stopped in every stage, and what is refused."""

import json
import sys

import pytest
import torch
from safetensors import safe_open
from torch import nn

from rotated_relu.core.errors import RunError
from rotated_relu.core.run_directory import read_metrics
from rotated_relu.experiments.pipelines import shrink
from rotated_relu.experiments.pipelines.shrink import Shrinking, parts, phases, shrink_run
from rotated_relu.training.brought import trust as trusted
from support.command_line import call

CODE = """
import torch.nn.functional as F
from torch import nn

class Root(nn.Module):
    '''Functional activations in the root, and a dictionary of outputs.'''

    def __init__(self, width):
        super().__init__()
        self.first, self.second = nn.Linear(784, width), nn.Linear(width, width)
        self.last = nn.Linear(width, 10)

    def forward(self, x):
        return {"logits": self.last(F.relu(self.second(F.relu(self.first(x.flatten(1))))))}

def build(width=16):
    return Root(width)
"""
FILES = ("compact.safetensors", "metrics.csv", "weights.safetensors", "config.json", "provenance.json")


@pytest.fixture(scope="module")
def owner(tmp_path_factory):
    """A file of code and a file of weights, as somebody has them."""
    from rotated_relu.training.data.load import load_images

    folder = tmp_path_factory.mktemp("owner")
    (folder / "owners_net.py").write_text(CODE)
    scope = {}
    exec(CODE, scope)
    torch.manual_seed(0)
    net, images = scope["build"](), load_images("mnist5k").train
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for indices in torch.randperm(len(images)).split(128):
        optimizer.zero_grad()
        scores = net(images.normalised(indices))["logits"]
        nn.functional.cross_entropy(scores, images.labels[indices]).backward()
        optimizer.step()
    torch.save({"state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}}, folder / "net.pth")
    yield folder
    sys.modules.pop("owners_net", None)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(shrink, "ROUNDS", 1)
    monkeypatch.setattr(shrink, "BATCH_SIZES", (1,))
    monkeypatch.setattr(trusted, "_named", set())


def wanted(owner, **changes):
    made = {"model": f"{owner}/owners_net.py:build", "weights": f"{owner}/net.pth", "data": "mnist5k"}
    return Shrinking(**{**made, "keep": 0.5, "epochs": 2, "precision": "32", **changes})


@pytest.fixture(scope="module")
def whole(owner, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shrink, "ROUNDS", 1)
        patch.setattr(shrink, "BATCH_SIZES", (1,))
        return out, shrink_run(wanted(owner), out)


def test_what_it_leaves(whole, owner):
    out, summary = whole
    assert {"compact.safetensors", "compact.onnx", "summary.json", "report.html"} <= {
        p.name for p in out.iterdir()
    }
    assert json.loads((out / "summary.json").read_text()) == summary
    # 784 * 16 + 16 * 16 + 16 * 10 = 12,960 multiplications, a whole number of which is left.
    assert summary["macs_kept"] <= 0.5
    assert summary["macs_kept"] * 12960 == pytest.approx(round(summary["macs_kept"] * 12960))
    assert summary["original_test_accuracy"] > 70
    assert summary["shrunk_test_accuracy"] > summary["original_test_accuracy"] - 8
    assert summary["certificate_max_relative_difference"] <= 1e-9
    assert (summary["epochs"], summary["latency_batch_size"]) == (2, 1)
    assert [row["epoch"] for row in read_metrics(out / "metrics.csv")] == [0, 1]
    assert not (out / "shrink").exists()
    assert not (out / "finetune").exists()


def test_the_page_speaks_of_the_original(whole):
    text = (whole[0] / "report.html").read_text()
    assert "Original" in text
    assert "no result yet" not in text


def test_repeated_it_only_reads(whole, owner, monkeypatch):
    monkeypatch.setattr(shrink, "_shrink", None)
    assert shrink_run(wanted(owner), whole[0]) == whole[1]


STAGES = {
    "choosing": ("rotated_relu.training.engine.step.Stepper.validate", 1),
    "removing": ("rotated_relu.deploy.autotune.compact", 1),
    "training on": ("rotated_relu.training.engine.step.Stepper.validate", 1),
    "saving": ("rotated_relu.pruning.removal.save", 1),
    "exporting": ("rotated_relu.experiments.pipelines.shrink.export_run", 1),
    "measuring": ("rotated_relu.experiments.pipelines.shrink.measure_run", 1),
    "testing": ("rotated_relu.experiments.pipelines.shrink.evaluate_run", 2),
    "reporting": ("rotated_relu.experiments.pipelines.shrink.report_run", 1),
}


def test_stopped_in_every_stage_it_ends_the_same(whole, owner, tmp_path):
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
                shrink_run(wanted(owner), out)
    shrink_run(wanted(owner), out)
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


def test_other_settings_need_another_directory(whole, owner):
    with pytest.raises(RunError, match=r"other settings \(epochs, keep\)"):
        shrink_run(wanted(owner, keep=0.4, epochs=3), whole[0])


def test_a_network_that_guesses_is_refused_and_nothing_is_left(owner, tmp_path):
    torch.manual_seed(1)
    scope = {}
    exec(CODE, scope)
    torch.save(scope["build"]().state_dict(), tmp_path / "untrained.pt")
    out = tmp_path / "run"
    with pytest.raises(RunError, match=r"is not trained on these classes .* --mean, --std and --image-size"):
        shrink_run(wanted(owner, weights=f"{tmp_path}/untrained.pt"), out)
    assert not (out / "config.json").exists()
    assert shrink_run(wanted(owner, epochs=1), out)["epochs"] == 1  # the corrected command goes through


def test_code_of_a_run_is_not_executed_by_other_verbs(capsys, whole, monkeypatch):
    code, _, error = call(capsys, "evaluate", whole[0])
    assert code == 1
    assert "owners_net.py:build: that code would be executed" in error
    monkeypatch.setattr(trusted, "_everything", False)
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
    code, _, error = call(capsys, "shrink", *arguments, "--model-option", "width", "--out", whole[0])
    assert code == 2
    assert "is not NAME=VALUE" in error


def test_epochs_are_divided_and_share_one_schedule(owner):
    assert [parts(n) for n in (1, 2, 5, 20)] == [(1, 0), (1, 1), (2, 3), (10, 10)]
    config = shrink._config(wanted(owner, epochs=5), None)
    choosing, training_on = phases(config, 0.3)
    assert (choosing.epochs, training_on.epochs) == (2, 3)
    assert choosing.schedule.part == (0.0, 0.4)
    assert training_on.schedule.part == (0.4, 1.0)
    assert (choosing.budget.keep, training_on.budget.keep) == (0.3, 1.0)


def test_the_default_rate_is_proportional_to_the_batch(owner):
    assert shrink._config(wanted(owner, batch_size=64), None).optimizer.lr == pytest.approx(0.01)
    assert shrink._config(wanted(owner, lr=0.3), None).optimizer.lr == 0.3
