"""What a network would cost without some channels, counted by hand."""

import copy

import pytest
import torch

import rotated_relu as rr
from rotated_relu.core.errors import UnknownNameError
from rotated_relu.pruning import estimate as estimate_module
from rotated_relu.pruning.estimate import CostEstimate
from support.nets import two_layers

X = torch.zeros(1, 3)
UNITS = ("macs", "parameters", "channels")


def mask(*values):
    return torch.tensor(values, dtype=torch.bool)


def test_counts_of_the_whole_network():
    estimate = CostEstimate(two_layers(), X)
    assert [estimate.whole(unit) for unit in UNITS] == [22, 22 + 7 + 6, 6]


def test_counts_without_two_channels():
    # One of 4 hidden units gone: 3 + 2 multiplications, and 3 + 1 + 2 weights and biases, and its slope.
    # One of 2 in the next layer: 3 more inputs of it, 1 consumer; 3 + 1 + 1 parameters and its slope.
    dead = {"1.slope": mask(1, 0, 0, 0), "3.slope": mask(0, 1)}
    estimate = CostEstimate(two_layers(), X)
    assert [estimate.of(dead, unit) for unit in UNITS] == [22 - 5 - 4, 35 - 7 - 6, 4]
    assert estimate.share(dead, "macs") == 13 / 22


def test_what_was_asked_before_does_not_matter():
    estimate = CostEstimate(two_layers(), X)
    one, other = {"1.slope": mask(1, 0, 0, 0)}, {"3.slope": mask(0, 1)}
    found = [estimate.of(dead, "macs") for dead in (one, other, {}, {**one, **other}, other)]
    # As above: 3 + 2 multiplications of a hidden unit, 4 + 1 of one of the next, which share one.
    assert found == [22 - 5, 22 - 5, 22, 22 - 5 - 4, 22 - 5]


def test_a_slope_with_two_names_is_gone_under_both():
    net = two_layers()
    net[4] = torch.nn.Sequential(rr.RotatedReLU(2), net[4])
    net[4][0].slope = net[3].slope
    estimate = CostEstimate(net, X)
    assert estimate.of({}, "macs") == 22
    for name in ("3.slope", "4.0.slope"):
        assert estimate.of({name: mask(1, 1)}, "macs") == 0


def test_counting_leaves_the_network_alone_and_zero_weights_do_not_matter():
    net = two_layers()
    with torch.no_grad():
        net[2].weight.zero_()
    before = copy.deepcopy(net.state_dict())
    assert CostEstimate(net, X).of({}, "macs") == 22
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_what_one_more_channel_saves():
    saved = CostEstimate(two_layers(), X).saved_per_channel({"1.slope": mask(1, 1, 1, 1)}, "macs")
    # With the first activation dead nothing of it is left to save; the second layer's own inputs are gone too.
    assert saved == {"1.slope": 0.0, "3.slope": 1.0}


def test_only_what_is_asked_for_is_counted(monkeypatch):
    estimate = CostEstimate(two_layers(), X)
    monkeypatch.setattr(estimate_module, "ideal_work", lambda *_: pytest.fail("multiplications were counted"))
    assert estimate.of({"3.slope": mask(0, 1)}, "parameters") == 35 - 4 - 1 - 1 - 1
    monkeypatch.setattr(estimate_module, "analyse", lambda *_: pytest.fail("the graph was run"))
    assert estimate.of({"3.slope": mask(0, 1)}, "channels") == 5


def test_a_share_that_is_exactly_a_count_is_met_whatever_floating_point_makes_of_it():
    estimate = CostEstimate(two_layers(), X)
    # 17 of 22 multiplications are left without one hidden unit.
    one = {"1.slope": mask(1, 0, 0, 0)}
    assert estimate.fits(one, 17 / 22, "macs")
    assert not estimate.fits(one, 16.9 / 22, "macs")


def test_unknown_unit_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'macs'"):
        CostEstimate(two_layers(), X).of({}, "mac")
