"""Comparisons: what a table says, by hand; pruning to a level; a whole small one, stopped and gone on with."""

import csv
import dataclasses
import json
import re
import sys

import pytest
import torch
from torch import nn

import rotated_relu as rr
from rotated_relu.core.counting import count_macs
from rotated_relu.core.errors import MissingPackageError, RunError, UnknownNameError
from rotated_relu.core.progress import showing
from rotated_relu.core.run_directory import Run
from rotated_relu.experiments.comparison.compare import compare_run, write_results
from rotated_relu.experiments.comparison.coupled import CoupledGroups
from rotated_relu.experiments.comparison.methods import METHODS, chosen, training_config
from rotated_relu.experiments.comparison.prune import RankedChannels
from rotated_relu.experiments.comparison.results import saved_at, table, write_csv
from rotated_relu.experiments.comparison.run import Comparison
from rotated_relu.experiments.comparison.settings import Settings
from rotated_relu.experiments.comparison.trainings import Training
from rotated_relu.experiments.report.comparison import build_comparison, verdict
from rotated_relu.nn.activation import RotatedReLU
from rotated_relu.training import ConfigError, ModelConfig
from support.training_data import CONV, IMAGES


def macs(net, inputs):
    return sum(count_macs(net, inputs).values())


# --- what the table says ---------------------------------------------------------------------------------------------


def row(saved, validation, test=None, method="m", seed=0, **more):
    found = {"method": method, "label": "M", "seed": seed, "keep": 1.0, "level": saved, "macs_saved": saved,
             "parameters_saved": saved / 2, "validation": validation, **more}  # fmt: skip
    return found if test is None else {**found, "test": test}


PLAIN = {0: {"validation": 90.0, "test": 89.0}}


def test_the_largest_saving_within_the_loss_on_validation():
    rows = [row(0.1, 90.2, 89.5), row(0.3, 89.6, 88.0), row(0.4, 89.2, 89.9), row(0.6, 70.0, 95.0)]
    assert saved_at(rows, PLAIN, "m", 0.0, "before").macs == 0.1
    found = saved_at(rows, PLAIN, "m", 0.5, "before")
    # 89.6 >= 90 - 0.5; the test images do not choose, although 0.4 would look better there.
    assert (found.macs, found.parameters, found.test_loss) == (0.3, 0.15, 1.0)
    assert saved_at(rows, PLAIN, "m", 1.0, "before").macs == 0.4


def test_nothing_good_enough_saves_nothing():
    found = saved_at([row(0.5, 50.0)], PLAIN, "m", 1.0, "before")
    assert (found.macs, found.test_loss) == (0.0, None)


def test_mean_and_spread_over_seeds():
    plain = {0: {"validation": 90.0}, 1: {"validation": 80.0}}
    rows = [row(0.2, 90.0), row(0.4, 80.0, seed=1), row(0.9, 85.0)]
    found = saved_at(rows, plain, "m", 0.0, "before")
    assert found.macs == pytest.approx(0.3)
    assert found.spread == pytest.approx(0.2)
    assert (found.seeds, found.test_loss) == (2, None)


def test_after_fine_tuning_only_what_was_fine_tuned_counts():
    rows = [row(0.5, 90.0), row(0.3, 20.0, finetuned_validation=90.0)]
    assert saved_at(rows, PLAIN, "m", 0.0, "after").macs == 0.3


def test_a_fine_tuning_that_does_harm_is_dropped():
    """By the validation images, even where the test images would have kept it."""
    rows = [row(0.3, 89.9, 88.5, finetuned_validation=89.2, finetuned_test=89.9)]
    found = saved_at(rows, PLAIN, "m", 0.5, "after")
    assert (found.macs, found.test_loss) == (0.3, 0.5)  # 89.0 - 88.5


