"""Channels that go in steps: what is counted, what goes together, what stays."""

import random

import pytest
import torch
from torch import nn

import rotated_relu as rr
from rotated_relu.core.errors import ArgumentError, SlopeError
from rotated_relu.nn.activation import RotatedReLU
from rotated_relu.pruning.estimate import CostEstimate
from rotated_relu.pruning.steps.selector import StepSelector
from support import nets
from support.latency_tables import staircase, table_for, table_of

IMAGE = torch.zeros(1, 3, 8, 8)


def nothing(net):
    return {name: torch.zeros(len(slope), dtype=torch.bool) for name, slope in rr.slopes(net).items()}


def ones(net):
    return {name: torch.ones(len(slope)) for name, slope in rr.slopes(net).items()}


def left(mask):
    return {name: int((~gone).sum()) for name, gone in mask.items()}


def random_state(selector, rng, fewest):
    """Some bundles left of each axis, and the masks of that, whichever bundles they are."""
    counts = [rng.randint(fewest, len(axis)) for axis in selector.axes]
    ranked = [(rng.sample(range(len(axis)), len(axis)), ()) for axis in selector.axes]
    return counts, selector._masks(counts, ranked, nothing(selector.estimate.net))


NETWORKS = {
    "chain": (nets.Chain, torch.zeros(1, 3, 16, 16)),
    "residual": (nets.Residual, IMAGE),
    "pre-activation": (nets.PreActivation, IMAGE),
    "padding shortcut": (nets.OptionA, IMAGE),
    "concatenation": (nets.Concat, IMAGE),
    "depthwise": (nets.Depthwise, IMAGE),
    "grouped": (nets.Grouped, IMAGE),
    "shuffle": (nets.Shuffle, IMAGE),
    "called twice": (nets.SharedLayer, IMAGE),
    "transformer": (nets.Tokens, torch.zeros(1, 4, 5)),
    "two inputs": (nets.TwoInputs, (IMAGE, torch.zeros(1, 2))),
}


@pytest.mark.parametrize("unit", ["macs", "parameters", "channels", "latency"])
@pytest.mark.parametrize("name", NETWORKS)
def test_costs_are_those_of_the_full_analysis(name, unit):
    make, inputs = NETWORKS[name]
    net = make()
    estimate = CostEstimate(net, inputs, table_for(net, inputs, call_ms=0.1, step=2))
    selector = StepSelector(estimate, unit, 2)
    rng = random.Random(0)
    for _ in range(6):
        counts, masks = random_state(selector, rng, 1)
        assert selector.costs.total(counts) == pytest.approx(estimate.of(masks, unit), rel=1e-9)
        change = {index: rng.randint(1, len(axis)) for index, axis in enumerate(selector.axes)}
        after = [change[index] for index in range(len(counts))]
        difference = selector.costs.total(counts) - selector.costs.total(after)
        assert selector.costs.saved(counts, change) == pytest.approx(difference, abs=1e-9)


@pytest.mark.parametrize("unit", ["macs", "parameters", "latency"])
@pytest.mark.parametrize("name", NETWORKS)
def test_with_whole_axes_gone_costs_are_never_less_than_those_of_the_full_analysis(name, unit):
    make, inputs = NETWORKS[name]
    net = make()
    estimate = CostEstimate(net, inputs, table_for(net, inputs, step=2))
    selector = StepSelector(estimate, unit, 2)
    rng = random.Random(1)
    for _ in range(8):
        counts, masks = random_state(selector, rng, 0)
        if selector.costs.connected(counts):
            assert selector.costs.total(counts) >= estimate.of(masks, unit) * (1 - 1e-9)


def test_a_stream_s_activations_go_at_the_same_positions():
    net = nets.Residual(8)
    found = rr.select_channels(net, IMAGE, keep=0.5, round_to=4)
    assert torch.equal(found["act.slope"], found["block1.act2.slope"])
    assert torch.equal(found["act.slope"], found["block2.act2.slope"])


def test_the_inner_width_of_a_branch_is_free():
    net = nets.Residual(8)
    axes = StepSelector(CostEstimate(net, IMAGE), "macs", 4).axes
    assert [axis.slopes for axis in axes] == [
        ("act.slope", "block1.act2.slope", "block2.act2.slope"),
        ("block1.act1.slope",),
        ("block2.act1.slope",),
    ]


