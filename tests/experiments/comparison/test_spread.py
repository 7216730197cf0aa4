"""Means, deviations and savings in between, by hand."""

import math

import pytest

from rotated_relu.experiments.comparison.spread import (
    Spread,
    equal_training,
    faster_at_loss,
    frontier,
    gain_at_loss,
    interpolated,
    pooled_standard_error,
    spread,
    target_of,
)

REFERENCE = {0: {"test": 90.0, "finetuned_test": 91.0}, 1: {"test": 90.0, "finetuned_test": 91.4}}


def row(method, seed, level, saved, accuracy, keep=1.0):
    return {
        "method": method,
        "label": method.upper(),
        "seed": seed,
        "keep": keep,
        "level": level,
        "macs_saved": saved,
        "parameters_saved": saved / 2,
        "finetuned_test": accuracy,
    }


def test_mean_and_deviation_of_a_sample():
    assert spread([1.0, 3.0]) == Spread(2.0, math.sqrt(2), 2)  # ((1 + 1) / (2 - 1)) ** 0.5
    assert spread([5.0]) == Spread(5.0, None, 1)


def test_the_pooled_standard_error():
    one, other = Spread(90.0, 0.3, 3), Spread(89.0, 0.5, 3)
    # (2 * 0.09 + 2 * 0.25) / 4 = 0.17; times (1/3 + 1/3)
    assert pooled_standard_error(one, other) == pytest.approx(math.sqrt(0.17 * 2 / 3))
    # one seed adds no variance of its own: (2 * 0.09 + 0) / 2 = 0.09; times (1/3 + 1)
    assert pooled_standard_error(one, Spread(89.0, None, 1)) == pytest.approx(math.sqrt(0.09 * 4 / 3))
    assert pooled_standard_error(Spread(1.0, None, 1), Spread(2.0, None, 1)) is None


def test_targets_come_from_levels_and_from_budgets():
    assert target_of({"method": "budget", "keep": 0.7, "level": 0.0}) == 0.3
    assert target_of({"method": "budget", "keep": 0.7, "level": 0.5}) == 0.5
    assert target_of({"method": "slimming", "keep": 1.0, "level": 0.5}) == 0.5
    assert target_of({"method": "slimming", "keep": 1.0, "level": 0.0}) == 0.0
    # Half of the milliseconds is no share of the multiply-accumulates.
    assert target_of({"method": "budget_latency", "keep": 0.5, "level": 0.0}) == 0.0


def test_ours_is_held_against_the_best_rival_at_the_same_target():
    rows = [
        row("budget", 0, 0.0, 0.5, 90.6, keep=0.5),
        row("budget", 1, 0.0, 0.52, 90.8, keep=0.5),
        row(
            "budget", 0, 0.5, 0.5, 10.0, keep=0.7
        ),  # pruned further: another training was made for this target
        row("slimming", 0, 0.5, 0.5, 90.0),
        row("slimming", 1, 0.5, 0.5, 90.2),
        row("random", 0, 0.5, 0.5, 80.0),
    ]
    ours, slimming, random = equal_training(rows, REFERENCE, "test")
    assert (ours["target"], ours["ours"], slimming["ours"]) == (0.5, True, False)
    assert ours["accuracy"]["mean"] == pytest.approx(90.7)
    assert ours["loss"]["mean"] == pytest.approx(0.5)  # (91.0 - 90.6 + 91.4 - 90.8) / 2
    assert ours["saved"]["mean"] == pytest.approx(0.51)
    assert ours["best_rival"] == "SLIMMING"
    assert ours["difference"] == pytest.approx(0.6)
    # both deviate by sqrt(0.02): variance 0.02, times (1/2 + 1/2)
    assert ours["standard_error"] == pytest.approx(math.sqrt(0.02))
    assert "difference" not in slimming
    assert random["accuracy"] == {"mean": 80.0, "deviation": None, "count": 1}


def test_of_networks_of_one_target_the_one_of_the_own_training_counts():
    rows = [row("budget", 0, 0.5, 0.5, 10.0, keep=0.7), row("budget", 0, 0.0, 0.5, 90.0, keep=0.5)]
    (entry,) = equal_training(rows, REFERENCE, "test")
    assert entry["accuracy"]["mean"] == 90.0


