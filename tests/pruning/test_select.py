"""Channels chosen for a budget in one shot: who goes, by hand, and what is never cut."""

import copy

import pytest
import torch
from torch import nn

import rotated_relu as rr
from rotated_relu.core.errors import SlopeError, UnknownNameError
from rotated_relu.nn.activation import RotatedReLU
from rotated_relu.pruning.importance import Scores
from support.nets import two_layers

X, X10 = torch.zeros(1, 3), torch.zeros(1, 10)


def with_slopes(net, **values):
    with torch.no_grad():
        for name, slope in rr.slopes(net).items():
            slope.copy_(torch.tensor(values[f"_{name.split('.')[0]}"]))
    return net


def sloped():
    return with_slopes(two_layers(), _1=[0.1, 0.4, 0.3, 0.2], _3=[0.25, 0.9])


def as_bits(found):
    return {name: "".join(str(int(bit)) for bit in entry) for name, entry in found.items()}


@pytest.mark.parametrize(
    ("unit", "keep", "expected"),
    [
        # 3 -> 4 -> 2 -> 1 has 22 multiplications; a unit of either layer saves 5 at first. By slope go 0.1, leaving
        # 9 + 6 + 2 = 17, then 0.2: 6 + 4 + 2 = 12, then 0.25: 6 + 2 + 1 = 9, which is at most 11.
        ("macs", 0.5, {"1.slope": "1001", "3.slope": "10"}),
        ("macs", 12 / 22, {"1.slope": "1001", "3.slope": "00"}),
        # 35 parameters: 22 weights, 7 biases, 6 slopes. Without one hidden unit 17 + 6 + 5 = 28.
        ("parameters", 28 / 35, {"1.slope": "1000", "3.slope": "00"}),
        ("channels", 4 / 6, {"1.slope": "1001", "3.slope": "00"}),
        ("channels", 1.0, {"1.slope": "0000", "3.slope": "00"}),
    ],
)
def test_the_lowest_go_until_the_budget_is_met(unit, keep, expected):
    net = sloped()
    before = copy.deepcopy(net.state_dict())
    found = rr.select_channels(net, X, keep=keep, unit=unit)
    assert as_bits(found) == expected
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_what_there_is_room_for_comes_back():
    """10 -> 2 -> 10 -> 1 has 50 multiplications; one of the first saves 20 of them, one of the second 3.

    Per multiplication 0.01 / 3 and 0.012 / 3 of the second go before 0.1 / 20 of the first. Then 10 + 8 + 8 = 26 are
    left of the 30 that may be; each of the two that went before costs 2 by now, and there is room for both.
    """
    net = rr.rotate(
        nn.Sequential(nn.Linear(10, 2), nn.ReLU(), nn.Linear(2, 10), nn.ReLU(), nn.Linear(10, 1)), X10
    )
    with_slopes(net, _1=[0.1, 9.0], _3=[0.01, 0.012, *(float(k) for k in range(1, 9))])
    found = rr.select_channels(net, X10, keep=30 / 50)
    assert as_bits(found) == {"1.slope": "10", "3.slope": "0000000000"}
    # Of 29 only one of them: the one that matters more. Of 27 none.
    assert as_bits(rr.select_channels(net, X10, keep=29 / 50)) == {"1.slope": "10", "3.slope": "1000000000"}
    assert as_bits(rr.select_channels(net, X10, keep=27 / 50)) == {"1.slope": "10", "3.slope": "1100000000"}
    result = rr.compact(net, X10, mask=found)
    assert [layer.out_features for layer in result.model if isinstance(layer, nn.Linear)] == [1, 10, 1]


def test_the_mask_compacts_to_the_budget_and_says_how_it_came_about():
    net = sloped()
    result = rr.compact(net, X, mask=rr.select_channels(net, X, keep=0.5))
    assert [layer.out_features for layer in result.model if isinstance(layer, nn.Linear)] == [2, 1, 1]
    assert result.plan.criterion.describe() == "lowest |slope| per MAC, to keep 0.5 of the MACs"


def test_what_saves_more_goes_first():
    # 8 -> 4 -> 2 -> 1: a unit of the first layer saves 8 + 2 multiplications, one of the second 4 + 1. Per saved
    # multiplication 1.0 / 10 is less than 0.6 / 5, although 0.6 is the smaller slope.
    layers = nn.Linear(8, 4), RotatedReLU(4), nn.Linear(4, 2), RotatedReLU(2), nn.Linear(2, 1)
    net = with_slopes(nn.Sequential(*layers), _1=[2.0, 1.0, 2.0, 2.0], _3=[0.6, 2.0])
    found = rr.select_channels(net, torch.zeros(1, 8), keep=32 / 42)
    assert as_bits(found) == {"1.slope": "0100", "3.slope": "00"}