def test_csv_has_one_line_per_network(tmp_path):
    write_csv([row(0.1, 90.2), row(0.3, 89.6, 88.0)], tmp_path / "a.csv")
    with open(tmp_path / "a.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["macs_saved"] for line in lines] == ["0.1", "0.3"]
    assert [line["test"] for line in lines] == ["", "88.0"]


# --- methods and settings --------------------------------------------------------------------------------------------


def test_trainings_differ_in_slopes_and_pull_alone():
    base = dataclasses.replace(CONV, slope_l1=3.0, penalty_form="proximal")
    plain = training_config(base, "relu")
    assert not plain.model.rotated
    assert (plain.slope_l1, plain.total_shrinkage) == (0, 0)
    slimming = training_config(base, "slimming", strength=4.0)
    assert dataclasses.replace(slimming, total_shrinkage=0.0, penalized="slopes") == plain
    rotated = training_config(base, "rotated")
    assert rotated.model == ModelConfig("demo_resnet", rotated=True, slope_init="ones")
    l1 = training_config(base, "rotated_l1", strength=4.0)
    assert dataclasses.replace(l1, total_shrinkage=0.0) == rotated
    assert (l1.total_shrinkage, l1.penalty_form) == (4.0, "subgradient")
    assert training_config(base, "budget", keep=0.4).budget.keep == 0.4


def test_unknown_method_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="slimming"):
        chosen(["sliming"])


@pytest.mark.parametrize(
    "changes",
    [{"levels": (1.5,)}, {"keep": (0.0,)}, {"seeds": ()}, {"strengths": (0.0,)}, {"tune_epochs": 0}],
)
def test_bad_settings_are_named(changes):
    with pytest.raises(ConfigError):
        Settings(CONV, **changes)


def test_without_torch_pruning_nothing_is_trained(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(MissingPackageError, match="torch_pruning"):
        Comparison(Settings(CONV), tmp_path / "a")
    assert not (tmp_path / "a").exists()
    Comparison(Settings(CONV, methods=("rotated",)), tmp_path / "b")


def test_methods_of_a_missing_tool_are_left_out_and_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "modelopt", None)
    said = []
    made = Comparison(Settings(CONV, methods=("rotated", "fastnas")), tmp_path / "a", say=said.append)
    assert [method.name for method in made.settings.chosen] == ["rotated"]
    assert said[0].startswith("fastnas is left out: ")
    assert "rotated-relu[rivals]" in said[0]
    (failed,) = made.failures()
    assert (failed["method"], "modelopt" in failed["reason"]) == ("fastnas", True)


# --- pruning to a level ----------------------------------------------------------------------------------------------


def hidden():
    """3 -> 4 -> 2 without biases: a hidden unit costs 3 + 2 of 20 multiplications."""
    net = nn.Sequential(nn.Linear(3, 4, bias=False), RotatedReLU(4), nn.Linear(4, 2, bias=False))
    net[1].slope.data.copy_(torch.tensor([3.0, 1.0, 4.0, 2.0]))
    return net


def test_the_lowest_scores_go_until_the_level_is_met():
    inputs = torch.zeros(1, 3)
    pruner = RankedChannels(hidden(), {"1.slope": torch.tensor([3.0, 1.0, 4.0, 2.0])}, inputs)
    for level, units, left in ((0.25, 3, [3, 4, 2]), (0.26, 2, [3, 4]), (0.5, 2, [3, 4]), (0.7, 1, [4])):
        small = pruner.at(level)
        assert macs(small, inputs) == 5 * units
        assert small[1].slope.tolist() == left
    assert pruner.at(0.99) is None  # nothing would lead from input to output


def test_companions_go_along():
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 2), RotatedReLU(2))
    net[3].slope.data.fill_(1.0)
    nn.init.constant_(net[1].bias, 5.0)
    scores = {"1.weight": torch.tensor([1.0, 2.0])}
    small = RankedChannels(net, scores, torch.zeros(1, 3), {"1.weight": ["1.bias"]}).at(0.3)
    assert small[0].weight.shape == (1, 3)


def test_torch_pruning_meets_a_level():
    pytest.importorskip("torch_pruning")
    inputs = torch.zeros(1, 1, 8, 8)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip
    nn.init.constant_(net[0].weight[:8], 0.0)  # the eight that the L1 norm takes first
    nn.init.constant_(net[3].weight[:8], 0.0)
    for name in ("filter_l1", "group_norm", "group_isomorphic", "depgraph"):
        small = CoupledGroups(net, METHODS[name], inputs).at(0.4)
        assert 0.4 <= 1 - macs(small, inputs) / macs(net, inputs) < 0.6
        assert small(inputs).shape == (1, 3)
    small = CoupledGroups(net, METHODS["group_round8"], inputs).at(0.4)
    assert (small[0].out_channels % 8, small[3].out_channels % 8) == (0, 0)


