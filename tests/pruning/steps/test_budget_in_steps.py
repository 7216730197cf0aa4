"""A budget of a training whose channels go in steps."""

import pytest
import torch
from torch import nn

import rotated_relu as rr
from rotated_relu.core.errors import ArgumentError, SlopeError
from rotated_relu.nn.activation import RotatedReLU
from rotated_relu.pruning.budget import choices_and_batches
from rotated_relu.pruning.estimate import CostEstimate
from rotated_relu.pruning.leaving_out import MOST, LossIncreases, planned
from rotated_relu.pruning.mask import zero_mask
from rotated_relu.pruning.steps.selector import StepSelector
from support.latency_tables import staircase, table_for, table_of

X = torch.zeros(1, 8)
RISING = torch.linspace(1, 2, 24)  # channel 0 matters least


def plain():
    """8 -> 24 -> 24 -> 8, all slopes at 1."""
    layers = [nn.Linear(8, 24), RotatedReLU(24), nn.Linear(24, 24), RotatedReLU(24), nn.Linear(24, 8)]
    net = nn.Sequential(*layers)
    with torch.no_grad():
        for slope in rr.slopes(net).values():
            slope.fill_(1.0)
    return net


def by_eights(net):
    """A table in which a layer costs its blocks of 8 inputs times those of 8 outputs: 3 + 9 + 3 blocks of 64 ms."""
    entries = {
        geometry: staircase(grid.inputs[-1], grid.outputs[-1], 1.0, 0.0, 8)
        for geometry, grid in table_for(net, X).entries.items()
    }
    return table_of(entries)


def train(net, budget, steps, gradients, growth=0.0):
    """Gradients that say what matters, and an optimizer that lets every slope grow by as much in each step."""
    for _ in range(steps):
        for name, slope in rr.slopes(net).items():
            slope.grad = gradients[name].clone()
            slope.data += growth
        budget.step()


def counts(masks):
    return [int((~gone).sum()) for gone in masks.values()]


def left(net):
    return [int((slope != 0).sum()) for slope in rr.slopes(net).values()]


def test_a_budget_of_time_ends_in_full_blocks_and_meets_its_target():
    net = plain()
    table = by_eights(net)
    budget = rr.SlopeBudget(net, X, 200, 0.5, unit="latency", table=table, start=0.1, end=0.6, window=0.1)
    train(net, budget, 200, {"1.slope": RISING, "3.slope": RISING}, growth=1e-3)
    # 15 blocks; with 2 and 2 blocks left 2 + 4 + 2 = 8 are over half, with 1 and 3 it is 1 + 3 + 3 = 7. The way there
    # leads over 2 and 2, and 1 and 2: what there is room for in the end comes back.
    assert sorted(left(net)) == [8, 24]
    assert CostEstimate(net, X, table).share(zero_mask(net), "latency") == pytest.approx(7 / 15)
    narrow = min(rr.slopes(net).values(), key=torch.count_nonzero)
    assert narrow.nonzero().flatten().tolist() == list(range(16, 24))  # those that matter most


def test_the_share_falls_along_the_run():
    net = plain()
    table = by_eights(net)
    budget = rr.SlopeBudget(net, X, 200, 0.3, unit="latency", table=table, start=0.1, end=0.6, window=0.05)
    estimate, shares = CostEstimate(net, X, table), []
    for _ in range(10):
        train(net, budget, 20, {"1.slope": RISING, "3.slope": RISING})
        shares.append(estimate.share(zero_mask(net), "latency"))
    assert shares[0] == 1.0
    assert shares == sorted(shares, reverse=True)
    assert len(set(shares)) >= 3
    assert shares[-1] <= 0.3


def test_multiplications_can_be_saved_in_steps():
    net = plain()
    # 192 + 576 + 192 multiplications; one block of a layer is 8 * 8 + 8 * 24 = 256 of them.
    budget = rr.SlopeBudget(net, X, 100, 704 / 960, round_to=8, start=0.1, end=0.5, window=0.1)
    train(net, budget, 100, {"1.slope": RISING + 1, "3.slope": RISING})
    assert left(net) == [24, 16]


def test_a_block_that_matters_after_all_is_let_go_as_a_whole():
    net = plain()
    settings = {"round_to": 8, "start": 0.1, "end": 0.5, "window": 0.3}
    budget = rr.SlopeBudget(net, X, 1000, 704 / 960, **settings)
    train(net, budget, 200, {"1.slope": RISING + 1, "3.slope": RISING})
    assert 0 < float(net[3].slope[0].detach()) < 1
    train(net, budget, 800, {"1.slope": RISING * 0.01, "3.slope": RISING * 9})
    assert left(net) == [16, 24]


