"""The search for zeta, on networks whose slopes and scores are set by hand."""

import json
import math

import pytest
import torch
from torch import nn

import rotated_relu.pruning.threshold as threshold_module
from rotated_relu.core.errors import (
    CertificateError,
    CompactionError,
    SlopeError,
    ThresholdError,
    UnknownNameError,
)
from rotated_relu.nn.activation import RotatedReLU
from rotated_relu.pruning.importance import Scores
from rotated_relu.pruning.mask import apply_mask, masked, threshold_mask
from rotated_relu.pruning.threshold import find_threshold


def net_with(*values):
    """One activation with exactly these slopes."""
    net = nn.Sequential(RotatedReLU(len(values)))
    with torch.no_grad():
        net[0].slope.copy_(torch.tensor(values))
    return net


def tenths(count=10):
    """Slopes 0.1, -0.2, 0.3, ...: a threshold of k/10 + 0.05 kills the first k of them."""
    return net_with(*((-1) ** i * (i + 1) / 10 for i in range(count)))


def alive(net):
    return int((net[0].slope != 0).sum())


def scored(by_alive):
    """An ``evaluate`` that looks the score up by the number of slopes alive."""
    return lambda net: by_alive[alive(net)]


def cliff(at, total=10):
    """Score 90 while at least ``at`` slopes are alive, else 10."""
    return scored({n: 90.0 if n >= at else 10.0 for n in range(total + 1)})


def test_largest_threshold_before_the_cliff():
    found = find_threshold(tenths(), cliff(at=4), max_evaluations=50)
    assert 0.6 < found.value < 0.7
    assert (found.alive, found.total) == (4, 10)
    assert found.score == found.baseline_score == 90.0


def test_refinement_finds_the_same_with_few_evaluations():
    net, calls = net_with(*(i / 100 for i in range(1, 101))), []

    def evaluate(net):
        calls.append(alive(net))
        return 90.0 if alive(net) >= 37 else 10.0

    found = find_threshold(net, evaluate, max_evaluations=24)
    assert found.alive == 37
    assert len(calls) <= 24
    assert len(calls) == len(set(calls)) == len(found.sweep)


def test_sweep_is_ascending_plain_data_that_starts_at_zero():
    found = find_threshold(tenths(), cliff(at=4))
    data = json.loads(json.dumps(found.to_dict()))
    thresholds = [point["threshold"] for point in data["sweep"]]
    assert thresholds == sorted(thresholds)
    assert data["sweep"][0] == {"threshold": 0.0, "score": 90.0, "alive": 10, "cost": {}}
    assert data["value"] == found.value
    assert data["tolerance"] == 0.0


def test_thresholds_are_short_numbers_inside_the_gaps():
    found = find_threshold(net_with(0.0987, 0.1234, 1.0), cliff(at=2, total=3))
    assert found.value == 0.1
    # Between 0.1234 and 1.0 the middle is 0.5617, of which one digit is enough.
    assert [point.threshold for point in found.sweep] == [0.0, 0.1, 0.6]


def test_tolerance_is_in_the_unit_of_the_score():
    scores = {n: 90.0 - (10 - n) * 0.1 for n in range(11)}  # a tenth of a point for every slope lost
    assert find_threshold(tenths(), scored(scores), tolerance=0.35).alive == 7
    assert find_threshold(tenths(), scored(scores)).value == 0.0


def test_one_dip_is_stepped_over():
    scores = dict.fromkeys(range(11), 90.0) | {7: 89.9, 3: 10.0, 2: 10.0, 1: 10.0}
    assert find_threshold(tenths(), scored(scores)).alive == 4


def test_a_lone_lucky_peak_beyond_the_cliff_is_ignored():
    scores = {n: 90.0 if n >= 6 or n == 2 else 10.0 for n in range(11)}
    assert find_threshold(tenths(), scored(scores)).alive == 6


def test_never_tries_a_network_without_slopes():
    found = find_threshold(tenths(), lambda net: 1.0)
    assert found.alive == 1
    assert min(point.alive for point in found.sweep) == 1


def test_equal_magnitudes_die_together():
    found = find_threshold(net_with(0.5, -0.5, 0.5, 1.0), lambda net: 1.0)
    assert [point.alive for point in found.sweep] == [4, 1]


def test_a_single_magnitude_leaves_nothing_to_search():
    found = find_threshold(net_with(1.0, -1.0), lambda net: 1.0)
    assert (found.value, found.alive) == (0.0, 2)


def test_given_candidates_are_all_tried_and_no_others():
    found = find_threshold(tenths(), cliff(at=4), candidates=[0.85, 0.25, 0.45])
    assert [point.threshold for point in found.sweep] == [0.0, 0.25, 0.45, 0.85]
    assert found.value == 0.45


def test_budget_takes_the_smallest_threshold_that_meets_it():
    found = find_threshold(tenths(), cliff(at=4), budget={"channels": 0.5})
    assert found.alive == 5
    assert found.kept == {"channels": 0.5}
    assert found.tolerance is None