def test_scores_of_another_kind():
    scores = Scores(
        {"1.slope": torch.tensor([5.0, 1.0, 6.0, 7.0]), "3.slope": torch.tensor([9.0, 8.0])}, "taylor"
    )
    found = rr.select_channels(sloped(), X, keep=5 / 6, unit="channels", scores=scores)
    assert as_bits(found) == {"1.slope": "0100", "3.slope": "00"}
    assert found.criterion.describe() == "lowest Taylor score per channel, to keep 0.833333 of the channels"


def test_what_is_zero_already_counts():
    net = with_slopes(two_layers(), _1=[0.0, 0.4, 0.3, 0.2], _3=[0.25, 0.9])
    assert as_bits(rr.select_channels(net, X, keep=17 / 22)) == {"1.slope": "1000", "3.slope": "00"}


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.act = nn.Linear(3, 2), RotatedReLU(2)
        self.second = nn.Linear(2, 3)

    def forward(self, x):
        return x + self.second(self.act(self.first(x)))


def test_a_residual_block_may_vanish_as_a_whole():
    net = nn.Sequential(Residual(), nn.Linear(3, 2))
    # 6 + 6 + 6 multiplications, of which the last layer's alone are a third.
    assert as_bits(rr.select_channels(net, X, keep=1 / 3)) == {"0.act.slope": "11"}


class Branches(nn.Module):
    """Two ways side by side, 2 channels and 1: 6 + 3 multiplications, and 3 in the head."""

    def __init__(self):
        super().__init__()
        self.a, self.act_a = nn.Linear(3, 2), RotatedReLU(2)
        self.b, self.act_b = nn.Linear(3, 1), RotatedReLU(1)
        self.head = nn.Linear(3, 1)

    def forward(self, x):
        return self.head(torch.cat([self.act_a(self.a(x)), self.act_b(self.b(x))], 1))


def test_of_two_ways_one_may_go_but_not_both():
    net = Branches()
    with torch.no_grad():
        net.act_a.slope.copy_(torch.tensor([0.5, 0.4]))
        net.act_b.slope.fill_(0.1)
    assert as_bits(rr.select_channels(net, X, keep=4 / 12)) == {"act_a.slope": "01", "act_b.slope": "1"}
    # One way with one channel, 3 + 1 of 12, has to stay.
    with pytest.raises(SlopeError, match=r"at most 0\.2 of the macs cannot be had.* 0\.3334 of them remain"):
        rr.select_channels(net, X, keep=0.2)


def test_the_best_of_two_layers_that_do_not_meet_are_not_all_that_stays():
    # Depthwise: channel i of the first activation feeds channel i of the second, and the best of the first is channel
    # 2, of the second channel 0. Only a channel that stays in both leads anywhere: 3 of 9 multiplications.
    layers = (
        nn.Conv2d(1, 3, 1, bias=False),
        RotatedReLU(3),
        nn.Conv2d(3, 3, 1, groups=3, bias=False),
        RotatedReLU(3),
    )
    net = nn.Sequential(*layers, nn.Conv2d(3, 1, 1, bias=False))
    with_slopes(net, _1=[0.1, 0.2, 0.9], _3=[0.9, 0.2, 0.1])
    x = torch.zeros(1, 1, 1, 1)
    assert as_bits(rr.select_channels(net, x, keep=1 / 3)) == {"1.slope": "100", "3.slope": "001"}
    with pytest.raises(SlopeError, match=r"0\.3334 of them remain"):
        rr.select_channels(net, x, keep=0.3)


@pytest.mark.parametrize("keep", [0, -1, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(keep):
    with pytest.raises(SlopeError, match="keep must be above 0"):
        rr.select_channels(two_layers(), X, keep=keep)


def test_other_bad_options_are_refused():
    with pytest.raises(UnknownNameError, match="did you mean 'macs'"):
        rr.select_channels(two_layers(), X, unit="mac")
    with pytest.raises(SlopeError, match="no slopes"):
        rr.select_channels(nn.Linear(3, 2), X)
    with pytest.raises(SlopeError, match="one score per channel"):
        rr.select_channels(two_layers(), X, scores={"1.slope": torch.ones(4)})
    divided = Scores(
        {name: torch.ones(len(slope)) for name, slope in rr.slopes(two_layers()).items()}, "slope", "macs"
    )
    with pytest.raises(SlopeError, match="divided by macs already"):
        rr.select_channels(two_layers(), X, scores=divided)