def test_a_block_on_its_way_keeps_the_score_that_it_was_chosen_by():
    net = plain()
    budget = rr.SlopeBudget(net, X, 1000, 704 / 960, round_to=8, start=0.1, end=0.5, window=0.3)
    train(net, budget, 200, {"1.slope": RISING + 1, "3.slope": RISING})
    going = budget.state_dict()["since"]["3.slope"].isfinite()
    before = budget.state_dict()["scores"]["3.slope"].clone()
    # What shrinks before a norm has gradients that grow as it shrinks.
    train(net, budget, 1, {"1.slope": RISING + 1, "3.slope": 1e6 * RISING})
    after = budget.state_dict()["scores"]["3.slope"]
    assert going.tolist() == [True] * 8 + [False] * 16
    assert torch.equal(after[going], before[going])
    assert (after[~going] > 1e6 * before[~going]).all()


def test_what_is_at_zero_is_looked_at_there_wherever_the_optimizer_has_moved_it():
    net = plain()
    budget = rr.SlopeBudget(net, X, 100, 704 / 960, round_to=8, start=0.0, end=0.8, window=0.1)
    seen = []

    def loss():
        seen.append(int((net[3].slope == 0).sum()))
        return 0.0

    for _ in range(100):
        for name, slope in rr.slopes(net).items():
            slope.grad = {"1.slope": RISING + 1, "3.slope": RISING}[name].clone()
            slope.data += 1e-3
        budget.step(loss)
    assert left(net) == [24, 16]
    assert seen[-1] >= 8


# --- measured -------------------------------------------------------------------------------------------------------


def losing(net, first, second):
    """A loss by how many slopes of each activation are not 0: what is lost with 16, 8 and 0 of 24 left."""

    def loss():
        counts = left(net)
        return sum(
            {24: 0.0, **dict(zip((16, 8, 0), lost, strict=True))}[count]
            for lost, count in zip((first, second), counts, strict=True)
        )

    return loss


def measured(net, budget, steps, loss):
    for _ in range(steps):
        for slope in rr.slopes(net).values():
            slope.grad = RISING.clone()
        budget.step(loss)


def test_what_a_block_is_worth_is_measured():
    net = plain()
    budget = rr.SlopeBudget(net, X, 100, 704 / 960, round_to=8, start=0.1, end=0.5, window=0.1)
    # By gradients both layers matter alike; the loss knows only of the first.
    measured(net, budget, 100, losing(net, (1e3, 2e3, 3e3), (0.0, 0.0, 0.0)))
    assert left(net) == [24, 16]
    net = plain()
    budget = rr.SlopeBudget(net, X, 100, 704 / 960, round_to=8, start=0.1, end=0.5, window=0.1)
    measured(net, budget, 100, losing(net, (0.0, 0.0, 0.0), (1e3, 2e3, 3e3)))
    assert left(net) == [16, 24]


def test_a_loss_is_asked_for_before_ten_choices_and_leaves_no_trace():
    net, calls = nn.Sequential(nn.Linear(8, 24), nn.BatchNorm1d(24), *list(plain())[1:]), []
    budget = rr.SlopeBudget(net, X, 500, 704 / 960, round_to=8, start=0.0, end=0.2, window=0.1)
    images, norm = torch.randn(16, 8, generator=torch.Generator().manual_seed(0)), net[1]

    def loss():
        calls.append(1)
        assert not torch.is_grad_enabled()
        return net(images).square().mean()

    numbers = []
    for number in range(500):
        for slope in rr.slopes(net).values():
            slope.grad = RISING.clone()
        before = len(calls)
        budget.step(loss)
        numbers += [number + 1] * (len(calls) > before)
    # As it is, and with 16, 8 and 0 left of either activation: 7 passes. A tenth of 500 steps of 3 passes has room for
    # 21 times that: 10 choices, and 2 batches before each.
    assert numbers == [number + before for number in range(10, 101, 10) for before in (-1, 0)]
    assert len(calls) <= 20 * 7
    assert norm.num_batches_tracked == 0
    assert not norm.running_mean.any()


