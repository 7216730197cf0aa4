"""A tenth of ``benchmarks/fuzz.py``: wrong arguments for public functions, damaged runs for the verbs."""

import pytest

from support import damaged_runs, fuzzed_calls


def test_every_public_name_is_called_or_left_out_for_a_reason():
    public, called = fuzzed_calls.public_names(), fuzzed_calls.called_names()
    assert public - called == set(fuzzed_calls.LEFT_OUT)


@pytest.mark.slow
def test_public_functions_raise_nothing_but_errors_of_ours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made, found = fuzzed_calls.foreign_exceptions(200, tmp_path)
    assert made == 200
    assert found == []


@pytest.fixture(scope="module")
def wholes(tmp_path_factory):
    return damaged_runs.finished(tmp_path_factory.mktemp("whole"), "shrunken")


@pytest.mark.slow
def test_damaged_runs_leave_one_error_and_nothing_lost(wholes, tmp_path):
    # 50 directories, spread over all files and damages; verbs in turn.
    damaged_runs.trained(tmp_path / "other", 12, verbs=False)
    found = []
    for number, case in enumerate(damaged_runs.all_damaged(wholes, 50)):
        place = tmp_path / str(number)
        place.mkdir()
        verbs = list(damaged_runs.VERBS[case.kind])
        found += damaged_runs.complaints(case, verbs[number % len(verbs)], wholes, tmp_path / "other", place)
    assert found == []
