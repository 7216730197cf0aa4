"""Masks: made from thresholds and scores, checked before anything changes, applied, and remembered by the plan."""

import copy
import math

import pytest
import torch
from torch import nn

import rotated_relu as rr
from rotated_relu.core.errors import ArgumentError, ShapeError, SlopeError, UnknownNameError
from rotated_relu.pruning.importance import Scores, taylor_scores
from rotated_relu.pruning.mask import Mask, apply_threshold, threshold_mask, zero_mask
from support.nets import two_layers

X = torch.zeros(1, 3)


def sloped():
    """Slopes 0.1, -0.2, 0.3, 0 and 0.5, -0.05."""
    net = two_layers()
    with torch.no_grad():
        net[1].slope.copy_(torch.tensor([0.1, -0.2, 0.3, 0.0]))
        net[3].slope.copy_(torch.tensor([0.5, -0.05]))
    return net


def mask(**entries):
    """One keyword for each activation: _1="1000" is a mask of 1.slope."""
    return {f"{name[1:]}.slope": torch.tensor([bit == "1" for bit in bits]) for name, bits in entries.items()}


def as_bits(found):
    return {name: "".join(str(int(bit)) for bit in entry) for name, entry in found.items()}


# --- making ----------------------------------------------------------------------------------------------------------


def test_a_threshold_takes_what_is_strictly_below_and_what_is_zero():
    found = threshold_mask(sloped(), 0.2)
    assert as_bits(found) == {"1.slope": "1001", "3.slope": "01"}
    assert (found.gone, found.total) == (3, 6)
    assert repr(found) == "Mask(3 of 6 channels go: |slope| below 0.2)"


def test_scores_take_the_place_of_slopes_and_say_what_they_are():
    scores = Scores(
        {"1.slope": torch.tensor([9.0, 1.0, 9.0, 9.0]), "3.slope": torch.tensor([2.0, 9.0])}, "taylor"
    )
    found = threshold_mask(sloped(), 3.0, scores)
    assert as_bits(found) == {"1.slope": "0101", "3.slope": "10"}
    assert found.criterion.describe() == "Taylor score below 3"
    assert not found.criterion.by_slope


def test_zeros_alone():
    found = zero_mask(sloped())
    assert as_bits(found) == {"1.slope": "0001", "3.slope": "00"}
    assert found.criterion.describe() == "slopes that are exactly 0"


@pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf])
def test_a_threshold_that_is_no_size_is_refused(bad):
    with pytest.raises(SlopeError, match="threshold must be 0 or a positive number"):
        threshold_mask(sloped(), bad)


@pytest.mark.parametrize("bad", ["0.1", None, [0.1]])
def test_a_threshold_that_is_no_number_is_refused(bad):
    with pytest.raises(ArgumentError, match="threshold must be a number"):
        threshold_mask(sloped(), bad)


def test_a_threshold_above_every_slope_is_refused_and_changes_nothing():
    net = sloped()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(
        SlopeError, match=r"threshold 0\.6 kills every slope of the network \(the largest \|slope\| is 0\.5"
    ):
        apply_threshold(net, 0.6)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


# --- applying --------------------------------------------------------------------------------------------------------


def test_applying_zeroes_what_goes_and_counts_what_is_left():
    net = sloped()
    assert rr.apply_mask(net, mask(_1="0100")) == {"1.slope": 2, "3.slope": 2}
    assert net[1].slope.tolist() == pytest.approx([0.1, 0.0, 0.3, 0.0])
    assert net[3].slope.tolist() == pytest.approx([0.5, -0.05])


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (mask(_9="1000"), UnknownNameError, "unknown slope in the mask '9.slope': did you mean"),
        (mask(_1="100"), ShapeError, r"mask of 1\.slope: the activation has 4 channels.* got \(3,\)"),
        (
            {"1.slope": torch.ones(4)},
            ShapeError,
            r"boolean tensor, True where a channel goes, got torch\.float32",
        ),
        ({"1.slope": [True] * 4}, ShapeError, "got list"),
        (mask(_1="1110", _3="11"), SlopeError, r"takes every channel of the network \(6\)"),
        (0.1, ShapeError, "got float; a threshold goes to threshold="),
    ],
)
@pytest.mark.parametrize("how", ["apply", "compact"])
def test_a_mask_that_does_not_fit_is_refused_and_changes_nothing(bad, error, message, how):
    net = sloped()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(error, match=message):
        rr.apply_mask(net, bad) if how == "apply" else rr.compact(net, X, mask=bad)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_threshold_zeroes_strictly_below_and_counts():
    act = rr.RotatedReLU(4)
    act.slope.data = torch.tensor([0.05, -0.05, 0.1, -2.0])
    assert apply_threshold(act, 0.1) == {"slope": 2}
    assert act.slope.tolist() == pytest.approx([0.0, 0.0, 0.1, -2.0])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_slopes_that_are_not_finite_are_named(bad):
    net = nn.Sequential(rr.RotatedReLU(3))
    net[0].slope.data[1] = bad
    with pytest.raises(SlopeError, match=r"0\.slope: 1 of 3 slopes are NaN or infinite"):
        apply_threshold(net, 0.1)


