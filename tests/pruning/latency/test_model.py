"""Milliseconds of a network without some of its channels, by hand."""

import pytest
import torch

import rotated_relu as rr
from rotated_relu.core.errors import ArgumentError, LatencyError
from rotated_relu.pruning.estimate import CostEstimate
from rotated_relu.pruning.latency.geometry import LayerGeometry
from rotated_relu.pruning.latency.grid import LatencyGrid
from rotated_relu.pruning.select import choose_channels
from support.latency_tables import staircase, table_for, table_of
from support.nets import Residual, two_layers

X = torch.zeros(1, 3)
IMAGE = torch.zeros(1, 3, 4, 4)


def mask(*values):
    return torch.tensor(values, dtype=torch.bool)


def table(step=2):
    # 3 -> 4 -> 2 -> 1, each layer 1 ms and 0.1 ms per pair of channels that is paid, a call 5 ms.
    return table_for(two_layers(), X, call_ms=5.0, per_pair=0.1, start=1.0, step=step)


def test_layers_are_paid_in_steps():
    estimate = CostEstimate(two_layers(), X, table())
    # One geometry with relu for 3 -> 4 and 4 -> 2: widths 2, 4 in (3 is paid as 4), 2, 4 out. 2 -> 1 has 2 in, 1 out.
    # 5 + (1 + 1.6) + (1 + 0.8) + (1 + 0.2) = 10.6
    assert estimate.whole("latency") == pytest.approx(10.6)
    # 3 of 4 hidden units are paid as 4; 2 of them lower both layers: 5 + (1 + 0.8) + (1 + 0.4) + 1.2
    assert estimate.of({"1.slope": mask(1, 0, 0, 0)}, "latency") == pytest.approx(10.6)
    assert estimate.of({"1.slope": mask(1, 0, 0, 1)}, "latency") == pytest.approx(9.4)
    assert estimate.share({"1.slope": mask(1, 0, 0, 1)}, "latency") == pytest.approx(9.4 / 10.6)


def test_where_the_time_goes():
    estimate = CostEstimate(two_layers(), X, table())
    liveness = estimate.liveness({"1.slope": mask(1, 0, 0, 1)})
    assert estimate.latency.widths(liveness) == [(3, 2), (2, 2), (2, 1)]
    assert estimate.latency.by_layer(liveness) == pytest.approx({"0": 1.8, "2": 1.4, "4": 1.2})


def test_a_block_that_is_gone_costs_nothing():
    net = Residual()
    estimate = CostEstimate(net, IMAGE, table_for(net, IMAGE, per_pair=0.0, start=1.0))
    # Seven operations; without a hidden channel neither layer of the block is left.
    assert estimate.whole("latency") == 7
    assert estimate.of({"block1.act1.slope": torch.ones(8, dtype=torch.bool)}, "latency") == 5


def test_channels_are_selected_by_milliseconds():
    net = two_layers()
    with torch.no_grad():
        net[1].slope.copy_(torch.tensor([0.1, 0.4, 0.3, 0.2]))
        net[3].slope.copy_(torch.tensor([0.5, 0.9]))
    found = rr.select_channels(net, X, keep=9.5 / 10.6, unit="latency", table=table(step=1))
    # In steps of 1: 5 + (1 + 1.2) + (1 + 0.8) + (1 + 0.2) = 10.2; 9.5 of 10.6 are 9.14: a unit saves 0.5, so 3 go.
    assert found["1.slope"].sum() + found["3.slope"].sum() == 3
    assert found.criterion.describe().startswith("lowest |slope| per millisecond, to keep 0.89")


def test_a_budget_in_milliseconds_bounds_slopes():
    net = two_layers()
    budget = rr.SlopeBudget(
        net, X, 10, 0.9, unit="latency", table=table(step=1), score="slope", start=0.1, end=0.5, window=0.1
    )
    for _ in range(10):
        budget.step()
    dead = {name: slope == 0 for name, slope in rr.slopes(net).items()}
    assert CostEstimate(net, X, table(step=1)).share(dead, "latency") <= 0.9


def test_without_a_table_there_are_no_milliseconds():
    with pytest.raises(ArgumentError, match=r"needs a table .*rr\.calibrate"):
        choose_channels(two_layers(), X, unit="latency")
    with pytest.raises(ArgumentError, match="needs a table"):
        rr.SlopeBudget(two_layers(), X, 10, unit="latency")
    with pytest.raises(ArgumentError, match="needs a table"):
        CostEstimate(two_layers(), X).whole("latency")


def test_a_table_of_another_network_is_refused_by_the_layers_that_it_lacks():
    foreign = table_of({LayerGeometry("linear", activation="relu"): staircase(4, 4)})
    with pytest.raises(LatencyError, match=r"lacks layers of this network: linear \(4\); calibrate"):
        CostEstimate(two_layers(), X, foreign)


def test_a_table_of_a_narrower_network_is_refused():
    narrow = table_for(two_layers(), X)
    entries = {**narrow.entries, LayerGeometry("linear", activation="relu", slopes=True): staircase(4, 3)}
    with pytest.raises(LatencyError, match="4 output channels are beyond the table, which ends at 3"):
        CostEstimate(two_layers(), X, table_of(entries))


def test_what_is_left_of_a_branch_that_is_gone_is_the_addition_behind_it():
    net, x = Residual(8), IMAGE
    whole = table_for(net, x)
    remainder = LayerGeometry("add_constant", (4, 4), activation="relu", slopes=True)
    dead = {"block1.act1.slope": torch.ones(8, dtype=torch.bool)}
    times = [
        CostEstimate(net, x, table_of({**whole.entries, **more})).of(dead, "latency")
        for more in ({}, {remainder: LatencyGrid((8,), (8,), ((0.5,),))})
    ]
    assert times[1] - times[0] == pytest.approx(0.5)


def test_another_table_for_the_network_that_is_counted_already():
    estimate = CostEstimate(two_layers(), X, table())
    assert estimate.whole("latency") == pytest.approx(10.6)
    estimate.use_table(table_for(two_layers(), X, call_ms=2.0, per_pair=0.1, start=0.0, step=1))
    # A call of 2, and 12 + 8 + 2 pairs.
    assert estimate.whole("latency") == pytest.approx(4.2)
    assert estimate.share({"1.slope": mask(1, 0, 0, 0)}, "latency") == pytest.approx((4.2 - 0.5) / 4.2)
    with pytest.raises(LatencyError, match="lacks layers of this network"):
        estimate.use_table(table_of({}))
    with pytest.raises(ArgumentError, match="needs a table"):
        CostEstimate(two_layers(), X).use_table(table())
