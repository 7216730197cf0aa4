"""The page, the pictures and the tables of a comparison over seeds: what they say, by hand."""

import json
import re

import pytest

from rotated_relu.experiments.comparison.results import table
from rotated_relu.experiments.comparison.spread import SPLITS, equal_training, interpolated
from rotated_relu.experiments.report.comparison import build_comparison, verdict
from rotated_relu.experiments.report.comparison_markdown import markdown, write_markdown
from rotated_relu.experiments.report.comparison_svg import Frame, pictures, ticks
from rotated_relu.experiments.report.spread_figures import LOOKS, frontiers, looks
from rotated_relu.experiments.report.spread_tables import with_deviation

REFERENCE = {
    0: {"validation": 90.0, "test": 89.0, "finetuned_validation": 90.0, "finetuned_test": 89.0},
    1: {"validation": 91.0, "test": 90.0, "finetuned_validation": 91.0, "finetuned_test": 90.0},
}


def row(method, seed, saved, accuracy, speedup=None):
    made = {
        "method": method, "label": method.title(), "seed": seed, "keep": 1.0, "level": 0.5, "macs_saved": saved,
        "parameters_saved": saved, "validation": 50.0, "test": 50.0, "finetuned_validation": accuracy,
        "finetuned_test": accuracy - 1, "finetune_epochs": 2,
    }  # fmt: skip
    timed = [{"engine": "openvino", "batch_size": 64, "ms": 1.0, "plain_ms": 2.0, "speedup": speedup}]
    return made | ({"latency": timed} if speedup else {})


def data(**changes):
    rows = [
        row("budget", 0, 0.5, 89.6, 1.5), row("budget", 1, 0.5, 91.0, 1.7), row("slimming", 0, 0.5, 88.0),
        row("slimming", 1, 0.5, 90.0),
    ]  # fmt: skip
    return {
        "title": "T",
        "rows": rows,
        "reference": REFERENCE,
        "trained": {"relu-seed0": REFERENCE[0]},
        "brought": False,
        "table": table(rows, REFERENCE),
        "equal_training": {split: equal_training(rows, REFERENCE, split) for split in SPLITS},
        "interpolated": {split: interpolated(rows, REFERENCE, split) for split in SPLITS},
        "failures": [{"method": "fastnas", "reason": "not installed"}],
        "made": [("command", "rotated-relu compare x"), ("seeds", "0, 1"), ("seconds", "12")],
        **changes,
    }


def plain(text):
    return text.replace("\u202f", " ").replace("\N{MINUS SIGN}", "-")


def test_a_mean_and_what_it_deviates_by():
    assert with_deviation({"mean": 0.5, "deviation": 0.014, "count": 3}, 100, 1) == "50.0 ± 1.4"
    assert plain(with_deviation({"mean": -0.5, "deviation": None, "count": 1}, sign=True)) == "-0.50"
    assert with_deviation(None) == ""


def test_the_page_of_a_result_says_what_a_reviewer_asks():
    page = plain(markdown(data(), ["a.svg"]))
    # ours: 88.6 and 90.0, deviation 1.4 / sqrt 2; ReLU 89.0 and 90.0, so 0.4 and 0.0 lost
    assert "| 50 %: Budget | 2 | 50.0 ± 0.0 | 89.30 ± 0.99 | -0.20 ± 0.28 |" in page
    # Words to the left, numbers to the right.
    assert "| --- | --: | --: | --: | --: | --- |\n| 50 %: Budget | 2 |" in page
    # slimming: 87.0 and 89.0; 89.3 - 88.0; variances 0.98 and 2, their mean times (1/2 + 1/2)
    assert "+1.30 (standard error 1.22)" in page
    assert "| 50 %: Budget | 1.60 ± 0.14 |" in page
    assert "| fastnas | all | not installed |" in page
    assert "```bash\nrotated-relu compare x\n```" in page
    assert "- **seconds**: 12" in page
    assert page.count("![") == 1
    for heading in ("What was asked", "Protocol", "What failed", "Networks as trained", "Files"):
        assert f"## {heading}\n" in page