def test_activations_around_a_depthwise_convolution_go_together():
    net = nets.Depthwise()
    found = rr.select_channels(net, IMAGE, keep=0.6, round_to=4)
    assert left(found) == {"act1.slope": 4, "act2.slope": 4}
    assert torch.equal(found["act1.slope"], found["act2.slope"])


def test_groups_of_a_convolution_go_as_a_whole():
    # 4 groups of 2: a step of 4 channels is two groups, and neither group is torn.
    found = rr.select_channels(nets.Grouped(), IMAGE, keep=0.6, round_to=4)
    assert left(found) == {"act1.slope": 4, "act2.slope": 4}
    assert torch.equal(found["act1.slope"].view(4, 2)[:, 0], found["act1.slope"].view(4, 2)[:, 1])


class Wide(nn.Module):
    """8 -> 24 -> 24 -> 1 without biases: 192 + 576 + 24 multiplications."""

    def __init__(self):
        super().__init__()
        self.a, self.act_a = nn.Linear(8, 24, bias=False), RotatedReLU(24)
        self.b, self.act_b = nn.Linear(24, 24, bias=False), RotatedReLU(24)
        self.c = nn.Linear(24, 1, bias=False)

    def forward(self, x):
        return self.c(self.act_b(self.b(self.act_a(self.a(x)))))


def test_multiplications_in_steps():
    net = Wide()
    scores = {"act_a.slope": torch.full((24,), 3.0), "act_b.slope": torch.full((24,), 1.0)}
    # One block of 8 of the second: 192 + 24 * 16 + 16 = 592. Of the first: 128 + 384 + 24 = 536.
    assert left(rr.select_channels(net, torch.zeros(1, 8), keep=592 / 792, round_to=8, scores=scores)) == {
        "act_a.slope": 24,
        "act_b.slope": 16,
    }
    assert left(rr.select_channels(net, torch.zeros(1, 8), keep=591 / 792, round_to=8, scores=scores)) == {
        "act_a.slope": 24,
        "act_b.slope": 8,  # 192 + 192 + 8 = 392: another 8 at 1 lose less than 8 at 3 would
    }


def test_the_least_important_of_a_block_go():
    net = Wide()
    scores = {"act_a.slope": torch.ones(24), "act_b.slope": torch.ones(24)}
    scores["act_b.slope"][[1, 3, 5, 7, 9, 11, 13, 23]] = 0.5
    found = rr.select_channels(net, torch.zeros(1, 8), keep=592 / 792, round_to=8, scores=scores)
    assert found["act_b.slope"].nonzero().flatten().tolist() == [1, 3, 5, 7, 9, 11, 13, 23]
    assert not found["act_a.slope"].any()


def test_what_is_zero_already_counts_and_the_rest_comes_down_to_full_blocks():
    net = Wide()
    with torch.no_grad():
        net.act_b.slope[:3] = 0  # 21 are left: the next block ends at 16
    found = rr.select_channels(net, torch.zeros(1, 8), keep=592 / 792, round_to=8, scores=ones(net))
    assert left(found) == {"act_a.slope": 24, "act_b.slope": 16}
    assert found["act_b.slope"][:3].all()


def test_a_plain_network_keeps_a_block_of_each_layer_and_says_what_it_can_do():
    # With 8 and 8 left: 64 + 64 + 8 = 136 of 792.
    with pytest.raises(
        SlopeError, match=r"at most 0\.1 of the macs cannot be had, in steps of 8,.* 0\.1718 of"
    ):
        rr.select_channels(Wide(), torch.zeros(1, 8), keep=0.1, round_to=8)


def test_a_branch_goes_as_a_whole():
    net = nets.Residual(8)
    scores = ones(net) | {"block1.act1.slope": torch.full((8,), 0.1)}
    whole = CostEstimate(net, IMAGE).whole("macs")
    # Each block has two convolutions of 8 x 8 x 9 weights at 64 positions.
    found = rr.select_channels(net, IMAGE, keep=1 - 2 * 64 * 576 / whole, round_to=4, scores=scores)
    assert left(found) == dict.fromkeys(ones(net), 8) | {"block1.act1.slope": 0}


