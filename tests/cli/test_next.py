"""Whoever follows every "next:" ends with a complete page."""

import re
import shlex
from pathlib import Path

import pytest

from support.command_line import call

SETTINGS = ["--model", "fcnn", "--data", "mnist5k", "--precision", "32", "--lr", "0.05", "--progress", "none"]
LACKING = ("No filter has been removed", "Nothing has been timed", "have not been read", "no result yet")


def walk(capsys, *arguments):
    """The verbs, from hint to hint."""
    verbs = []
    while arguments:
        code, out, error = call(capsys, *arguments)
        assert code == 0, error
        verbs.append(arguments[0])
        hint = re.search(r"^next: rotated-relu (.*)$", out, flags=re.MULTILINE)
        arguments = shlex.split(hint[1]) if hint else []
        assert len(verbs) < 12, verbs
    return verbs


def page(out):
    text = Path(out, "report.html").read_text(encoding="utf-8")
    return text[: text.index("<script")]


@pytest.mark.parametrize(
    ("kind", "verbs"),
    [
        pytest.param(
            ["--keep-macs", "0.5"],
            ["train", "prune", "finetune", "export", "measure", "evaluate", "report"],
            marks=pytest.mark.slow,
        ),
        (["--relu"], ["train", "measure", "evaluate", "report"]),
    ],
)
def test_the_hints_lead_to_a_complete_page(capsys, tmp_path, kind, verbs):
    out = tmp_path / "run"
    assert walk(capsys, "train", *SETTINGS, "--epochs", "3", *kind, "--out", out) == verbs
    assert [words for words in LACKING if words in page(out)] == []
    assert "test accuracy" in page(out)
    # Read again, the test images make the page old.
    assert walk(capsys, "evaluate", out, "--split", "test") == ["evaluate", "report"]
