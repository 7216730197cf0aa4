"""Channels chosen by the times of an engine that is made up, and what the exported result takes in it."""

import pytest
import torch

import rotated_relu as rr
from rotated_relu.core.errors import ArgumentError, SlopeError, UnknownNameError
from rotated_relu.pruning.importance import random_scores
from support.nets import Residual
from support.toy_engine import ToyEngine, exported_ms, install

X = torch.zeros(1, 3, 4, 4)


@pytest.fixture
def toy(monkeypatch, tmp_path):
    return install(monkeypatch, ToyEngine(), tmp_path)


@pytest.fixture
def scores():
    return random_scores(Residual(64))


@pytest.mark.parametrize(
    "speedup", [pytest.param(1.5, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)]
)
def test_what_is_chosen_for_a_speed_up_has_it(toy, scores, speedup):
    net = Residual(64)
    mask = rr.select_channels(net, X, keep=1 / speedup, unit="latency", scores=scores, engine="toy")
    result = rr.compact(net, X, mask=mask)
    assert exported_ms(net, X) / exported_ms(result.model, X) >= 0.97 * speedup
    # Blocks of 16, of which none is begun.
    assert all(int((~gone).sum()) % 16 == 0 for gone in mask.values())


def test_a_table_is_measured_once_and_may_be_given(toy, scores):
    net = Residual(64)
    settings = {"keep": 0.5, "unit": "latency", "scores": scores}
    first = rr.select_channels(net, X, engine="toy", **settings)
    started = toy.started
    assert started > 0
    again = rr.select_channels(net, X, engine="toy", **settings)
    table = rr.calibrate(net, X, engine="toy")
    given = rr.select_channels(net, X, table=table, **settings)
    assert toy.started == started
    for other in (again, given):
        assert all(torch.equal(first[name], other[name]) for name in first)


def test_nothing_is_measured_for_a_budget_that_cannot_be_one(toy, scores):
    net = Residual(64)
    with pytest.raises(SlopeError, match="keep must be above 0"):
        rr.select_channels(net, X, keep=0, unit="latency", engine="toy")
    with pytest.raises(SlopeError, match="one score per channel"):
        rr.select_channels(Residual(8), X, unit="latency", scores=scores, engine="toy")
    with pytest.raises(UnknownNameError, match="engine"):
        rr.select_channels(net, X, unit="latency", engine="toys")
    assert toy.started == 0


def test_a_table_is_no_use_for_other_units(toy):
    net = Residual(64)
    table = rr.calibrate(net, X, engine="toy")
    with pytest.raises(ArgumentError, match='a table of times is for unit="latency", not for'):
        rr.select_channels(net, X, unit="macs", table=table)
