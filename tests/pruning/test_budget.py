"""A budget on the slopes: costs counted by hand, the cubic, exact zeros, what is spared, and a state that resumes."""

import copy

import pytest
import torch
from torch import nn

import rotated_relu as rr
from rotated_relu.nn.activation import RotatedReLU
from support.nets import two_layers

X = torch.zeros(1, 3)


def train(net, budget, steps, grads):
    """Fixed gradients instead of a loss; the slopes only move by the budget."""
    for _ in range(steps):
        for name, slope in rr.slopes(net).items():
            slope.grad = grads[name].clone()
        budget.step()


GRADS = {"1.slope": torch.tensor([0.1, 4.0, 3.0, 2.0]), "3.slope": torch.tensor([5.0, 6.0])}


def test_the_share_follows_the_cubic():
    budget = rr.SlopeBudget(two_layers(), X, 100, 0.5, start=0.2, end=0.6, window=0.1)
    shares = []
    for number in (0, 20, 40, 60, 100):
        budget._number = number
        shares.append(budget.share())
    # Half way up the ramp: 1 - 0.5 * (1 - 0.5 ** 3).
    assert shares == pytest.approx([1.0, 1.0, 1 - 0.5 * 0.875, 0.5, 0.5])


@pytest.mark.parametrize(("keep", "end"), [(0.34, 0.6), (0.5, 0.644)])
def test_the_last_choice_is_for_exactly_what_was_asked_for(keep, end):
    # 1 - (1 - 0.34) is more than 0.34 in floating point; the ramp ends at step 64.4, the last choice is made at 64.
    budget = rr.SlopeBudget(two_layers(), X, 100, keep, unit="channels", start=0.2, end=end, window=0.1)
    budget._number = round(100 * end)
    assert budget._until_choice(50) == 0
    assert budget.share() == keep


def test_the_least_important_slope_goes_to_exactly_zero_and_the_others_stay():
    # 5 of 6 channels may stay: one has to go, the one with the smallest (a dL/da)^2 per saved channel.
    net = two_layers()
    budget = rr.SlopeBudget(net, X, 100, 5 / 6, unit="channels", start=0.2, end=0.4, window=0.2)
    train(net, budget, 100, GRADS)
    assert rr.slopes(net)["1.slope"].tolist() == [0.0, 1.0, 1.0, 1.0]
    assert rr.slopes(net)["3.slope"].tolist() == [1.0, 1.0]


def test_a_pulled_slope_falls_linearly_whatever_the_loss_does():
    net = two_layers()
    budget = rr.SlopeBudget(net, X, 100, 5 / 6, unit="channels", start=0.2, end=0.2, window=0.1)
    sizes = []
    for _ in range(32):
        with torch.no_grad():
            net[1].slope[0] = 5.0  # the loss would like it large
        train(net, budget, 1, GRADS)
        sizes.append(float(net[1].slope[0].detach()))
    # Chosen at step 20, where it was 5; 10 steps later it is 0.
    assert sizes[18] == 5.0
    assert sizes[19:30] == pytest.approx([5.0, 4.5, 4.0, 3.5, 3.0, 2.5, 2.0, 1.5, 1.0, 0.5, 0.0], abs=1e-5)
    assert sizes[31] == 0.0


def test_one_that_matters_after_all_is_let_go():
    net = two_layers()
    budget = rr.SlopeBudget(net, X, 1000, 5 / 6, unit="channels", start=0.1, end=0.5, window=0.3)
    train(net, budget, 250, GRADS)
    pulled = float(net[1].slope[0].detach())
    # At step 100 all may stay still. It is chosen at the next of the choices, 8 steps apart, and has lost 142 of its
    # 300 steps by now. With what is left of it, a quarter of its score of 81 is still more than 0.01 squared.
    assert pulled == pytest.approx(1 - 142 / 300, abs=1e-5)
    swapped = {**GRADS, "1.slope": torch.tensor([9.0, 4.0, 3.0, 0.01])}
    train(net, budget, 750, swapped)
    assert float(net[1].slope[3].detach()) == 0.0
    # Until the next choice it fell on; since then it is free, and nothing here moves it.
    assert 0 < float(net[1].slope[0].detach()) < pulled