def test_budget_with_a_cost_of_the_callers():
    # 10 slopes cost 100, 7 cost 49: at most 0.5 of 100 means 7 alive.
    found = find_threshold(
        tenths(), cliff(at=4), budget={"area": 0.5}, cost=lambda net, zeta: {"area": alive(net) ** 2}
    )
    assert (found.alive, found.kept["area"]) == (7, 0.49)


def test_cost_without_budget_is_recorded():
    found = find_threshold(tenths(3), cliff(at=2, total=3), cost=lambda net, zeta: {"area": alive(net) ** 2})
    assert [point.cost["area"] for point in found.sweep] == [9, 4, 1]
    assert found.kept["area"] == pytest.approx(4 / 9)


def test_budget_met_from_the_start():
    assert find_threshold(tenths(), lambda net: 1.0, budget={"channels": 1.0}).value == 0.0


def test_unreachable_budget_says_how_far_it_goes():
    with pytest.raises(
        ThresholdError, match=r"at most 0\.05 of the channels: at 0\.9\d* still 0\.1 of the channels"
    ):
        find_threshold(tenths(), lambda net: 1.0, budget={"channels": 0.05})


@pytest.mark.parametrize("error", [SlopeError, CompactionError])
def test_a_network_that_dies_before_the_budget_is_met(error):
    def cost(net, zeta):
        if alive(net) < 4:
            raise error("nothing is left")
        return {"macs": alive(net)}

    assert find_threshold(tenths(), lambda net: 1.0, budget={"macs": 0.4}, cost=cost).alive == 4
    with pytest.raises(ThresholdError, match=r"still 0\.4 of the macs"):
        find_threshold(tenths(), lambda net: 1.0, budget={"macs": 0.3}, cost=cost)
    # In a search for a score a dead network never wins, whatever its score.
    assert find_threshold(tenths(), lambda net: 1.0, cost=cost).alive == 4


def test_a_cost_that_fails_on_the_whole_network_is_no_threshold_problem():
    def cost(net, zeta):
        raise CertificateError("differs")

    with pytest.raises(CertificateError, match="differs"):
        find_threshold(tenths(), lambda net: 1.0, budget={"macs": 0.4}, cost=cost)


