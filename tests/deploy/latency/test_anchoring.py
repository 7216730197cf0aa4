"""Tables that are right about what they choose as well."""

import pytest
import torch
from torch import nn

import rotated_relu as rr
from rotated_relu.core.errors import ExportError, SlopeError
from rotated_relu.core.modules import as_inputs
from rotated_relu.deploy.latency import anchoring, calibrate
from rotated_relu.deploy.latency.anchoring import _best, _between, _Try, anchored
from rotated_relu.deploy.latency.bending import Bend
from rotated_relu.pruning.estimate import CostEstimate
from rotated_relu.pruning.mask import Mask
from rotated_relu.pruning.steps.selector import StepSelector
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


def test_a_speed_up_that_only_the_layers_have_is_refused(toy, tmp_path, monkeypatch):
    net = Residual(48)
    table = calibrate.calibrate(net, X, engine="toy", threads=1, cache=tmp_path)
    # Whatever is chosen takes 0.7, and no table is found that would have said so.
    monkeypatch.setattr(anchoring._Shares, "of", lambda *_: 0.7)
    monkeypatch.setattr(anchoring._Choices, "fitted", lambda *_: Bend())
    with pytest.raises(SlopeError, match=r"timed as a whole \(toy .* takes 0.7 of it, a speed-up of 1.43"):
        anchored(net, X, table, keep=0.6, cache=tmp_path)
    # Missed by a twelfth it is as near as it gets.
    assert anchored(net, X, table, keep=0.65, cache=tmp_path)[1]


def paying(monkeypatch, net, table, always):
    """Networks take a part of the original's time whatever goes, and for the rest what their layers say."""
    plain = CostEstimate(net, X, table)
    monkeypatch.setattr(
        anchoring._Shares, "of", lambda _, mask: always + (1 - always) * plain.share(mask, "latency")
    )
    return plain


@pytest.mark.parametrize("keep", [0.8, 0.6, 0.5])
def test_what_is_paid_whatever_goes_is_found(toy, tmp_path, monkeypatch, keep):
    net = Residual(96)
    table = calibrate.calibrate(net, X, engine="toy", threads=1, cache=tmp_path)
    plain = paying(monkeypatch, net, table, 0.3)
    better, mask = anchored(net, X, table, keep=keep, cache=tmp_path)
    assert 0.9 * keep <= 0.3 + 0.7 * plain.share(mask, "latency") <= 1.02 * keep
    assert CostEstimate(net, X, better).share(mask, "latency") <= keep


def test_what_cannot_be_had_is_refused_with_the_fastest_that_was_found(toy, tmp_path, monkeypatch):
    net = Residual(48)
    table = calibrate.calibrate(net, X, engine="toy", threads=1, cache=tmp_path)
    plain = paying(monkeypatch, net, table, 0.3)
    most = {name: torch.arange(slope.numel()) > 0 for name, slope in rr.slopes(net).items()}
    with pytest.raises(SlopeError, match="timed as a whole") as refused:
        anchored(net, X, table, keep=0.32, cache=tmp_path)
    found = float(str(refused.value).split("found takes ")[1].split()[0])
    assert 1.1 * 0.32 < found < 0.3 + 0.7 * plain.share(most, "latency") + 0.1


def test_what_is_chosen_takes_in_the_engine_what_was_asked_for(toy, tmp_path):
    net, settings = Residual(96), {"keep": 0.6, "cache": tmp_path}
    table = calibrate.calibrate(net, X, engine="toy", threads=1, cache=tmp_path)
    plain = CostEstimate(net, X, table)
    better, mask = anchored(net, X, table, **settings)
    estimate = CostEstimate(net, X, better)
    measured = anchoring._Shares(net, as_inputs(X), plain.latency, tmp_path).of(mask)
    assert estimate.whole("latency") == pytest.approx(plain.whole("latency"))
    assert estimate.share(mask, "latency") <= 0.6
    assert measured == pytest.approx(0.6, rel=0.02)
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


def tried(bend, share):
    return _Try(bend, share, share, None, None)


def test_the_next_bend_lies_between_one_that_left_too_much_and_one_that_left_too_little():
    # 0.4 lies half way from 0.8 to 0.2 in powers of two.
    slow, fast = tried(Bend(1.0, 0.0), 0.8), tried(Bend(0.5, 0.3), 0.2)
    assert _between([slow, fast], 0.4) == Bend(0.75, pytest.approx(0.15))
    # What was bent less or more than those is out of the question.
    less, more = tried(Bend(1.0, -0.2), 0.85), tried(Bend(1.0, 0.6), 0.1)
    assert _between([less, slow, fast, more], 0.4) == Bend(0.75, pytest.approx(0.15))
    assert _between([slow], 0.4) is None
    assert _between([fast], 0.4) is None


def test_the_next_bend_keeps_away_from_those_that_are_known():
    # 0.4 would be 0.1 of the way from 0.41 to 0.32, and 0.9 of that from 0.5 to 0.39; a quarter is kept on each side.
    slow = tried(Bend(), 0.41)
    assert _between([slow, tried(Bend(1.0, 0.4), 0.32)], 0.4) == Bend(1.0, pytest.approx(0.1))
    slow = tried(Bend(), 0.5)
    assert _between([slow, tried(Bend(1.0, 0.4), 0.39)], 0.4) == Bend(1.0, pytest.approx(0.3))


@pytest.mark.parametrize(
    ("shares", "best"),
    [
        ((0.6, 0.45, 0.3), 0.45),  # the slowest that is fast enough
        ((0.505, 0.48), 0.505),  # within 2 %
        ((0.6, 0.55), 0.55),  # none is
    ],
)
def test_the_best_of_what_was_timed(shares, best):
    assert _best([tried(Bend(), share) for share in shares], 0.5).share == best


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