def test_one_that_matters_a_little_more_after_all_goes_nevertheless():
    net = two_layers()
    budget = rr.SlopeBudget(net, X, 1000, 5 / 6, unit="channels", start=0.1, end=0.5, window=0.3)
    train(net, budget, 250, GRADS)
    # Its score is 4 now, and that of the least of the others 2.25. About half of it is left: 4 / 4 / 2 = 0.5 is less.
    train(net, budget, 750, {**GRADS, "1.slope": torch.tensor([2.0, 4.0, 3.0, 1.5])})
    assert rr.slopes(net)["1.slope"].tolist() == [0.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("seed", range(3))
def test_slopes_that_matter_alike_do_not_take_turns(seed):
    channels, steps = 40, 1000
    net = nn.Sequential(nn.Linear(3, channels), RotatedReLU(channels), nn.Linear(channels, 2))
    with torch.no_grad():
        net[1].slope.fill_(1.0)
    budget = rr.SlopeBudget(net, X, steps, 0.5, unit="channels", start=0.0, end=0.8, window=0.1)
    noise, asked = torch.Generator().manual_seed(seed), []
    for number in range(steps):
        # Scores of 1, give or take a tenth: their order changes all the time.
        net[1].slope.grad = 1 + 0.1 * torch.randn(channels, generator=noise)
        budget.step()
        asked.append(budget.share())
        # What is asked for is chosen at the next of 50 choices, 16 steps apart, and gone a window of 100 steps later.
        assert budget.left() * channels < asked[max(0, number - 116)] * channels + 1


def test_the_last_choice_gives_back_what_there_is_room_for():
    """10 -> 2 -> 10 -> 1 has 50 multiplications; one of the first saves 20 of them, one of the second 3, later 2.

    Two of the second matter least. They go while the curve falls, and are at 0 when one of the first has to go as well:
    that leaves 10 + 8 + 8 = 26 of the 30 that may be, and both have room again.
    """
    net = nn.Sequential(nn.Linear(10, 2), RotatedReLU(2), nn.Linear(2, 10), RotatedReLU(10), nn.Linear(10, 1))
    inputs = torch.zeros(1, 10)
    with torch.no_grad():
        for slope in rr.slopes(net).values():
            slope.fill_(1.0)
    budget = rr.SlopeBudget(net, inputs, 200, 30 / 50, start=0.1, end=0.6, window=0.1)
    grads = {"1.slope": torch.tensor([3.0, 9.0]), "3.slope": torch.tensor([0.1, 0.2, *[5.0] * 8])}
    seen = []
    for _ in range(200):
        train(net, budget, 1, grads)
        with torch.no_grad():
            seen.append(int((net[3].slope == 0).sum()))
            net[3].slope[:2] += 1e-3  # what training would do, where no bound holds it
    assert max(seen[:119]) == 2
    assert seen[-1] == 0
    assert net[1].slope.tolist() == [0.0, 1.0]
    assert budget.left() == pytest.approx(30 / 50)


def test_a_plain_network_is_never_cut_in_two():
    net = two_layers()
    # Less than one unit per layer, 3 + 1 + 1 of 22 multiplications, cannot be had.
    budget = rr.SlopeBudget(net, X, 100, 5 / 22, start=0.1, end=0.5, window=0.1)
    train(net, budget, 100, GRADS)
    assert [int((slope != 0).sum()) for slope in rr.slopes(net).values()] == [1, 1]
    # The best ones stay.
    assert net[1].slope[1] == 1
    assert net[3].slope[1] == 1


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.act = nn.Linear(3, 2), RotatedReLU(2)
        self.second = nn.Linear(2, 3)

    def forward(self, x):
        return x + self.second(self.act(self.first(x)))


def test_a_residual_block_may_vanish():
    net = nn.Sequential(Residual(), nn.Linear(3, 2))
    # 6 + 6 + 6 multiplications; the last layer alone has 6.
    budget = rr.SlopeBudget(net, X, 200, 6 / 18, start=0.1, end=0.5, window=0.1)
    train(net, budget, 200, {"0.act.slope": torch.tensor([1.0, 2.0])})
    assert net[0].act.slope.tolist() == [0.0, 0.0]


def test_cost_per_channel_decides_between_equal_scores():
    # 8 -> 4 -> 2 -> 1. A unit of the first activation saves 8 + 2 multiplications, one of the second 4 + 1: of equal
    # scores the first goes, and the budget of one such unit, 42 - 10 of 42, is met by it alone.
    net = nn.Sequential(nn.Linear(8, 4), RotatedReLU(4), nn.Linear(4, 2), RotatedReLU(2), nn.Linear(2, 1))
    with torch.no_grad():
        for slope in rr.slopes(net).values():
            slope.fill_(1.0)
    budget = rr.SlopeBudget(net, torch.zeros(1, 8), 100, 32 / 42, start=0.1, end=0.2, window=0.1)
    train(net, budget, 100, {name: torch.ones_like(slope) for name, slope in rr.slopes(net).items()})
    assert [int((slope != 0).sum()) for slope in rr.slopes(net).values()] == [3, 2]


def test_taylor_score_is_the_same_when_slope_and_reader_trade_scale():
    # a -> 10 a and W -> W / 10: dL/da falls by 10 as well, so the product, and what is chosen, stay.
    chosen = []
    for factor in (1.0, 10.0):
        net = two_layers()
        with torch.no_grad():
            net[1].slope[0] *= factor
        grads = {**GRADS, "1.slope": GRADS["1.slope"] / torch.tensor([factor, 1, 1, 1])}
        budget = rr.SlopeBudget(net, X, 50, 5 / 6, unit="channels", start=0.2, end=0.4, window=0.2)
        train(net, budget, 50, grads)
        chosen.append((net[1].slope == 0).tolist())
    assert chosen[0] == chosen[1] == [True, False, False, False]


def test_state_resumes_bit_for_bit():
    whole, parts = two_layers(), two_layers()
    settings = {"steps": 60, "keep": 0.5, "start": 0.1, "end": 0.6, "window": 0.2}
    train(whole, rr.SlopeBudget(whole, X, **settings), 60, GRADS)
    first = rr.SlopeBudget(parts, X, **settings)
    train(parts, first, 25, GRADS)
    second = rr.SlopeBudget(parts, X, **settings)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(parts, second, 35, GRADS)
    for name, slope in rr.slopes(whole).items():
        assert torch.equal(slope, rr.slopes(parts)[name])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": 0}, "keep must be above 0"),
        ({"keep": 1.5}, "at most 1"),
        ({"start": 0.8, "end": 0.7}, "start <= end"),
        ({"end": 0.97, "window": 0.05}, "end \\+ window <= 1"),
        ({"steps": 0}, "steps=0"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(rr.errors.SlopeError, match=message):
        rr.SlopeBudget(two_layers(), X, **{"steps": 10, **settings})


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (lambda state: {}, "no state of a budget: it has no from, increases, number"),
        (
            lambda state: state | {"scores": {"1.slope": torch.zeros(3)}},
            r"another network's: 1\.slope has 4 channels",
        ),
        (lambda state: state | {"since": {}, "from": {}, "scores": {}}, "another network's"),
    ],
)
def test_the_state_of_something_else_is_refused_and_changes_nothing(state, message):
    budget = rr.SlopeBudget(two_layers(), X, 20)
    train_one = {name: torch.ones_like(slope) for name, slope in rr.slopes(budget._net).items()}
    train(budget._net, budget, 1, train_one)
    before = str(budget.state_dict())
    with pytest.raises(rr.errors.SlopeError, match=message):
        budget.load_state_dict(state(rr.SlopeBudget(two_layers(), X, 20).state_dict()))
    assert str(budget.state_dict()) == before