def test_no_slopes_says_how_to_get_some():
    with pytest.raises(SlopeError, match=r"rotated_relu\.rotate"):
        apply_threshold(nn.ReLU(), 0.1)


# --- compacting ------------------------------------------------------------------------------------------------------


def widths(result):
    return [layer.out_features for layer in result.model if isinstance(layer, nn.Linear)]


def test_compacting_takes_exactly_the_mask_whatever_the_size_of_the_slopes():
    # The largest slopes go, the small ones stay; the slope that is 0 goes in any case.
    result = rr.compact(sloped(), X, mask=mask(_1="0010", _3="10"))
    assert widths(result) == [2, 1, 1]
    assert result.plan.slopes == {"1.slope": {"total": 4, "alive": 2}, "3.slope": {"total": 2, "alive": 1}}


def test_a_threshold_and_its_mask_give_the_same():
    by_mask, by_threshold = (
        rr.compact(sloped(), X, mask=threshold_mask(sloped(), 0.2)),
        rr.compact(sloped(), X, 0.2),
    )
    assert by_mask.plan == by_threshold.plan
    assert by_mask.plan.threshold == 0.2


def test_both_a_threshold_and_a_mask_are_refused():
    with pytest.raises(SlopeError, match="either threshold= or mask="):
        rr.compact(sloped(), X, 0.1, mask=mask(_1="1000"))


def test_the_plan_says_how_the_mask_came_about(tmp_path):
    net = sloped()
    scores = taylor_scores(net, [(torch.ones(2, 3), torch.zeros(2))], lambda out, labels: out.square().sum())
    found = rr.find_threshold(net, lambda net: 1.0, budget={"channels": 0.5}, scores=scores)
    result = rr.compact(net, X, mask=found.mask)
    plan, _ = rr.read_plan(rr.save(result, tmp_path / "small.safetensors"))
    assert plan.criterion == result.plan.criterion == found.criterion
    assert (plan.criterion.score, plan.criterion.keep) == ("taylor", {"channels": 0.5})
    assert plan.threshold == 0.0  # what is compared with slopes: nothing was
    given = rr.compact(net, X, mask=dict(found.mask)).plan
    assert given.criterion.describe() == "a mask that was given"


def test_plans_from_before_say_their_threshold():
    data = rr.compact(sloped(), X, 0.2).plan.to_dict()
    del data["criterion"]
    assert rr.Plan.from_dict({**data, "format": 3}).criterion.describe() == "|slope| below 0.2"


def test_a_mask_from_another_device_or_of_no_names_is_a_mask():
    assert rr.apply_mask(sloped(), Mask({})) == {"1.slope": 3, "3.slope": 2}


# --- wrapped networks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [lambda net: torch.compile(net, backend="eager"), nn.DataParallel, torch.optim.swa_utils.AveragedModel],
    ids=["compiled", "data parallel", "averaged"],
)
def test_a_mask_fits_the_network_and_its_wrapper_alike(wrap):
    net = sloped()
    found = threshold_mask(net, 0.2)
    assert as_bits(threshold_mask(wrap(net), 0.2)) == as_bits(found)
    assert as_bits(rr.select_channels(wrap(net), X, keep=0.5)) == as_bits(
        rr.select_channels(net, X, keep=0.5)
    )
    assert widths(rr.compact(wrap(net), X, mask=found)) == [2, 1, 1]
    assert rr.apply_mask(wrap(net), found) == {"1.slope": 2, "3.slope": 1}


def test_in_inference_mode_the_same_channels_are_chosen():
    net = sloped()
    outside = rr.select_channels(net, X, keep=0.5)
    with torch.inference_mode():
        assert as_bits(rr.select_channels(net, X, keep=0.5)) == as_bits(outside)
        assert as_bits(threshold_mask(net, 0.2)) == as_bits(threshold_mask(sloped(), 0.2))
    assert outside.gone > 1


def test_what_is_no_network_is_named():
    with pytest.raises(ArgumentError, match=r"must be a torch\.nn\.Module, got str"):
        rr.apply_mask("net", {})