def test_torch_pruning_on_a_compacted_network():
    pytest.importorskip("torch_pruning")
    inputs = torch.zeros(1, 3, 32, 32)
    torch.manual_seed(0)
    net = rr.models.resnet20()
    with torch.no_grad():
        for slope in rr.slopes(net).values():
            slope[::3] = 0
    compacted = rr.compact(net, inputs, 1e-3).model
    small = CoupledGroups(compacted, METHODS["filter_l1"], inputs).at(0.2)
    assert macs(small, inputs) <= 0.8 * macs(compacted, inputs)
    assert small.eval()(inputs).shape == (1, 10)


# --- a whole comparison ----------------------------------------------------------------------------------------------

SMALL = Settings(
    CONV,
    methods=("budget", "slimming"),
    levels=(0.3,),
    finetuned_levels=(0.3,),
    finetune_epochs=1,
    strengths=(0.5, 1.0),
    tune_epochs=1,
    keep=(0.6,),
    latency_repeats=2,
)


class Unread:
    """A test split that must not be looked at yet."""

    def __getattr__(self, name):
        raise AssertionError("the test images were read")


def comparison(path, settings=SMALL, images=IMAGES):
    made = Comparison(settings, path, say=lambda line: None, device="cpu", progress="none")
    made.task.__dict__["images"] = images
    return made


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"reached": "yes"}, "reached must be bool"),
        ({"macs_saved": None}, "macs_saved must be float"),
        ({"validation": [1]}, "validation must be float"),
        ({"finetuned_test": {}}, "finetuned_test must be float"),
        ({"latency": [{"engine": "onnxruntime"}]}, "KeyError: 'batch_size'"),
    ],
)
def test_what_is_known_of_a_point_is_held_to_its_kinds(changes, says, tmp_path):
    made = comparison(tmp_path)
    point = next(iter(made.points))
    known = {"reached": True, "macs_saved": 0.4, "parameters_saved": 0.3, "validation": 90.0}
    made.file(point).write_text(json.dumps(known))
    # Which point it is says the name of its file.
    assert made.row(point) == {**known, "method": "budget", "label": METHODS["budget"].label, "seed": 0,
                               "keep": 0.6, "level": 0.0}  # fmt: skip
    made.file(point).write_text(json.dumps(known | changes))
    with pytest.raises(RunError, match=re.escape(point.name)) as refused:
        made.row(point)
    assert says in str(refused.value)


def stages(made):
    return made.train, made.prune, made.finetune, made.time, made.test


@pytest.mark.slow
def test_a_whole_comparison_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    blind = comparison(tmp_path, images=dataclasses.replace(IMAGES, test=Unread()))
    calls = []
    monkeypatch.setattr("rotated_relu.experiments.comparison.fitting.finetune", stopping(calls, after=2))
    blind.train()
    blind.prune()
    with pytest.raises(KeyboardInterrupt):
        blind.finetune()
    trained = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("weights.safetensors")}
    tried = json.loads((tmp_path / "tuning" / "slimming.json").read_text())["validation_accuracy"]
    # slimming at each strength tried, three trainings in full, the plain one and a pruned one trained on
    assert len(trained) == len(tried) + 3 + 2
    monkeypatch.undo()
    again = comparison(tmp_path)
    for stage in stages(again):
        stage()
    assert all(path.stat().st_mtime_ns == when for path, when in trained.items())
    rows = again.rows()
    assert {r["method"] for r in rows} == set(SMALL.methods)
    assert all({"test", "finetuned_test", "latency"} <= r.keys() for r in rows if r["level"] == 0.3)
    # A training that has killed nothing is not fine-tuned: its level 0 is the trained network.
    starts = [r for r in rows if r["level"] == 0]
    assert {r["method"]: "finetuned_test" in r for r in starts} == {"slimming": False, "budget": True}
    budget = next(r for r in rows if r["method"] == "budget" and r["level"] == 0)
    assert budget["macs_saved"] >= 0.4
    assert {f"{strength:g}" for strength in SMALL.strengths} <= tried.keys()
    assert "finetuned_test" in again.trainings.reference()[0]
    with pytest.raises(RunError, match="finetune_epochs"):
        comparison(tmp_path, dataclasses.replace(SMALL, finetune_epochs=2))