def test_what_was_asked_for_in_times_is_called_so_and_trainings_have_names():
    rows = [row("budget_latency", 0, 0.3, 90.0, 1.5) | {"keep": 1 / 1.4, "level": 0.0}]
    found = data(
        equal_training={split: equal_training(rows, REFERENCE, split) for split in SPLITS},
        titles={"relu-seed0": "ReLU"},
    )
    page = plain(markdown(found))
    # 90.0 - 1 on test images, of which the ReLU network has 89.0 right.
    assert "| 1.4 times as fast: Budget_Latency | 1 | 30.0 | 89.00 | +0.00 |  |" in page
    assert "| 1.4 times as fast: Budget_Latency | 1.50 |" in page
    assert "| ReLU | 90.00 | 89.00 | 90.00 | 89.00 |" in page


def test_the_page_can_be_made_from_what_was_kept(tmp_path):
    kept = json.loads(json.dumps(data()))
    write_markdown(kept, tmp_path / "compare.md")
    assert (tmp_path / "compare.md").read_text() == markdown(
        data(), ["compare-equal-test-macs.svg", "compare-equal-test-openvino-64.svg"]
    )
    assert {path.name for path in tmp_path.glob("*.svg")} == {
        "compare-equal-test-macs.svg",
        "compare-equal-test-openvino-64.svg",
    }


def test_the_verdict_is_about_whoever_saves_most_at_half_a_point():
    # Seed 0 loses 0.4 at half of the MACs and seed 1 nothing: both frontiers end before half a point.
    assert plain(verdict(data())) == (
        "Budget saves at least 50.0 ± 0.0 % of the computation at a loss of 0.5 points on test images, after equal "
        "training"
    )


def test_a_frontier_for_macs_and_one_for_each_measured_speed():
    macs, speed = frontiers(data(), "test")
    assert (macs.key, speed.key) == ("equal-test-macs", "equal-test-openvino-64")
    budget, slimming, relu = macs.spec["data"]
    assert (budget["x"], budget["y"]) == ([50.0], [pytest.approx(89.3)])
    assert budget["error_y"]["array"] == [pytest.approx(0.98995, abs=1e-4)]
    assert (slimming["name"], relu["y"]) == ("Slimming", [89.5, 89.5])
    # Network Slimming has not been timed.
    assert [trace["name"] for trace in speed.spec["data"]] == ["Budget", "ReLU"]
    assert speed.spec["data"][0]["x"] == [pytest.approx(1.6)]


def test_one_seed_has_no_bars():
    rows = [row for row in data()["rows"] if row["seed"] == 0]
    (macs, _) = frontiers(data(rows=rows), "test")
    assert not any("error_y" in trace for trace in macs.spec["data"])


def test_no_two_methods_look_alike():
    assert len(set(looks([str(number) for number in range(len(LOOKS) ** 2)]).values())) == len(LOOKS) ** 2


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, 50, [0, 10, 20, 30, 40, 50]),
        (0.9, 1.6, [0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6]),
        (85.2, 91.5, [86, 87, 88, 89, 90, 91]),
        (3, 3, [3]),
    ],
)
def test_ticks_are_round(start, end, expected):
    assert ticks(start, end) == pytest.approx(expected)


def test_a_picture_has_a_line_and_a_name_for_each_method():
    drawn = pictures(data(), "test")["equal-test-macs"]
    assert re.findall(r'y="\d+">([^<]+)</text>', drawn)[-3:] == ["Budget", "Slimming", "ReLU"]
    frame = Frame(0, 100, 80, 90)
    assert frame.y(70) == frame.y(80) > frame.y(90)


def test_brought_networks_have_no_table_of_validation_losses(tmp_path):
    page = build_comparison(data(brought=True), tmp_path / "a.html").read_text()
    assert "MACs saved, before fine-tuning" not in page
    assert "After equal training, test images" in page
    assert "MACs saved, before fine-tuning" in build_comparison(data(), tmp_path / "b.html").read_text()
