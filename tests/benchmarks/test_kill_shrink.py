"""A shrinking that is killed twice for real ends as the one that never was; 20 kills are a benchmark."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kill_shrink.py"


@pytest.mark.slow
def test_killed_while_choosing_and_while_training_on(tmp_path):
    spec = importlib.util.spec_from_file_location("kill_shrink", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    phases = ["--phases", "choosing", "training on"]
    (run,) = script.main(["--kills", "2", *phases, "--out", str(tmp_path / "found.json")])
    assert [kill["phase"] for kill in run["kills"]] == ["choosing", "training on"]
    assert run["different"] == []
