"""Bars, lines and the time left."""

import io
import sys

import pytest

from rotated_relu.core import progress
from rotated_relu.core.errors import UnknownNameError
from rotated_relu.core.progress import in_turn, resolved, showing, task


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves: ``clock[0]`` is the time."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_say_what_and_how_long_it_will_take(clock):
    said = []
    with showing("lines", said.append):
        methods = in_turn("pruning", ["slope", "norm", "L1", "L2"], lambda method: f"pruning by {method}")
        next(methods)
        clock[0] = 60.0
        next(methods)
    # A minute a step, three steps left.
    assert said == ["pruning by slope, 1 of 4", "pruning by norm, 2 of 4, 3 min left"]


def test_lines_within_one_piece_of_work_are_rare(clock):
    said = []
    with showing("lines", said.append), task("attack", 100) as work:
        for second in range(1, 101):
            clock[0] = float(second)
            work.advance()
    # One at 30, 60 and 90 seconds; the end is no news.
    assert said == [
        "attack: 30 of 100, 70 s left",
        "attack: 60 of 100, 40 s left",
        "attack: 90 of 100, 10 s left",
    ]


def test_steps_of_an_earlier_call_took_no_time_of_this_one(clock):
    with showing("none"), task("searching", 10, done=6) as work:
        assert work.left() is None
        clock[0] = 20.0
        work.advance(2)
        # 10 seconds a step, 2 left.
        assert work.left() == 20.0


def test_nothing_is_shown_unless_asked_for(capsys):
    with task("quiet", 2) as work:
        work.at("now")
        work.advance()
    assert capsys.readouterr() == ("", "")


def test_a_task_within_a_task_has_a_row_of_the_same_display(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with showing("bar"), task("outside", 3) as outer:
        outer.at("training ReLU, 1 of 3")
        with showing("bar"), task("inside", 5) as inner:
            inner.reach(2)
            assert inner.shown.bar is outer.shown.bar
            inner.shown.bar.refresh()
    shown = screen.getvalue()
    assert "training ReLU, 1 of 3" in shown
    assert "inside" in shown
    assert "2/5" in shown


def test_auto_is_lines_where_nobody_looks(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert resolved("auto") == "lines"


def test_unknown_kind():
    with (
        pytest.raises(UnknownNameError, match="unknown progress 'bars': did you mean 'bar'"),
        showing("bars"),
    ):
        pass
