"""Tables that are right about what they choose as well."""

import pytest
import torch
from torch import nn

import rotated_relu as rr
from rotated_relu.core.errors import ExportError, SlopeError
from rotated_relu.core.modules import as_inputs
from rotated_relu.deploy.latency import anchoring, calibrate
from rotated_relu.deploy.latency.anchoring import _best, _between, _Try, anchored, bent, bent_by, fitted_power
from rotated_relu.pruning.estimate import CostEstimate
from rotated_relu.pruning.latency.geometry import LayerGeometry
from rotated_relu.pruning.latency.grid import LatencyGrid
from rotated_relu.pruning.mask import Mask
from rotated_relu.pruning.steps.selector import StepSelector
from support.latency_tables import table_for, table_of
from support.nets import Residual
from support.toy_engine import ToyEngine, install

X = torch.zeros(1, 3, 4, 4)


class Cached(ToyEngine):
    """Whole networks take 0.7 times a power of what their layers take: small ones more than those say."""

    def _start(self, content, inputs, threads):
        milliseconds = super()._start(content, inputs, threads)()
        whole = inputs.args[0].shape[1:] == X.shape[1:] and b"Gemm" in content
        return lambda: 0.7 * milliseconds**0.8 if whole else milliseconds


@pytest.fixture
def toy(monkeypatch):
    return install(monkeypatch, Cached())


def test_a_layer_takes_its_longest_time_times_a_power_of_its_share_of_it():
    geometry = LayerGeometry("linear")
    times = LatencyGrid((1, 2), (1, 2), ((0.0, 1.0), (2.0, 4.0)))
    free = LayerGeometry("activation")
    table = bent(table_of({geometry: times, free: LatencyGrid((1,), (1,), ((0.0,),))}, call_ms=3.0), 2.0)
    # 4 (0/4)^2, 4 (1/4)^2, 4 (2/4)^2, 4
    assert table.entries[geometry].milliseconds == ((0.0, 0.25), (1.0, 4.0))
    assert table.entries[free].milliseconds == ((0.0,),)
    assert table.call_ms == 3.0


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
def test_bent_to_a_share_a_table_says_it_and_the_whole_stays(share, expected):
    # 3 -> 4 -> 1 without starts and calls, 0.1 ms for each pair of channels: 1.2 + 0.4; of two hidden units half.
    net = nn.Sequential(nn.Linear(3, 4), rr.RotatedReLU(4), nn.Linear(4, 1))
    example = torch.zeros(1, 3)
    dead = {"1.slope": torch.tensor([True, True, False, False])}
    estimate = CostEstimate(net, example, table_for(net, example, per_pair=0.1, start=0.0))
    widths = [estimate.latency.widths(estimate.liveness(gone)) for gone in (dead, {})]
    assert estimate.share(dead, "latency") == pytest.approx(0.5)
    found = CostEstimate(
        net, example, bent_by(estimate.latency, widths[1], fitted_power(estimate.latency, *widths, share))
    )
    assert found.whole("latency") == pytest.approx(1.6)
    assert found.share(dead, "latency") == pytest.approx(expected, rel=2e-3)


def test_below_a_power_something_is_paid_even_for_what_is_gone():
    geometry = LayerGeometry("linear")
    times = LatencyGrid((1, 2), (1, 2), ((0.0, 1.0), (2.0, 4.0)))
    found = bent(table_of({geometry: times}, call_ms=3.0), 0.1).entries[geometry]
    # Three quarters of 4 ms are always paid, and a quarter of what the power of 0.4 says: 4 (1/4)^0.4, 4 (2/4)^0.4.
    assert found.milliseconds == ((3.0, pytest.approx(3.574349)), (pytest.approx(3.757858), 4.0))
    assert (found.at(0, 2), found.at(2, 0)) == (3.0, 3.0)
    # From that power on nothing is.
    found = bent(table_of({geometry: times}), 0.4).entries[geometry]
    assert found.absent_ms == found.milliseconds[0][0] == 0.0
    assert found.milliseconds[0][1] == pytest.approx(2.297397)  # 4 (1/4)^0.4


def test_a_speed_up_that_only_the_layers_have_is_refused(toy, tmp_path, monkeypatch):
    net = Residual(48)
    table = calibrate.calibrate(net, X, engine="toy", threads=1, cache=tmp_path)
    # Whatever is chosen takes 0.7, and no table is found that would have said so.
    monkeypatch.setattr(anchoring._Shares, "of", lambda *_: 0.7)
    monkeypatch.setattr(anchoring._Choices, "fitted", lambda *_: 1.0)
    with pytest.raises(SlopeError, match=r"timed as a whole \(toy .* takes 0.7 of it, a speed-up of 1.43"):
        anchored(net, X, table, keep=0.6, cache=tmp_path)
    # Missed by a twelfth it is as near as it gets.
    assert anchored(net, X, table, keep=0.65, cache=tmp_path)[1]