def stopping(calls, after):
    from rotated_relu.training import finetune

    def wrapped(*args, **kwargs):
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return finetune(*args, **kwargs)

    return wrapped


@pytest.fixture
def told():
    """What a page is made from."""
    rows = [row(0.3, 89.8, 88.9, finetuned_validation=90.1, finetuned_test=89.0), row(0.5, 88.0, 87.0)]
    return {
        "title": "T", "rows": rows, "table": table(rows, PLAIN), "reference": PLAIN, "trained": {"relu": PLAIN[0]},
        "made": [("seeds", "0")],
    }  # fmt: skip


def test_the_page(told, tmp_path):
    assert (
        verdict(told).replace("\u202f", " ")
        == "M saves 30 % of the computation at a loss of at most half a point, before fine-tuning"
    )
    page = build_comparison(told, tmp_path / "a.html").read_text()
    assert "MACs saved, after fine-tuning" in page
    assert page.count("frontier-") > 1


def test_an_unfinished_page_says_so(told, tmp_path):
    said = {
        finished: build_comparison({**told, "finished": finished}, tmp_path / "a.html").read_text()
        for finished in (True, False)
    }
    assert "Unfinished: the same command goes on, and what is missing comes then." in said[False]
    assert "Unfinished" not in said[True]


@pytest.mark.parametrize(("epochs", "tuning"), [(24, 3), (160, 20), (1, 1)])
def test_tuning_runs_follow_the_length_of_the_training(epochs, tuning):
    settings = Settings(dataclasses.replace(CONV, epochs=epochs), methods=("slimming",))
    assert settings.tuning_epochs == tuning


def test_it_says_what_is_done_how_many_of_how_many_and_the_time_left(tmp_path, monkeypatch):
    said = []
    made = comparison(tmp_path)
    made.task.say = said.append
    monkeypatch.setattr(made.trainings, "strength", lambda name: 1.0)
    monkeypatch.setattr(made.trainings, "trained", lambda training: None)
    monkeypatch.setattr(made, "_pruned_row", lambda point: {"reached": False})
    monkeypatch.setattr(made.trainings, "evaluate", lambda split: None)
    with showing("lines", said.append):
        made.train()
        made.prune()
    # ReLU, Network Slimming and the budget; the budget and slimming as trained and at 30 %, the budget's own at 40 %.
    assert [re.sub(", [^,]* left$", "", line) for line in said[:3]] == [
        "training ReLU, 1 of 3",
        "training Rotated ReLU + budget (ours) (budget 60 %), 2 of 3",
        "training Network Slimming, 3 of 3",
    ]
    assert said[1].endswith(" left")
    assert said[3] == "pruning Rotated ReLU + budget (ours) as trained (budget 60 %), 1 of 4"
    assert said[-1].startswith("pruning Network Slimming at 30 %, 4 of 4")


def test_the_directory_of_a_run_is_no_place_for_a_comparison(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RunError, match="holds a run; choose another directory"):
        comparison(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_two_at_once_are_refused(tmp_path):
    with Run(tmp_path).claimed(), pytest.raises(RunError, match="is in use by process"):
        compare_run(SMALL, tmp_path, "demo", device="cpu")


def test_accuracies_that_are_gone_are_waited_for(tmp_path):
    made = comparison(tmp_path)
    point = next(iter(made.points))
    known = {"reached": True, "macs_saved": 0.4, "parameters_saved": 0.3, "validation": 90.0}
    made.file(point).write_text(json.dumps(known))
    write_results(made, "demo")  # what is there of the points cannot be told without the plain network
    assert not (tmp_path / "compare.json").exists()
    made.trainings.note(Training("relu", 0), {"validation": 91.0})
    assert made.trainings.has_reference