def test_the_first_part_of_what_goes_is_a_part_of_what_goes_in_the_end():
    net = plain()
    selector = StepSelector(CostEstimate(net, X, by_eights(net)), "latency")
    scores = {name: torch.full((24,), 1e-6) for name in rr.slopes(net)}
    increases = LossIncreases()
    increases.add(net, losing(net, (1.0, 10.0, 100.0), (2.0, 3.0, 100.0)), selector, scores, zero_mask(net))
    lost = increases.means()
    # 15 blocks; 11 remain with 16 of either activation, at a loss of 1 or 2. In the end 7 may, with 8 of either left:
    # of the first that loses 10, of the second 3.
    alone = selector.choose(11 / 15, scores, zero_mask(net), lost=lost)
    assert counts(alone) == [16, 24]
    found = [planned(selector, share / 15, 7 / 15, scores, zero_mask(net), lost) for share in (11, 7)]
    assert [counts(mask) for mask in found] == [[24, 16], [24, 8]]
    assert left(net) == [24, 24]


def measured_once(net, loss):
    """What is lost with 16, 8 and 0 of 24 left of either activation."""
    scores = dict.fromkeys(rr.slopes(net), RISING)
    selector, found = StepSelector(CostEstimate(net, X), "macs", 8), LossIncreases()
    found.add(net, loss, selector, scores, zero_mask(net))
    return found


def test_a_choice_in_one_shot_can_be_measured_too():
    net, scores = plain(), dict.fromkeys(("1.slope", "3.slope"), RISING)
    settings = {"keep": 704 / 960, "round_to": 8, "scores": scores}
    for first, second, expected in (((9, 9, 9), (1, 9, 9), [24, 16]), ((1, 9, 9), (9, 9, 9), [16, 24])):
        found = rr.select_channels(net, X, **settings, loss=losing(net, first, second))
        assert counts(found) == expected
    settings = {"keep": 11 / 15, "unit": "latency", "table": by_eights(net), "scores": scores}
    found = rr.select_channels(net, X, **settings, loss=losing(net, (9, 9, 9), (1, 9, 9)))
    assert counts(found) == [24, 16]
    assert left(net) == [24, 24]


@pytest.mark.parametrize("settings", [{}, {"round_to": 1}, {"unit": "parameters"}])
def test_a_loss_is_refused_where_one_channel_goes_at_a_time(settings):
    with pytest.raises(ArgumentError, match="a loss says what blocks of channels are worth"):
        rr.select_channels(plain(), X, **settings, loss=lambda: 0.0)


def test_dropout_takes_the_same_away_with_and_without_a_block():
    net = nn.Sequential(*plain(), nn.Dropout(0.5)).train()
    with torch.no_grad():
        net[2].weight[:, :8] = 0  # what the first eight say is not heard
    images, state = torch.ones(4, 8), torch.get_rng_state()
    found = measured_once(net, lambda: net(images).square().mean())
    assert found.means()[0, 16] == 0
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_lost_is_a_mean_over_batches():
    net = plain()
    budget = rr.SlopeBudget(net, X, 100, 704 / 960, round_to=8, start=0.1, end=0.5, window=0.1)
    # One batch of each pair says that the first layer gains 7 with 16 left, the last one before a choice that it loses
    # 9: 1 on average, and the second layer loses 2.
    losses = [losing(net, (-7.0, 50, 50), (2.0, 50, 50)), losing(net, (9.0, 50, 50), (2.0, 50, 50))]
    for number in range(100):
        measured(net, budget, 1, losses[number % 2])
    assert left(net) == [16, 24]


@pytest.mark.parametrize(
    ("steps", "levels", "choices", "batches"),
    [
        # A tenth of the run has room for 0.3 passes a step, each time for levels + 1 of them.
        (10_000, 49, 10, 4),  # 60 times: more than ten times four
        (5_000, 49, 10, 3),  # 30 times
        (3_500, 49, 10, 2),  # 21 times
        (1_000, 49, 3, 2),  # 6 times
        (100, 49, 2, 2),  # less than once: no fewer than two of two
    ],
)
def test_measuring_takes_a_tenth_of_the_run_where_that_is_enough(steps, levels, choices, batches):
    assert choices_and_batches(steps, levels) == (choices, batches)