@pytest.mark.parametrize("settings", [{"unit": "mac"}, {"score": "tailor"}])
def test_unknown_names_suggest_the_nearest(settings):
    with pytest.raises(rr.errors.UnknownNameError, match=r"macs|taylor"):
        rr.SlopeBudget(two_layers(), X, 10, **settings)


def test_a_network_without_slopes_is_refused():
    with pytest.raises(rr.errors.SlopeError):
        rr.SlopeBudget(nn.Linear(3, 2), X, 10)


# --- gradients to judge by -------------------------------------------------------------------------------------------


def backward(net):
    net(torch.ones(2, 3)).square().mean().backward()


def cleared(net):
    backward(net)
    net.zero_grad()


def zeroed(net):
    backward(net)
    net.zero_grad(set_to_none=False)


def of_another_network(net):
    other = two_layers()
    backward(other)
    torch.optim.SGD(other.parameters(), lr=0.1).step()


def frozen(net):
    for slope in rr.slopes(net).values():
        slope.requires_grad_(False)
    backward(net)


@pytest.mark.parametrize(
    ("before", "message"),
    [
        (cleared, "no slope has a gradient"),
        (zeroed, "every gradient of the network is 0"),
        (lambda net: None, "no slope has a gradient"),
        (of_another_network, "no slope has a gradient"),
        (frozen, "requires_grad"),
    ],
    ids=[
        "zero_grad came first",
        "zero_grad to zeros",
        "before backward",
        "another network's",
        "frozen slopes",
    ],
)
def test_a_step_without_gradients_is_refused_and_changes_nothing(before, message):
    net = two_layers()
    budget = rr.SlopeBudget(net, X, 20, 0.5)
    before(net)
    was = copy.deepcopy((net.state_dict(), budget.state_dict()))
    with pytest.raises(rr.errors.SlopeError, match=message):
        budget.step()
    assert str((net.state_dict(), budget.state_dict())) == str(was)


def test_gradients_that_go_missing_later_are_noticed_at_once():
    net = two_layers()
    budget = rr.SlopeBudget(net, X, 20, 0.5)
    backward(net)
    budget.step()
    net.zero_grad()
    with pytest.raises(rr.errors.SlopeError, match="no slope has a gradient"):
        budget.step()