def test_multiplying_by_zero_cuts_a_network_too():
    # Without the image branch the gate's multiplication is 0: that branch is the last way through.
    inputs = (IMAGE, torch.zeros(1, 2))
    found = rr.select_channels(nets.TwoInputs(), inputs, keep=0.6, round_to=4)
    assert left(found) == {"act.slope": 4}


# --- milliseconds ---------------------------------------------------------------------------------------------------


def blocks(step, start=0.0, per_pair=1.0):
    """A table in which each linear layer costs its blocks, inputs times outputs."""

    def table(net, inputs):
        estimated = table_for(net, inputs)
        entries = {
            geometry: staircase(grid.inputs[-1], grid.outputs[-1], per_pair, start, step)
            for geometry, grid in estimated.entries.items()
        }
        return table_of(entries)

    return table


def test_milliseconds_are_saved_in_the_table_s_steps():
    net, x = Wide(), torch.zeros(1, 8)
    table = blocks(8)(net, x)
    found = rr.select_channels(net, x, keep=0.7, unit="latency", table=table, scores=ones(net))
    assert all(count % 8 == 0 for count in left(found).values())
    assert CostEstimate(net, x, table).share(found, "latency") <= 0.7
    assert found.criterion.keep == {"latency": 0.7}


def test_a_multiple_of_1_leaves_the_table_its_steps():
    net, x = Wide(), torch.zeros(1, 8)
    settings = {"keep": 0.7, "unit": "latency", "table": blocks(8)(net, x), "scores": ones(net)}
    found = [left(rr.select_channels(net, x, round_to=steps, **settings)) for steps in (None, 1)]
    assert found[0] == found[1]


def test_another_table_has_its_own_steps_and_prices():
    net, x = Wide(), torch.zeros(1, 8)
    eights, twelves = blocks(8)(net, x), blocks(12, per_pair=3.0)(net, x)
    selector = StepSelector(CostEstimate(net, x, eights), "latency")
    selector.use_table(twelves)
    fresh = StepSelector(CostEstimate(net, x, twelves), "latency")
    found, expected = (one.choose(0.7, ones(net), nothing(net)) for one in (selector, fresh))
    assert left(found) == left(expected)
    assert all(count % 12 == 0 for count in left(found).values())
    assert selector.estimate.whole("latency") == fresh.estimate.whole("latency")


def test_no_channel_goes_that_saves_no_time():
    net, x = Wide(), torch.zeros(1, 8)
    table = blocks(8)(net, x)
    estimate = CostEstimate(net, x, table)
    found = rr.select_channels(net, x, keep=0.5, unit="latency", table=table)
    time = estimate.of(found, "latency")
    for name, gone in found.items():
        for index in gone.nonzero().flatten().tolist():
            fewer = {key: value.clone() for key, value in found.items()}
            fewer[name][index] = False
            assert estimate.of(fewer, "latency") > time


def test_a_target_that_cannot_be_met_says_how_fast_it_can_get():
    net, x = Wide(), torch.zeros(1, 8)
    table = blocks(8)(net, x)
    # All layers at one block of 8 (the last writes one channel): 64 + 64 + 8 of 192 + 576 + 24 ms, 0.1718.
    with pytest.raises(
        SlopeError, match=r"speed-up of 10: the fastest .* 0\.1718 of it, 136 of 792 ms, .* 5\.82"
    ):
        rr.select_channels(net, x, keep=0.1, unit="latency", table=table)
    with pytest.raises(SlopeError, match=r"speed-up of 10: the fastest"):
        rr.SlopeBudget(net, x, 100, 0.1, unit="latency", table=table)


def test_a_stem_that_stays_keeps_its_stream_unless_there_is_no_other_way():
    net = rr.models.resnet20(rotated=True)
    x = torch.zeros(1, 3, 32, 32)
    selector = StepSelector(CostEstimate(net, x), "macs", 16)
    # The stem has no slopes, so the first stage's stream would be selected from it.
    assert [selector.axes[index].slopes[0] for index in selector._gathering] == ["layer1.0.act2.slope"]
    found = selector.choose(0.5, ones(net), nothing(net))
    assert not found["layer1.0.act2.slope"].any()


@pytest.mark.parametrize("round_to", [0, -8, 1.5, "8", True])
def test_steps_that_are_no_steps_are_refused(round_to):
    with pytest.raises(ArgumentError, match="round_to must be a positive integer"):
        rr.select_channels(Wide(), torch.zeros(1, 8), round_to=round_to)