def test_wide_layers_are_measured_at_eight_levels():
    net = plain()
    with torch.no_grad():
        net[1].slope[:] = net[3].slope[:] = 1.0
    selector = StepSelector(CostEstimate(net, X), "macs", 2)
    scores = {name: torch.ones(24) for name in rr.slopes(net)}
    counts = [level for level, _ in selector.levels(scores, zero_mask(net))]
    # 22, 20, ..., 0 left are 12 levels, 11 steps of them in 7: numbers 0, 1.6, 3.1, 4.7, 6.3, 7.9, 9.4 and 11.
    assert [count for axis, count in counts if axis == 0] == [22, 18, 16, 12, 10, 6, 4, 0]
    assert selector.measurements == len(counts) == 16
    # Between 22 and 18 left what is lost rises as the scores do: evenly where those say nothing, else by their sums.
    lost = {(axis, count): {22: 0.0, 18: 4.0, 16: 4.5}.get(count, 9.0) for axis, count in counts}
    _, found = selector._with_measured(0, (list(range(24)), (0.0,) * 25), lost)
    assert [found[count] for count in (24, 22, 20, 18, 17, 16)] == [0, 0, 2, 4, 4.25, 4.5]
    scores = (*(100.0,) * 18, 40.0, 40.0, 10.0, 0.0, 0.0, 0.0, 0.0)  # with 0 left, 1 left, ...
    _, found = selector._with_measured(0, (list(range(24)), scores), lost)
    # With 20 left the scores have lost 10 of the 40 that they lose with 18: a quarter of 4, and what they say.
    assert (found[20], found[18]) == (1.0 + 10.0, 4.0 + 40.0)


@pytest.mark.parametrize("value", [None, "much", torch.zeros(3)])
def test_a_loss_that_is_no_number_is_refused(value):
    net = plain()
    budget = rr.SlopeBudget(net, X, 10, 704 / 960, round_to=8, start=0.0)
    with pytest.raises(ArgumentError, match="loss must return a number or a tensor of one, got"):
        measured(net, budget, 10, lambda: value)


@pytest.mark.parametrize(("value", "increase"), [(float("nan"), MOST), (float("inf"), MOST), (-5.0, 0.0)])
def test_a_loss_that_is_not_finite_is_a_large_one_and_one_that_falls_is_none(value, increase):
    net = plain()
    found = measured_once(net, lambda: 0.0 if left(net) == [24, 24] else torch.tensor(value))
    assert set(found.means().values()) == {increase}


def test_what_is_zero_before_the_run_stays_zero():
    net = plain()
    with torch.no_grad():
        net[3].slope[20:] = 0
    budget = rr.SlopeBudget(net, X, 100, 704 / 960, round_to=8, start=0.1, end=0.5, window=0.1)
    train(net, budget, 100, {"1.slope": RISING + 1, "3.slope": RISING})
    assert left(net) == [24, 16]
    assert not net[3].slope[20:].any()


def test_a_run_that_stops_between_two_measurements_goes_on_with_the_first():
    settings = {"steps": 100, "keep": 704 / 960, "round_to": 8, "start": 0.1, "end": 0.5, "window": 0.1}
    net = plain()
    budget = rr.SlopeBudget(net, X, **settings)
    losses = [losing(net, (-7.0, 50, 50), (2.0, 50, 50)), losing(net, (9.0, 50, 50), (2.0, 50, 50))]
    for number in range(100):  # two choices, at 30 and 50
        if number == 29:
            state, budget = budget.state_dict(), rr.SlopeBudget(net, X, **settings)
            assert state["increases"]["batches"] == 1
            budget.load_state_dict(state)
        measured(net, budget, 1, losses[number % 2])
    assert left(net) == [16, 24]


@pytest.mark.parametrize(
    "increases",
    [
        None,
        {"batches": 1},
        {"batches": 1, "found": {"0": [1.0]}},
        {"batches": 1, "found": {"0/1": []}},
        {"batches": "1", "found": {}},
    ],
)
def test_a_state_with_other_measurements_is_refused(increases):
    net = plain()
    budget = rr.SlopeBudget(net, X, 100, 704 / 960, round_to=8)
    with pytest.raises(SlopeError, match="no state of a budget"):
        budget.load_state_dict({**budget.state_dict(), "number": 7, "increases": increases})
    assert budget.state_dict()["number"] == 0


def test_a_run_in_two_parts_is_the_same_run():
    gradients = {"1.slope": RISING + 1, "3.slope": RISING}
    settings = {"steps": 60, "keep": 0.5, "round_to": 8, "start": 0.1, "end": 0.7, "window": 0.2}
    whole, parts = plain(), plain()
    train(whole, rr.SlopeBudget(whole, X, **settings), 60, gradients)
    first = rr.SlopeBudget(parts, X, **settings)
    train(parts, first, 33, gradients)
    second = rr.SlopeBudget(parts, X, **settings)
    second.load_state_dict(first.state_dict())
    train(parts, second, 27, gradients)
    ends = [rr.slopes(net).values() for net in (whole, parts)]
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))
