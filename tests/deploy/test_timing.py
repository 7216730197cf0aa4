import pytest

from rotated_relu.deploy.timing import LatencyComparison, compare_latency


def test_calls_are_interleaved_and_counted():
    calls = []
    found = compare_latency(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3, warmup=2, min_sample_ms=0
    )
    # Two warm-up calls and three to size the sample for each, then three rounds, every second one backwards.
    assert "".join(calls) == "aaaaa" + "bbbbb" + "ab" + "ba" + "ab"
    assert {name: len(times) for name, times in found.milliseconds.items()} == {"a": 3, "b": 3}


def test_speedup_is_the_median_of_ratios_not_the_ratio_of_medians():
    found = LatencyComparison({"old": [2.0, 9.0, 30.0], "new": [1.0, 3.0, 20.0]})
    assert found.medians_ms == {"old": 9.0, "new": 3.0}
    assert found.ratios("new", over="old") == [2.0, 3.0, 1.5]
    assert found.speedup("new", over="old") == 2.0  # ratios 2, 3, 1.5; the ratio of medians would be 3


def test_a_fast_callable_is_called_often_and_the_time_is_per_call(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("rotated_relu.deploy.timing.time.perf_counter", lambda: clock[0])

    def run():
        clock[0] += 0.002

    found = compare_latency({"net": run}, repeats=3, warmup=1, min_sample_ms=7)

    assert found.medians_ms["net"] == pytest.approx(2.0)
    # One warm-up call, three to size the sample, then three samples of ceil(7 / 2) calls.
    assert clock[0] == pytest.approx(0.002 * (1 + 3 + 3 * 4))
    assert found.to_dict()["medians_ms"] == found.medians_ms


@pytest.mark.parametrize(("runnables", "repeats"), [({}, 3), ({"a": lambda: None}, 0)])
def test_nothing_to_time(runnables, repeats):
    with pytest.raises(ValueError, match="at least one"):
        compare_latency(runnables, repeats)