def test_a_budget_of_milliseconds_has_its_own_targets():
    rows = [
        row("budget_latency", 0, 0.0, 0.5, 89.0, keep=1 / 2.25),
        row("budget_latency", 0, 0.0, 0.3, 90.0, keep=1 / 1.4),
        row("budget_latency", 1, 0.0, 0.4, 91.0, keep=1 / 1.4),
        row("budget", 0, 0.0, 0.3, 90.5, keep=0.7),
        row("slimming", 0, 0.3, 0.3, 90.0),
    ]
    entries = equal_training(rows, REFERENCE, "test")
    asked = [(entry["method"], entry.get("target"), entry.get("speedup")) for entry in entries]
    assert asked == [
        ("budget", 0.3, None), ("slimming", 0.3, None), ("budget_latency", None, 1.4), ("budget_latency", None, 2.25)
    ]  # fmt: skip
    assert entries[2]["saved"]["mean"] == pytest.approx(0.35)
    assert entries[2]["loss"]["mean"] == pytest.approx(0.7)  # (91.0 - 90.0 + 91.4 - 91.0) / 2
    assert "difference" in entries[0]
    assert "difference" not in entries[2]  # nobody else was asked for a speed


def test_without_the_epochs_of_the_others_nothing_counts():
    without = {
        key: value for key, value in row("slimming", 0, 0.5, 0.5, 1.0).items() if key != "finetuned_test"
    }
    assert equal_training([without], REFERENCE, "test") == []
    assert interpolated([without], REFERENCE, "test") == []


def test_a_frontier_leaves_out_what_another_network_beats():
    rows = [row("m", 0, 0.2, 0.2, 90.0), row("m", 0, 0.4, 0.4, 90.8), row("m", 0, 0.6, 0.6, 88.0)]
    points = frontier(rows, 91.0, "test")
    assert [saved for saved, _ in points] == [0.0, 0.2, 0.4, 0.6]
    # At 0.2 the network of 0.4 will do, which loses less.
    assert [loss for _, loss in points] == pytest.approx([0.0, 0.2, 0.2, 3.0])


def test_savings_between_two_networks():
    points = [(0.0, 0.0), (0.4, 0.2), (0.6, 1.0)]
    # 0.3 of the 0.8 points from 0.4 to 0.6
    assert gain_at_loss(points, 0.5) == (pytest.approx(0.475), False)
    assert gain_at_loss(points, 0.1) == (pytest.approx(0.2), False)
    assert gain_at_loss(points, 1.0) == (0.6, True)
    assert gain_at_loss([(1.0, 0.0)], 0.5) == (1.0, False)  # nothing gained at any loss


def test_interpolated_savings_over_the_seeds():
    rows = [row("budget", 0, 0.5, 0.5, 90.0), row("budget", 1, 0.5, 0.4, 90.9)]
    (entry,) = interpolated(rows, REFERENCE, "test")
    # seed 0: half way to (0.5, 1.0) at 0.5 points; seed 1: all of 0.4, which loses 0.5
    assert entry["saved"]["mean"] == pytest.approx((0.25 + 0.4) / 2)
    assert entry["saved"]["deviation"] == pytest.approx(0.15 / math.sqrt(2))
    assert (entry["saved"]["count"], entry["ours"], entry["at_least"]) == (2, True, True)


def timed(row, *speedups):
    """In one engine at batch sizes 1, 2, ..."""
    found = [{"engine": "e", "batch_size": size, "speedup": value} for size, value in enumerate(speedups, 1)]
    return {**row, "latency": found}


def test_how_fast_each_method_is_at_a_loss():
    rows = [
        timed(row("budget_latency", 0, 0.0, 0.4, 90.8, keep=0.5), 2.0, 1.5),  # loses 0.2
        timed(row("budget_latency", 0, 0.0, 0.6, 90.0, keep=0.25), 4.0, 3.0),  # loses 1.0
        timed(row("group_norm", 0, 0.5, 0.5, 90.7), 0.9, 1.2),  # loses 0.3, and is slower at batch 1
        row("random", 0, 0.5, 0.5, 90.9),  # was not timed
    ]
    found = {(e["method"], e["batch_size"]): e for e in faster_at_loss(rows, {0: REFERENCE[0]}, "test")}
    assert set(found) == {(name, size) for name in ("budget_latency", "group_norm") for size in (1, 2)}
    # 0.3 of the 0.8 points from 2 to 4, and from 1.5 to 3
    ours = [found["budget_latency", size] for size in (1, 2)]
    assert [entry["speedup"]["mean"] for entry in ours] == pytest.approx([2.75, 2.0625])
    assert [entry["at_least"] for entry in ours] == [False, False]
    assert (ours[0]["engine"], ours[0]["loss"], ours[0]["ours"]) == ("e", 0.5, True)
    slow, fast = (found["group_norm", size] for size in (1, 2))
    assert (slow["speedup"]["mean"], slow["at_least"]) == (1.0, False)
    assert (fast["speedup"]["mean"], fast["at_least"]) == (1.2, True)
    assert "saved" not in fast
