"""Every method has the same epochs in all, from scratch and from weights that were brought."""

import dataclasses

import pytest

from rotated_relu.experiments.comparison.epochs import (
    PUBLISHED_SHRINKAGE,
    first_part,
    second_part,
    shortened,
    total_epochs,
)
from rotated_relu.experiments.comparison.methods import METHODS
from rotated_relu.experiments.comparison.settings import Settings, Weights
from rotated_relu.training import ConfigError, ScheduleConfig
from support.training_data import CONV

BASE = dataclasses.replace(CONV, epochs=40, schedule=ScheduleConfig("cosine"))
SCRATCH = Settings(BASE, finetune_epochs=20)
BROUGHT = Settings(dataclasses.replace(BASE, epochs=60), Weights("a.pt"))


def epochs(settings, method):
    table = "times.json" if method.training == "budget_latency" else None
    first = first_part(settings, method.training, seed=0, strength=1.0, keep=0.5, table=table)
    return (0 if first is None else first.epochs), second_part(settings, method, 0).epochs


@pytest.mark.parametrize("name", METHODS)
def test_from_scratch(name):
    parts = epochs(SCRATCH, METHODS[name])
    # DepGraph's sparse training comes after the plain network's 40 epochs, and shares the 20 that are left.
    assert parts == ((10, 10) if name == "depgraph" else (40, 20))
    assert sum(parts) + (40 if name == "depgraph" else 0) == total_epochs(SCRATCH) == 60


@pytest.mark.parametrize("name", METHODS)
def test_from_weights(name):
    method = METHODS[name]
    parts = epochs(BROUGHT, method)
    assert parts == ((0, 60) if method.training == "relu" else (30, 30))
    assert sum(parts) == total_epochs(BROUGHT) == 60


def test_both_parts_share_one_schedule():
    first = first_part(BROUGHT, "slimming", seed=3, strength=2.0)
    second = second_part(BROUGHT, METHODS["slimming"], 3)
    assert (first.schedule.part, second.schedule.part) == ((0.0, 0.5), (0.5, 1.0))
    assert (first.total_shrinkage, second.total_shrinkage) == (2.0, 0.0)
    assert (first.seed, second.seed) == (3, 3)
    assert first.optimizer.lr == second.optimizer.lr == BASE.optimizer.lr


def test_a_budget_is_met_before_the_pruned_network_trains_on():
    first = first_part(BROUGHT, "budget", seed=0, keep=0.4)
    assert first.budget.keep == 0.4
    assert first.budget.end + first.budget.window <= 1
    assert second_part(BROUGHT, METHODS["budget"], 0).budget.keep == 1


@pytest.mark.parametrize("settings", [SCRATCH, BROUGHT])
def test_a_budget_of_milliseconds_counts_by_its_table(settings):
    first = first_part(settings, "budget_latency", seed=0, keep=0.5, table="times.json")
    assert (first.budget.unit, first.budget.keep, first.budget.table) == ("latency", 0.5, "times.json")
    assert second_part(settings, METHODS["budget_latency"], 0).budget.keep == 1
    with pytest.raises(ConfigError, match="table"):
        first_part(settings, "budget_latency", seed=0, keep=0.5)


def test_speed_ups_bring_their_method_and_are_shares_of_the_time():
    settings = Settings(BASE, methods=("budget", "random"), keep=(0.6,), speedups=(1.25, 2.0))
    assert [method.name for method in settings.chosen] == ["budget", "budget_latency", "random"]
    assert settings.keeps("budget_latency") == (0.8, 0.5)
    assert settings.keeps("budget") == (0.6,)
    assert "budget_latency" not in [method.name for method in Settings(BASE).chosen]
    with pytest.raises(ConfigError, match="speedups of a comparison must be at least one for budget_latency"):
        Settings(BASE, methods=("budget_latency",))
    for speedup in (1.0, 0.5, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="speedups of a comparison must be above 1"):
            Settings(BASE, speedups=(speedup,))


def test_depgraph_goes_as_published():
    first = first_part(BROUGHT, "depgraph", seed=0)
    second = second_part(BROUGHT, METHODS["depgraph"], 0)
    for part in (first, second):
        # 0.01 for 128 images; this base has 16
        assert part.optimizer.lr == pytest.approx(0.01 / 8)
        assert (part.schedule.name, part.optimizer.momentum) == ("steps", 0.9)
    assert (first.optimizer.weight_decay, second.optimizer.weight_decay) == (0.0, 5e-4)
    # 5e-4, moved tenfold by momentum, at 0.01, 0.001 and 0.0001 for 60, 20 and 20 epochs of 390 steps
    assert pytest.approx(5e-4 * 10 * 390 * (0.6 + 0.02 + 0.002), abs=0.005) == PUBLISHED_SHRINKAGE


def test_stand_ins_do_not_train():
    for name, trains in (("random", "weights"), ("onnxsim", "weights"), ("slimming", "weights"),
                         ("group_norm", "all"), ("fastnas", "all"), ("budget", "all")):  # fmt: skip
        assert second_part(SCRATCH, METHODS[name], 0).trains == trains


def test_short_runs_have_first_parts_of_the_same_length():
    for settings in (SCRATCH, BROUGHT):
        assert (
            first_part(shortened(settings), "slimming", seed=0, strength=1.0).epochs == settings.tuning_epochs
        )


def test_too_few_epochs_are_refused():
    with pytest.raises(ConfigError, match="at least 2 with weights"):
        Settings(dataclasses.replace(BASE, epochs=1), Weights("a.pt"))
    with pytest.raises(ConfigError, match="depgraph"):
        Settings(BASE, finetune_epochs=1, methods=("depgraph",))