def test_the_slopes_own_size_needs_no_gradients():
    budget = rr.SlopeBudget(two_layers(), X, 20, 0.5, score="slope")
    budget.step()
    assert budget.state_dict()["number"] == 1


def test_a_head_that_starts_at_zero_is_no_fault():
    net = two_layers()
    with torch.no_grad():
        net[4].weight.zero_()  # no slope has a gradient other than 0 yet
    budget = rr.SlopeBudget(net, X, 20, 0.5)
    backward(net)
    assert not any(bool(slope.grad.any()) for slope in rr.slopes(net).values())
    budget.step()
    assert budget.state_dict()["number"] == 1


def test_accumulated_gradients_are_one_step():
    scores = []
    for parts in (1, 2):
        net = two_layers()
        budget = rr.SlopeBudget(net, X, 20, 0.5)
        for _ in range(parts):
            (net(torch.ones(2, 3)).square().mean() / parts).backward()
        budget.step()
        scores.append(budget.state_dict()["scores"]["1.slope"])
    assert torch.allclose(*scores, rtol=1e-6)


def test_a_gradient_that_overflowed_tells_nothing():
    net = two_layers()
    budget = rr.SlopeBudget(net, X, 100, 5 / 6, unit="channels", start=0.2, end=0.4, window=0.2)
    train(net, budget, 1, {name: torch.full_like(grad, torch.inf) for name, grad in GRADS.items()})
    assert all(float(score.sum()) == 0 for score in budget.state_dict()["scores"].values())
    train(net, budget, 99, GRADS)
    assert rr.slopes(net)["1.slope"].tolist() == [0.0, 1.0, 1.0, 1.0]


def test_following_an_optimizer_of_other_parameters_is_refused():
    net = two_layers()
    budget = rr.SlopeBudget(net, X, 20, 0.5)
    with pytest.raises(rr.errors.SlopeError, match="holds none of the network's slopes"):
        budget.follow(torch.optim.SGD(net[0].parameters(), lr=0.1))


# --- budgets that cannot be met --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "keep", "least"),
    # One unit of each layer: 3 + 1 + 1 of 22 multiplications, 5 + 3 + 2 of 35 parameters, 2 of 6 channels.
    [("macs", 0.001, 0.2273), ("parameters", 0.2, 0.2858), ("channels", 0.3, 0.3334)],
)
def test_a_budget_below_what_must_stay_is_refused_with_the_least(unit, keep, least):
    with pytest.raises(
        rr.errors.SlopeError, match=f"at most {keep:g} of the {unit} cannot be had.* {least:g} of them"
    ):
        rr.SlopeBudget(two_layers(), X, 100, keep, unit=unit)


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.act_a = nn.Linear(3, 2), RotatedReLU(2)
        self.b, self.act_b = nn.Linear(3, 2), RotatedReLU(2)
        self.head = nn.Linear(4, 1)

    def forward(self, x):
        return self.head(torch.cat([self.act_a(self.a(x)), self.act_b(self.b(x))], 1))


def test_of_two_ways_side_by_side_one_stays():
    # 16 multiplications; one way with one channel has 3 + 1, a quarter.
    net = Branches()
    with torch.no_grad():
        for slope in rr.slopes(net).values():
            slope.fill_(1.0)
    budget = rr.SlopeBudget(net, X, 200, 0.25, start=0.1, end=0.5, window=0.1)
    train(
        net, budget, 200, {"act_a.slope": torch.tensor([1.0, 2.0]), "act_b.slope": torch.tensor([3.0, 4.0])}
    )
    assert sorted(slope.tolist() for slope in rr.slopes(net).values()) == [[0.0, 0.0], [0.0, 1.0]]


def test_what_is_left_counts_exact_zeros_alone():
    # Linear(3, 4), Linear(4, 2), Linear(2, 1): 12 + 8 + 2 weights. Without the first channel 9 + 6 + 2 are left.
    net = two_layers()
    budget = rr.SlopeBudget(net, X, 100, 0.5)
    assert budget.left() == 1.0
    with torch.no_grad():
        net[1].slope[0] = 1e-9
    assert budget.left() == 1.0
    with torch.no_grad():
        net[1].slope[0] = 0.0
    assert budget.left() == pytest.approx(17 / 22)


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_the_shortest_runs_meet_their_budget(steps):
    # 5 of 6 channels may stay, whatever a tenth of so few steps is.
    net = two_layers()
    budget = rr.SlopeBudget(net, X, steps, 5 / 6, unit="channels", start=0.04, end=0.85, window=0.1)
    train(net, budget, steps, GRADS)
    assert rr.slopes(net)["1.slope"].tolist() == [0.0, 1.0, 1.0, 1.0]
    assert rr.slopes(net)["3.slope"].tolist() == [1.0, 1.0]
