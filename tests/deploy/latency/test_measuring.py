"""Times of operations from times of programs, with an engine whose times are known."""

import pytest

from rotated_relu.deploy.latency import measuring
from rotated_relu.deploy.latency.measuring import Bench, Layer
from rotated_relu.deploy.timing import LatencyComparison
from rotated_relu.pruning.latency.geometry import LayerGeometry
from support.toy_engine import (
    CALL_MS,
    START_MS,
    TAIL_MS,
    ToyEngine,
    convolution_ms,
    linear_ms,
    without_a_clock,
)

CONV = LayerGeometry("conv", (8, 8), (3, 3), (1, 1), (1, 1), (1, 1))


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.setattr(measuring, "compare_latency", without_a_clock)
    return Bench(ToyEngine().engine, threads=1, batch_size=2)


def test_what_stands_around_an_operation_is_taken_off(bench):
    layers = [Layer(CONV, 16, 16), Layer(CONV, 16, 40), Layer(LayerGeometry("linear"), 30, 10)]
    expected = [
        convolution_ms(16, 16, 2 * 64, 9),
        convolution_ms(16, 40, 2 * 64, 9),
        linear_ms(30, 10),
    ]
    assert bench.times(layers) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("geometry", "expected"),
    [
        # An addition costs a start here, since the toy fuses nothing; relu costs nothing.
        (
            LayerGeometry(**{**vars(CONV), "addition": True, "activation": "relu"}),
            convolution_ms(16, 16, 128, 9) + START_MS,
        ),
        (LayerGeometry("mean", (8, 8)), START_MS),
        (LayerGeometry("max_pool", (8, 8), (2, 2), (2, 2), (0, 0)), START_MS),
        (LayerGeometry("concat", (8, 8)), START_MS),
        (LayerGeometry("batch_norm", (8, 8), activation="relu"), START_MS),
        (LayerGeometry("mul", (8, 8)), START_MS),
    ],
    ids=str,
)
def test_operations_of_other_kinds(bench, geometry, expected):
    assert bench.times([Layer(geometry, 16, 16)]) == [pytest.approx(expected)]


def test_calls_and_tails(bench):
    assert bench.call_ms == CALL_MS
    assert bench.tail_ms == pytest.approx(TAIL_MS)


def test_noise_never_makes_a_time_negative(bench, monkeypatch):
    monkeypatch.setattr(measuring.Bench, "tail_ms", 100.0)
    assert bench.times([Layer(LayerGeometry("mul", (8, 8)), 16, 16)])[0] >= 0


def test_a_machine_that_is_slower_for_a_while_measures_the_same(monkeypatch):
    """All programs take twice as long, the reference among them."""
    layers = [Layer(CONV, 16, 40)]
    bench = Bench(ToyEngine().engine, threads=1, batch_size=2)
    monkeypatch.setattr(measuring, "compare_latency", without_a_clock)
    assert bench.reference_ms > 0

    def at_half_speed(runs, *args, **kwargs):
        found = without_a_clock(runs, *args, **kwargs).milliseconds
        return LatencyComparison({name: [2 * time for time in times] for name, times in found.items()})

    monkeypatch.setattr(measuring, "compare_latency", at_half_speed)
    assert bench.times(layers) == [pytest.approx(convolution_ms(16, 40, 2 * 64, 9))]


def test_a_bench_that_knows_its_reference_does_not_measure_it():
    bench = Bench(ToyEngine().engine, threads=1, batch_size=2, known_reference_ms=0.7)
    assert bench.reference_ms == 0.7


def test_the_reference_undisturbed_is_the_lower_decile(monkeypatch):
    times = [5.0] * 300 + [1.0, 2.0] * 20 + [3.0] * 60  # of 400, 40 are below 3
    monkeypatch.setattr(measuring, "compare_latency", lambda runs, *_: LatencyComparison({"": times}))
    assert Bench(ToyEngine().engine, threads=1, batch_size=2).reference_ms == 3.0
