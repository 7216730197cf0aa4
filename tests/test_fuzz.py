"""A tenth of ``benchmarks/fuzz.py``: wrong arguments for public functions, damaged runs for the verbs."""

import pytest

from support import damaged_runs, fuzzed_calls

pytestmark = pytest.mark.slow


def test_public_functions_raise_nothing_but_errors_of_ours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made, found = fuzzed_calls.foreign_exceptions(200, tmp_path)
    assert made > 150
    assert found == []


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, hidden in (("whole", 8), ("other", 12)):
        damaged_runs.trained(folder / name, hidden, verbs=name == "whole")
    return folder


def test_damaged_runs_leave_one_error_and_nothing_lost(runs, tmp_path):
    # 50 directories, spread over all files and damages; verbs in turn.
    every = damaged_runs.all_damaged(runs / "whole", 550)[::11]
    verbs = [verb for verb in damaged_runs.VERBS if verb != "export"]  # seconds each
    found = []
    for number, case in enumerate(every):
        place = tmp_path / str(number)
        place.mkdir()
        found += damaged_runs.complaints(
            case, verbs[number % len(verbs)], runs / "whole", runs / "other", place
        )
    assert found == []
