"""Tables whose times of narrower layers are bent."""

import pytest
import torch
from torch import nn

import rotated_relu as rr
from rotated_relu.deploy.latency.bending import Bend, bent, bent_by, fitted, share_of
from rotated_relu.pruning.estimate import CostEstimate
from rotated_relu.pruning.latency.geometry import LayerGeometry
from rotated_relu.pruning.latency.grid import LatencyGrid
from rotated_relu.pruning.latency.model import LatencyModel
from support.latency_tables import table_for, table_of

TIMES = LatencyGrid((1, 2), (1, 2), ((0.0, 1.0), (2.0, 4.0)), absent_ms=0.5)


def bent_grid(bend):
    return bent(table_of({LayerGeometry("linear"): TIMES}, call_ms=3.0), bend).entries[
        LayerGeometry("linear")
    ]


def test_a_layer_takes_its_longest_time_times_a_power_of_its_share_of_it():
    # 4 (0/4)^2, 4 (1/4)^2, 4 (2/4)^2, 4; with nothing left 4 (0.5/4)^2
    found = bent_grid(Bend(2.0))
    assert found.milliseconds == ((0.0, 0.25), (1.0, 4.0))
    assert found.absent_ms == 0.0625


def test_what_is_free_stays_free_and_a_call_costs_what_it_did():
    free = LayerGeometry("activation")
    table = bent(table_of({free: LatencyGrid((1,), (1,), ((0.0,),))}, call_ms=3.0), Bend(0.5, 0.5))
    assert table.entries[free].milliseconds == ((0.0,),)
    assert table.call_ms == 3.0


def test_a_part_is_paid_whatever_goes():
    # A quarter of 4 ms, and three quarters of the time.
    found = bent_grid(Bend(always=0.25))
    assert found.milliseconds == ((1.0, 1.75), (2.5, 4.0))
    assert (found.at(0, 2), found.at(2, 0)) == (1.375, 1.375)


def test_below_0_narrow_layers_are_quicker_but_none_takes_less_than_nothing():
    # 1.5 times the time, less 2 ms.
    assert bent_grid(Bend(always=-0.5)).milliseconds == ((0.0, 0.0), (1.0, 4.0))


def test_a_part_of_the_way_to_another():
    assert Bend(1.0, 0.0).towards(Bend(0.5, 0.4), 0.25) == Bend(0.875, 0.1)


@pytest.fixture
def half():
    """3 -> 4 -> 1 without starts and calls, 0.1 ms for each pair of channels: 1.2 + 0.4; of two hidden units half."""
    net = nn.Sequential(nn.Linear(3, 4), rr.RotatedReLU(4), nn.Linear(4, 1))
    example = torch.zeros(1, 3)
    dead = {"1.slope": torch.tensor([True, True, False, False])}
    estimate = CostEstimate(net, example, table_for(net, example, per_pair=0.1, start=0.0))
    model = estimate.latency
    part, whole = (model.widths(estimate.liveness(gone)) for gone in (dead, {}))
    assert share_of(model, part, whole) == pytest.approx(0.5)
    return model, part, whole


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.25, 0.25),
        (0.6, 0.6),
        (0.01, 0.5**2.5),  # the largest power
        (0.8, 0.8),  # below the power of 0.4, which says 0.76
        (0.99, 0.9 + 0.1 * 0.5**0.4),  # nine tenths are paid in any case, at most
    ],
)
def test_bent_to_a_share_a_table_says_it_and_the_whole_stays(half, share, expected):
    model, part, whole = half
    found = LatencyModel(model.operations, bent_by(model, whole, fitted(model, part, whole, share)))
    assert found.total(whole) == pytest.approx(1.6)
    assert share_of(found, part, whole) == pytest.approx(expected, rel=2e-3)


def test_stretched_a_table_says_what_was_measured(half):
    model, part, whole = half
    bend = Bend(0.8, 0.2)
    before = share_of(LatencyModel(model.operations, bent_by(model, whole, bend)), part, whole)
    assert before == pytest.approx(0.2 + 0.8 * 0.5**0.8)
    for measured in (0.9, 0.4):
        found = bent_by(model, whole, bend.stretched(before, measured))
        assert share_of(LatencyModel(model.operations, found), part, whole) == pytest.approx(measured)
    assert bend.stretched(0.5, 0.99) == Bend(0.8, 0.9)  # not more


def test_bent_by_nothing_a_table_is_itself(half):
    assert bent_by(half[0], half[2], Bend()) is half[0].table