def test_what_is_chosen_takes_in_the_engine_what_was_asked_for(toy, tmp_path):
    net, settings = Residual(48), {"keep": 0.5, "cache": tmp_path}
    table = calibrate.calibrate(net, X, engine="toy", threads=1, cache=tmp_path)
    plain = CostEstimate(net, X, table)
    better, mask = anchored(net, X, table, **settings)
    estimate = CostEstimate(net, X, better)
    measured = anchoring._Shares(net, as_inputs(X), plain.latency, tmp_path).of(mask)
    assert estimate.whole("latency") == pytest.approx(plain.whole("latency"))
    assert estimate.share(mask, "latency") <= 0.5
    assert measured == pytest.approx(0.5, rel=0.02)
    # By the layers alone it would have been taken for what it is not.
    assert plain.share(mask, "latency") < 0.95 * measured
    # All that was timed is known the next time.
    started = toy.started
    again, same = anchored(net, X, table, **settings)
    assert toy.started == started
    assert again == better
    assert all(torch.equal(mask[name], same[name]) for name in mask)


def test_what_is_lost_is_measured_once_for_all_that_is_timed(toy, tmp_path):
    net = Residual(48)
    table = calibrate.calibrate(net, X, engine="toy", threads=1, cache=tmp_path)
    vital, asked = rr.slopes(net)["block1.act1.slope"], []

    def loss():
        asked.append(1)
        return 100.0 * float((vital == 0).sum())

    better, mask = anchored(net, X, table, keep=0.6, cache=tmp_path, loss=loss)
    assert better != table  # what was chosen first took another share, and was chosen again
    assert len(asked) == 1 + StepSelector(CostEstimate(net, X, table), "latency").measurements
    assert not mask["block1.act1.slope"].any()


def test_what_two_tables_choose_is_removed_once_and_the_whole_is_known_from_its_calibration(
    toy, tmp_path, monkeypatch
):
    net, removed, real = Residual(48), [], anchoring.remove_channels
    table = calibrate.calibrate(net, X, engine="toy", threads=1, cache=tmp_path)
    monkeypatch.setattr(anchoring, "remove_channels", lambda *args: removed.append(1) or real(*args))
    shares = anchoring._Shares(net, as_inputs(X), CostEstimate(net, X, table).latency, tmp_path)
    assert shares.digest in shares.store.table.networks
    mask, other = (rr.select_channels(net, X, keep=keep, unit="channels") for keep in (0.5, 0.75))
    first = shares.of(mask)
    assert shares.of(Mask({name: gone.clone() for name, gone in mask.items()})) == first
    assert len(removed) == 1
    assert shares.of(other) > first
    assert len(removed) == 2


def tried(power, share):
    return _Try(power, share, None, None)


def test_the_next_power_lies_between_one_that_left_too_much_and_one_that_left_too_little():
    # 0.4 lies half way from 0.8 to 0.2 in powers of two.
    slow, fast = tried(1.0, 0.8), tried(0.5, 0.2)
    assert _between([slow, fast], 0.4) == pytest.approx(0.75)
    # The nearest of each side count.
    assert _between([tried(3.0, 0.9), slow, fast, tried(0.1, 0.1)], 0.4) == pytest.approx(0.75)
    assert _between([slow], 0.4) is None
    assert _between([fast], 0.4) is None


@pytest.mark.parametrize(
    ("shares", "best"),
    [
        ((0.6, 0.45, 0.3), 0.45),  # the slowest that is fast enough
        ((0.505, 0.48), 0.505),  # within 2 %
        ((0.6, 0.55), 0.55),  # none is
    ],
)
def test_the_best_of_what_was_timed(shares, best):
    assert _best([tried(1.0, share) for share in shares], 0.5).share == best


def test_a_table_may_be_asked_for_with_its_budget(toy, tmp_path):
    net, cache = Residual(48), tmp_path / "cache"
    with pytest.raises(SlopeError, match="keep must be above 0"):
        calibrate.calibrate(net, X, engine="toy", keep=0.0, cache=cache)
    with pytest.raises(SlopeError, match="slopes"):
        calibrate.calibrate(nn.Linear(3, 2), torch.zeros(1, 3), engine="toy", keep=0.5, cache=cache)
    assert toy.started == 0
    table = calibrate.calibrate(net, X, engine="toy", threads=1, cache=cache)
    found = calibrate.calibrate(net, X, engine="toy", threads=1, keep=0.5, cache=cache)
    assert found == anchored(net, X, table, keep=0.5, cache=cache)[0]
    assert found != table


def test_a_network_that_cannot_be_exported_is_chosen_by_its_layers(toy, tmp_path, monkeypatch):
    def refused(*_):
        raise ExportError("no")

    net = Residual(16)
    table = calibrate.calibrate(net, X, engine="toy", threads=1, cache=tmp_path)
    monkeypatch.setattr(anchoring, "program_of", refused)
    same, mask = anchored(net, X, table, keep=0.8, cache=tmp_path)
    assert same is table
    assert CostEstimate(net, X, table).share(mask, "latency") <= 0.8