def test_built_in_budget_on_macs_and_parameters():
    """Two linear layers 4 -> 4 -> 2 without bias: 16 + 8 MACs; with two of four features dead 8 + 4."""
    net = nn.Sequential(nn.Linear(4, 4, bias=False), RotatedReLU(4), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        net[1].slope.copy_(torch.tensor([0.1, 0.2, 0.8, 0.9]))
    found = find_threshold(net, lambda net: 1.0, budget={"macs": 0.5}, example_inputs=torch.randn(2, 4))
    assert found.alive == 2
    assert found.kept["macs"] == 0.5
    assert found.sweep[0].cost["macs"] == 24
    with pytest.raises(ThresholdError, match="needs example_inputs"):
        find_threshold(net, lambda net: 1.0, budget={"parameters": 0.5})


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_slopes_are_restored_bit_for_bit_whatever_happens(error):
    net = net_with(0.1, -0.0, 1e-42, -0.3, 0.7)
    before = net[0].slope.detach().clone().view(torch.int32)
    calls = []

    def evaluate(net):
        calls.append(alive(net))
        if len(calls) == 2:
            raise error
        return 1.0

    with pytest.raises(error):
        find_threshold(net, evaluate)
    assert len(calls) == 2
    assert torch.equal(net[0].slope.detach().view(torch.int32), before)


def test_masked_restores_and_counts():
    net = tenths()
    before = net[0].slope.detach().clone()
    with masked(net, threshold_mask(net, 0.35)) as count:
        assert count == alive(net) == 7
    assert torch.equal(net[0].slope, before)


def test_no_slopes():
    with pytest.raises(SlopeError, match="no slopes; put them in with"):
        find_threshold(nn.Sequential(nn.Linear(2, 2)), lambda net: 1.0)


def test_all_slopes_zero_already():
    with pytest.raises(SlopeError, match="every slope is 0"):
        find_threshold(net_with(0.0, 0.0), lambda net: 1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_slopes_name_the_activation(value):
    with pytest.raises(SlopeError, match=r"0\.slope: 1 of 3 slopes are NaN or infinite"):
        find_threshold(net_with(0.1, value, 0.3), lambda net: 1.0)


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_no_finite_number_names_the_threshold(score):
    with pytest.raises(ThresholdError, match="at threshold 0; it must return a finite score"):
        find_threshold(tenths(), lambda net: score)


def test_a_score_that_is_no_number_at_all():
    with pytest.raises(ThresholdError, match="evaluate must return a number, got NoneType"):
        find_threshold(tenths(), lambda net: None)


def test_a_tensor_is_a_fine_score():
    assert find_threshold(tenths(), lambda net: torch.tensor(1.5)).score == 1.5


def test_a_candidate_that_kills_everything():
    with pytest.raises(ThresholdError, match="threshold 2 kills every slope: the largest is 1; choose less"):
        find_threshold(tenths(), lambda net: 1.0, candidates=[0.1, 2.0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": -1.0}, "tolerance must be 0 or more"),
        ({"tolerance": math.nan}, "tolerance must be 0 or more"),
        ({"max_evaluations": 2}, "max_evaluations must be at least 3"),
        ({"candidates": [math.nan]}, "finite and not negative"),
        ({"candidates": [-0.1]}, "finite and not negative"),
        ({"budget": {}}, "the budget names no cost"),
        ({"budget": {"macs": 50}}, "fraction to keep, above 0 and at most 1, got 50"),
        ({"budget": {"macs": 0.0}}, "fraction to keep, above 0 and at most 1, got 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ThresholdError, match=message):
        find_threshold(tenths(), lambda net: 1.0, **options)


def test_unknown_budget_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'macs'"):
        find_threshold(tenths(), lambda net: 1.0, budget={"mac": 0.5})
    with pytest.raises(UnknownNameError, match="did you mean 'area'"):
        find_threshold(tenths(), lambda net: 1.0, budget={"aera": 0.5}, cost=lambda net, zeta: {"area": 1.0})


def test_the_rule_is_documented():
    assert "evaluated candidate just below it does too" in threshold_module.__doc__


# --- ranked by scores ------------------------------------------------------------------------------------------------


def test_scores_rank_instead_of_slopes():
    # Scores in the opposite order of the slopes: the largest slopes go first.
    net = tenths()
    scores = {"0.slope": torch.arange(10.0, 0.0, -1.0)}
    found = find_threshold(net, cliff(at=4), scores=scores, max_evaluations=50)
    assert found.alive == 4
    assert 6 < found.value < 7
    apply_mask(net, found.mask)
    assert net[0].slope.tolist() == pytest.approx([0.1, -0.2, 0.3, -0.4] + [0] * 6)


def test_the_result_carries_the_mask_and_what_kind_of_score_made_it():
    found = find_threshold(tenths(), cliff(at=4), max_evaluations=50)
    assert found.mask["0.slope"].tolist() == [True] * 6 + [False] * 4
    assert found.criterion == found.mask.criterion
    assert found.criterion.describe() == f"|slope| below {found.value:.3g}"
    assert (found.criterion.by_slope, found.criterion.threshold) == (True, found.value)


def test_scores_say_what_they_are_and_a_budget_what_it_allowed():
    scores = Scores({"0.slope": torch.arange(10.0, 0.0, -1.0)}, "taylor", "macs")
    found = find_threshold(tenths(), lambda net: 1.0, budget={"channels": 0.5}, scores=scores)
    assert found.mask["0.slope"].tolist() == [False] * 5 + [True] * 5
    assert not found.criterion.by_slope
    assert found.criterion.describe() == "Taylor score per MAC below 5.5, to keep 0.5 of the channels"
    plain = find_threshold(tenths(), lambda net: 1.0, budget={"channels": 0.5}, scores=dict(scores))
    assert (plain.criterion.score, plain.criterion.per) == ("custom", "")


def test_the_result_is_plain_data_without_the_mask():
    data = find_threshold(tenths(), cliff(at=4), budget={"channels": 0.5}).to_dict()
    assert "mask" not in data
    assert data["criterion"] == {
        "score": "slope",
        "per": "",
        "threshold": data["value"],
        "keep": {"channels": 0.5},
    }


def test_costs_are_counted_on_the_network_that_the_scores_leave():
    net = nn.Sequential(nn.Linear(3, 4, bias=False), RotatedReLU(4), nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        net[1].slope.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    scores = {"1.slope": torch.tensor([40.0, 30.0, 20.0, 10.0])}
    found = find_threshold(
        net, lambda net: 1.0, budget={"macs": 0.5}, scores=scores, example_inputs=torch.zeros(1, 3)
    )
    # Each unit costs 3 + 1: half is two units, those with scores 10 and 20; although 15 exceeds every slope.
    assert (found.alive, found.kept["macs"]) == (2, 0.5)
    assert 20 < found.value < 30


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({}, "one score per channel"),
        ({"0.slope": torch.zeros(3)}, r"shape \(10,\), got \(3,\)"),
        ({"0.slope": torch.full((10,), float("nan"))}, "finite and not negative"),
        ({"0.slope": -torch.ones(10)}, "finite and not negative"),
        ({"0.slope": torch.zeros(10)}, "every score is 0"),
    ],
)
def test_scores_that_do_not_fit_are_named(scores, message):
    with pytest.raises(SlopeError, match=message):
        find_threshold(tenths(), cliff(at=4), scores=scores)
