"""What ``shrink`` makes of what is typed, and the command that goes on."""

import shlex
from pathlib import Path

import pytest

from rotated_relu.cli.shrink import command_of, repeated
from rotated_relu.core.errors import RunError
from rotated_relu.experiments.shrinking import frontier, pipeline
from rotated_relu.experiments.shrinking.settings import Shrinking
from support.command_line import call

NET = ["--model", "resnet20", "--weights", "a b.pt", "--data", "mnist5k"]


@pytest.mark.parametrize(
    ("typed", "understood"),
    [
        ("--keep-macs 0.7 0.5 0.3 --out x", "--keep-macs 0.7 --keep-macs 0.5 --keep-macs 0.3 --out x"),
        ("--keep-macs=0.7 0.5 --seed 3", "--keep-macs=0.7 --keep-macs 0.5 --seed 3"),
        ("--keep-macs 0.7 --keep-macs 0.5", "--keep-macs 0.7 --keep-macs 0.5"),
        ("--epochs 3 --keep-macs 0.7 runs/a", "--epochs 3 --keep-macs 0.7 runs/a"),
    ],
)
def test_several_numbers_may_follow_one_option(typed, understood):
    assert list(repeated(typed.split(), "--keep-macs")) == understood.split()


@pytest.fixture
def asked(monkeypatch):
    """What the command line asks for; nothing is done."""
    found = []

    def note(wanted, out, **options):
        found.append((wanted, out, options))
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "shrink_run", note)
    monkeypatch.setattr(frontier, "shrink_frontier", note)
    return found


def test_both_spellings_ask_for_the_same(capsys, asked):
    call(capsys, "shrink", *NET, "--keep-macs", "0.7", "0.5", "--out", "x")
    call(capsys, "shrink", *NET, "--keep-macs", "0.7", "--out", "x", "--keep-macs", "0.5")
    assert asked[0][0] == asked[1][0]
    assert [one.keep for one in asked[0][0]] == [0.7, 0.5]


def test_several_speed_ups_are_several_budgets(capsys, asked):
    call(capsys, "shrink", *NET, "--speedup", "1.5", "2", "--engine", "openvino", "--out", "x")
    assert [(one.keep, one.speedup, one.budget_name) for one in asked[0][0]] == [
        (0.5, 1.5, "speedup-1.5"),
        (0.5, 2.0, "speedup-2"),
    ]
    again = command_of(asked[0][0], Path("x"))
    assert again.endswith("--engine openvino --speedup 1.5 2 --out x")
    call(capsys, *shlex.split(again)[1:])
    assert asked[1][0] == asked[0][0]
    code, _, said = call(capsys, "shrink", *NET, "--speedup", "2", "--keep-macs", "0.7", "--out", "x")
    assert code == 2
    assert "not both" in said


def test_the_command_after_ctrl_c_asks_for_the_same_again(capsys, asked):
    given = [
        *NET, "--model-option", "width=32", "--model-option", 'name="1"', "--rename", "fc=linear",
        "--mean", "0.5", "--std", "0.25", "--image-size", "32", "--resize", "36", "--interpolation", "bicubic",
        "--no-flip", "--ema", "0.99", "--epochs", "3", "--keep-macs", "0.5", "--out", "my run",
        "--openvino", "--progress", "none",
    ]  # fmt: skip
    code, _, said = call(capsys, "shrink", *given)
    assert code == 130
    again = said.split("Go on with: rotated-relu ")[1].strip()
    call(capsys, *shlex.split(again))
    assert asked[1][:2] == asked[0][:2]
    assert asked[1][2] == asked[0][2]


def test_what_has_its_default_is_left_out_of_the_command():
    one = Shrinking("resnet20", "w.pt", "mnist5k")
    assert command_of([one], Path("x")) == (
        "rotated-relu shrink --model resnet20 --weights w.pt --data mnist5k --keep-macs 0.5 --out x"
    )


def test_what_is_missing_or_too_much_is_named(capsys):
    code, _, said = call(capsys, "shrink", "--model", "resnet20", "--out", "x")
    assert code == 1
    assert "nothing to shrink: give weights, data, or the directory of a run" in said
    with pytest.raises(RunError, match="is shrunk with its own mean; leave that out"):
        Shrinking(source="runs/a", mean=[0.5])
    with pytest.raises(RunError, match="above 0 and at most 1, got 50"):
        Shrinking("resnet20", "w.pt", "mnist5k", keep=50)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--latency-table", "no.json"], "a latency table is for a speed-up: give --speedup as well"),
        (["--speedup", "2", "--latency-table", "no.json"], "cannot read no.json: No such file or directory"),
        (["--speedup", "2", "--engine", "openvinno"], "did you mean 'openvino'"),
    ],
)
def test_times_that_there_are_not_are_found_before_any_work(capsys, monkeypatch, tmp_path, options, says):
    monkeypatch.setattr(pipeline, "write_original", lambda *_: pytest.fail("worked"))
    code, _, error = call(capsys, "shrink", *NET, *options, "--out", tmp_path / "run")
    assert code == 1
    assert says in " ".join(error.split())
    assert not (tmp_path / "run").exists()
