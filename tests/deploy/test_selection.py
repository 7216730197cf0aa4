"""Who is chosen by which timings; all times are made up."""

import pytest

from rotated_relu.deploy.selection import (
    enough_rounds,
    faster,
    lower_bound,
    never_slower,
    select_fastest,
    surely_fastest,
)
from rotated_relu.deploy.timing import LatencyComparison


def rounds(**speedups):
    """A comparison in which the original takes 10 ms in each round, and the others as much as their ratios say."""
    count = max(len(ratios) for ratios in speedups.values())
    times = {name: [10 / ratio for ratio in ratios] for name, ratios in speedups.items()}
    return LatencyComparison({"original": [10.0] * count, **times})


class Script:
    """Plays made-up comparisons in order, and notes what was asked for."""

    def __init__(self, *stages):
        self.stages, self.asked = list(stages), []

    def __call__(self, names, counts):
        self.asked.append((list(names), list(counts)))
        stage = self.stages.pop(0)
        return [LatencyComparison({n: one.milliseconds[n] for n in names}) for one in stage]


def test_the_lower_bound_is_an_order_statistic():
    # P(Binomial(n, 1/2) < k) <= 0.05: for n = 5, P(0) = 1/32 = 0.031 but P(<= 1) = 6/32: the smallest
    assert lower_bound([5, 4, 3, 2, 1]) == 1
    # for n = 8, P(<= 1) = 9/256 = 0.035, P(<= 2) = 37/256: the second smallest, so that one bad round does not matter
    assert lower_bound([8, 1, 7, 2, 6, 3, 5, 4]) == 2
    # for n = 15, P(<= 3) = 576/32768 = 0.018, P(<= 4) = 1941/32768 = 0.059: the fourth smallest
    assert lower_bound(range(1, 16)) == 4
    # for n = 4, P(0) = 1/16: nothing can be said
    assert lower_bound([9, 9, 9, 9]) == 0


def test_faster_takes_a_clear_majority_and_a_margin():
    # of 15 rounds the fourth worst decides: three that went wrong are forgiven, four are not
    assert faster([rounds(a=[0.5] * 3 + [1.1] * 12)], "a", "original")
    assert not faster([rounds(a=[0.5] * 4 + [1.1] * 11)], "a", "original")
    # always 1 % faster is less than the margin of 2 %
    assert not faster([rounds(a=[1.01] * 15)], "a", "original")
    assert faster([rounds(a=[1.03] * 15)], "a", "original")


def test_faster_counts_all_inputs_alike():
    # sqrt(0.98 * 1.1) = 1.038 is more than 1.02, sqrt(0.98 * 1.05) = 1.014 is not
    small = rounds(a=[0.98] * 15)
    assert faster([small, rounds(a=[1.1] * 15)], "a", "original")
    assert not faster([small, rounds(a=[1.05] * 15)], "a", "original")


def test_never_slower_looks_at_each_input():
    good = rounds(a=[4.0] * 15)
    assert never_slower([good, rounds(a=[0.995] * 15)], "a", "original")
    # the median is 2 % slower
    assert not never_slower([good, rounds(a=[0.98] * 15)], "a", "original")
    # the median is equal, but the fourth worst of 15 is 5 % slower: it may well be slower
    assert not never_slower([good, rounds(a=[0.95] * 4 + [1.0] * 11)], "a", "original")


def test_a_later_candidate_has_to_beat_the_earlier_one():
    # both beat the original; b is 1.5 / 1.48 = 1.4 % faster than a, c is 1.6 / 1.48 = 8 % faster
    times = rounds(a=[1.48] * 9, b=[1.5] * 9, c=[1.6] * 9)
    assert surely_fastest([times], ["original", "a", "b"], "original") == "a"
    assert surely_fastest([times], ["original", "a", "b", "c"], "original") == "c"


def test_the_original_stays_where_no_candidate_is_confirmed_faster():
    # the median of a is 1.3, as good as that of b is 1.0; but it lost four rounds of nine
    times = rounds(a=[0.8] * 4 + [1.3] * 5, b=[1.0] * 9)
    assert surely_fastest([times], ["original", "a", "b"], "original") == "original"


