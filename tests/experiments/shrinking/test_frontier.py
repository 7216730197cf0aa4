"""Several budgets: what the runs share, and the page with all of them."""

import json
import shutil

import pytest
import torch

from rotated_relu.core.errors import RunError
from rotated_relu.experiments.report.frontier import build_frontier, verdict
from rotated_relu.experiments.shrinking import frontier, original
from rotated_relu.experiments.shrinking.frontier import part_of, shrink_frontier
from rotated_relu.experiments.shrinking.pipeline import shrink_run

KEEPS = (0.4, 0.7)


@pytest.fixture(scope="module")
def curve(wanted, tmp_path_factory):
    """Two budgets, with how often each network was evaluated and brought."""
    out = tmp_path_factory.mktemp("frontier") / "out"
    counted = []
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((original, "write_original"), (frontier, "evaluate_run")):
            function = getattr(module, name)
            patch.setattr(
                module, name, lambda *args, f=function, n=name, **kw: counted.append(n) or f(*args, **kw)
            )
        from rotated_relu.experiments.shrinking import pipeline

        patch.setattr(pipeline, "write_original", original.write_original)
        summary = shrink_frontier([wanted(keep=keep) for keep in KEEPS], out)
    return out, summary, counted


def test_each_budget_is_a_run_and_the_summary_lists_them_largest_first(curve):
    out, summary, _ = curve
    assert json.loads((out / "summary.json").read_text()) == summary
    assert [row["run"] for row in summary["runs"]] == ["keep-0.7", "keep-0.4"]
    for row in summary["runs"]:
        own = json.loads((out / row["run"] / "summary.json").read_text())
        assert own["shrunk_test_accuracy"] == row["shrunk_test_accuracy"]
        assert own["original_test_accuracy"] == summary["original_test_accuracy"]
        assert row["macs_kept"] <= row["keep"]
        assert {"compact.onnx", "report.html"} <= {path.name for path in (out / row["run"]).iterdir()}


def test_the_original_is_brought_and_tested_once(curve):
    assert curve[2] == ["write_original", "evaluate_run"]


def test_all_are_measured_in_the_same_rounds(curve):
    out = curve[0]
    whole = json.loads((out / "measure.json").read_text())
    assert set(whole["networks"]) == {"original", "keep-0.7", "keep-0.4"}
    for name in ("keep-0.7", "keep-0.4"):
        own = json.loads((out / name / "measure.json").read_text())
        assert set(own["networks"]) == {"original", "compact"}
        timed, mine = whole["latency"][0]["milliseconds"], own["latency"][0]["milliseconds"]
        assert mine == {"original": timed["original"], "compact": timed[name]}


def test_a_busy_machine_is_said_on_the_page(curve, tmp_path):
    _, summary, _ = curve
    assert summary["unsteadiness"] >= 1
    made = {"environment": summary["environment"]}
    for unsteadiness, says in ((1.0, False), (2.5, True)):
        known = {**summary, "title": "net", "made": made, "unsteadiness": unsteadiness}
        page = build_frontier(known, tmp_path / "report.html").read_text()
        assert ("spans a factor of 2.5" in page) == says


def test_the_page_has_every_run_with_a_link(curve):
    out, summary, _ = curve
    page = (out / "report.html").read_text()
    for row in summary["runs"]:
        assert f'href="{row["run"]}/report.html"' in page
        assert f"{row['shrunk_test_accuracy']:.2f}" in page
    assert 'id="macs"' in page
    assert 'id="time-1"' in page


@pytest.mark.slow
def test_a_run_of_a_frontier_is_that_of_its_budget_alone(curve, wanted, tmp_path):
    from safetensors.torch import load_file

    shrink_run(wanted(keep=0.4), tmp_path / "alone")
    one, other = (
        load_file(path / "compact.safetensors") for path in (tmp_path / "alone", curve[0] / "keep-0.4")
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_stopped_while_measuring_it_goes_on_and_a_budget_more_keeps_the_others(
    curve, wanted, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    shutil.copytree(curve[0], out)
    trained = (out / "keep-0.7" / "compact.safetensors").read_bytes()
    more = [wanted(keep=keep) for keep in (*KEEPS, 0.9)]

    def stopped(*args, **keywords):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(frontier, "measure_networks", stopped)
        with pytest.raises(KeyboardInterrupt):
            shrink_frontier(more, out)
    summary = shrink_frontier(more, out)
    assert [row["run"] for row in summary["runs"]] == ["keep-0.9", "keep-0.7", "keep-0.4"]
    assert (out / "keep-0.7" / "compact.safetensors").read_bytes() == trained
    assert summary["original_test_accuracy"] == curve[1]["original_test_accuracy"]
    assert len(json.loads((out / "measure.json").read_text())["networks"]) == 4


def test_a_run_is_no_place_for_several_budgets(curve, wanted):
    with pytest.raises(RunError, match="holds one run"):
        shrink_frontier([wanted(keep=keep) for keep in KEEPS], curve[0] / "keep-0.7")
    with pytest.raises(RunError, match="holds runs of several budgets"):
        shrink_run(wanted(), curve[0])


def test_the_sentence_names_both_ends():
    rows = [
        {"shrunk_test_accuracy": 91.0, "macs_kept": 0.7},
        {"shrunk_test_accuracy": 89.5, "macs_kept": 0.5},
        {"shrunk_test_accuracy": 88.0, "macs_kept": 0.3},
    ]
    said = verdict({"original_test_accuracy": 91.5, "runs": rows}).replace("\N{NARROW NO-BREAK SPACE}", " ")
    minus = "\N{MINUS SIGN}"
    assert said == (
        f"Test accuracy is 91.0 % ({minus}0.5 points) at 70 % and 88.0 % ({minus}3.5 points) at 30 % of the "
        "computation"
    )


def test_the_sentence_of_speed_ups_names_those_that_were_measured():
    rows = [
        {"shrunk_test_accuracy": 91.0, "macs_kept": 0.7, "speedup": 1.5, "latency_speedup": 1.47},
        {"shrunk_test_accuracy": 88.0, "macs_kept": 0.3, "speedup": 3.0, "latency_speedup": 2.9},
    ]
    said = verdict({"original_test_accuracy": 91.5, "runs": rows})
    assert said.endswith(" points) at 2.90\N{MULTIPLICATION SIGN} the speed")
    assert " at 1.47\N{MULTIPLICATION SIGN} and " in said


def test_a_part_of_a_measurement_speaks_of_two_networks():
    timed = {
        "batch_size": 1,
        "medians_ms": {"original": 2.0, "a": 1.0, "b": 0.5},
        "speedup": {"a": 2.0, "b": 4.0},
    }
    alike = {key: {"original": 1, "a": 2, "b": 3} for key in ("networks", "layer_macs", "layer_weights")}
    whole = {
        **alike,
        "saved": {"a": 0.5, "b": 0.7},
        "engines": [{"engine": "e", "latency": [timed]}],
        "seconds": 3,
    }
    part = part_of(whole, "b")
    assert part["networks"] == {"original": 1, "compact": 3}
    assert part["saved"] == {"compact": 0.7}
    assert part["latency"] == [
        {"batch_size": 1, "medians_ms": {"original": 2.0, "compact": 0.5}, "speedup": {"compact": 4.0}}
    ]
    assert "seconds" not in part