def test_without_an_original_the_first_candidate_is_the_reference():
    times = rounds(a=[1.01] * 9, b=[1.4] * 9)
    assert surely_fastest([times], ["original", "a"]) == "original"
    assert surely_fastest([times], ["original", "a", "b"]) == "b"
    # twice as fast at one input and 5 % slower at another is faster on the whole: only an original has a veto
    trade = [rounds(a=[0.95] * 9), rounds(a=[2.0] * 9)]
    assert surely_fastest(trade, ["original", "a"]) == "a"
    assert surely_fastest(trade, ["original", "a"], "original") == "original"


def test_three_of_the_screening_are_compared_and_one_is_confirmed():
    names = ["original", "a", "b", "c", "d"]
    screening = rounds(a=[1.1] * 3, b=[1.5] * 3, c=[1.2] * 3, d=[1.3] * 3)
    compared = rounds(a=[9.0] * 15, b=[1.2] * 15, c=[1.1] * 15, d=[1.3] * 15)
    script = Script([screening], [compared], [rounds(d=[1.25] * 15)])
    found = select_fastest(script, names, original="original")
    assert found.chosen == "d"
    assert found.speedup == [
        pytest.approx(1.25)
    ]  # of the confirmation; the comparison, which chose it, says 1.3
    asked, _ = zip(*script.asked, strict=True)
    assert asked == (names, ["original", "b", "c", "d"], ["original", "d"])
    # of a there is only the screening
    assert found.milliseconds["a"] == [pytest.approx(10 / 1.1)]
    assert found.milliseconds["d"] == [pytest.approx(10 / 1.3)]


@pytest.mark.parametrize("again", [[1.0] * 15, [1.01] * 15, [0.45] * 15, [0.9] * 4 + [2.0] * 11])
def test_a_candidate_that_is_not_faster_again_is_dropped(again):
    screening, compared = rounds(a=[1.4] * 3), rounds(a=[1.4] * 15)
    found = select_fastest(
        Script([screening], [compared], [rounds(a=again)]), ["original", "a"], original="original"
    )
    assert found.chosen == "original"
    assert found.speedup == [1.0]


def test_where_the_comparison_finds_nothing_faster_there_is_no_confirmation():
    script = Script([rounds(a=[1.4] * 3)], [rounds(a=[1.0] * 15)])
    assert select_fastest(script, ["original", "a"], original="original").chosen == "original"
    assert script.stages == []


def test_alone_there_is_nothing_to_decide():
    script = Script([rounds(a=[1.0] * 3)])
    found = select_fastest(script, ["original"])
    assert (found.chosen, found.milliseconds) == ("original", {"original": [10.0]})


def test_every_input_has_its_own_rounds():
    fast = LatencyComparison({"original": [0.1] * 3, "a": [0.05] * 3})
    slow = LatencyComparison({"original": [900.0] * 3, "a": [600.0] * 3})
    stage = [rounds(a=[2.0] * 15), rounds(a=[1.5] * 15)]
    script = Script([fast, slow], stage, stage)
    found = select_fastest(script, ["original", "a"], inputs=2, original="original", rounds=15)
    # fast: 2 samples of 5 ms are 300 rounds in 3 s, but 3 * 15 at the most; slow: 2 rounds in 3 s, but 8 at least
    assert [counts for _, counts in script.asked] == [[3, 3], [45, 8], [45, 8]]
    assert found.speedup == [pytest.approx(2.0), pytest.approx(1.5)]


def test_rounds_fill_three_seconds():
    screening = LatencyComparison({"a": [40.0], "b": [60.0], "c": [1.0]})
    assert enough_rounds(screening, ["a", "b"], 15) == 30  # 3000 / 100
    assert enough_rounds(screening, ["a", "c"], 20) == 60  # 3000 / 45 = 66, and 3 * 20 at the most
    assert enough_rounds(LatencyComparison({"a": [4000.0]}), ["a"], 15) == 8
    assert enough_rounds(LatencyComparison({"a": [4000.0]}), ["a"], 3) == 3


def test_selection_needs_the_original_among_candidates():
    for names, original in (([], None), (["a"], "original")):
        with pytest.raises(ValueError, match="needs candidates"):
            select_fastest(Script(), names, original=original)
