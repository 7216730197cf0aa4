import json
import re

import pytest

from rotated_relu.core.errors import RunError, UnknownNameError
from rotated_relu.experiments.report import build
from rotated_relu.experiments.report.build import render
from rotated_relu.experiments.report.figures import figures
from rotated_relu.experiments.report.steadiness import unsteadiness
from rotated_relu.experiments.report.tables import attack, certificate, counts, held, made, networks, tiles
from rotated_relu.experiments.report.words import count, lead, paths, percent, points, share, size, verdict
from support.report_data import full_report, trained_report

ALL_FIGURES = {"threshold", "slopes", "alive", "paths", "layers", "curves", "latency", "layer_latency"}


def plain(text):
    """Ordinary characters in place of typographic ones."""
    return text.replace("\u202f", " ").replace("\u2212", "-").replace("\u00d7", "x").replace("\u00a0", " ")


def two_networks(**changes):
    """A reference of 1000 parameters at 90 %, and a final network."""
    final = {"key": "compact", "label": "compacted", "test_accuracy": 89.9, "parameters": 390} | changes
    return {
        "networks": [{"key": "relu", "label": "ReLU", "test_accuracy": 90.0, "parameters": 1000}, final],
        "latency": [{"batch_size": 8, "milliseconds": {}, "medians_ms": {}, "speedup": {"compact": 2.31}}],
    }


def test_verdict_says_what_was_gained_and_what_it_cost():
    # 1 - 390/1000 = 61 %; 89.9 - 90.0 = -0.1.
    assert plain(verdict(two_networks())) == (
        "The network is 2.3x faster and 61 % smaller at 89.9 % test accuracy (-0.1 points)."
    )


@pytest.mark.parametrize(
    ("changes", "speedup", "expected"),
    [
        ({"test_accuracy": 91.0}, 2.0, "2.0x faster and 61 % smaller at 91.0 % test accuracy (+1.0 points)."),
        ({"test_accuracy": 90.01}, 1.02, "as fast and 61 % smaller at 90.0 % test accuracy (±0.0 points)."),
        ({"parameters": 1100}, 0.8, "1.2x slower and 10 % larger at 89.9 % test accuracy (-0.1 points)."),
        ({"test_accuracy": None}, 2.0, "2.0x faster and 61 % smaller."),
        (
            {"test_accuracy": None, "validation_accuracy": 88.0},
            2.0,
            "2.0x faster and 61 % smaller at 88.0 % validation accuracy.",
        ),
    ],
)
def test_verdict_is_honest(changes, speedup, expected):
    data = two_networks(**changes)
    data["latency"][0]["speedup"]["compact"] = speedup
    assert plain(verdict(data)) == f"The network is {expected}"


def test_verdict_without_a_comparison():
    assert plain(verdict(trained_report())) == "Rotated ReLU reaches 90.5 % validation accuracy."
    assert verdict({"networks": [{"key": "a", "label": "net"}]}) == "Net: no result yet."
    assert verdict({}) == "Nothing has been measured yet."
    assert lead({}) == ""


def test_numbers_as_people_write_them():
    assert [
        plain(text) for text in (percent(90.123, 2), share(0.614), share(0.999), share(-0.1), points(-0.04))
    ] == [
        "90.12 %",
        "61 %",
        "99.9 %",
        "-10 %",
        "±0.0",
    ]
    assert [plain(count(value)) for value in (None, 0, 1234, 83_400, 4.09e9)] == [
        "",
        "0",
        "1,234",
        "83.4 k",
        "4.09 G",
    ]
    assert [plain(size(value)) for value in (999, 343_000, 1.09e6)] == ["999 B", "343 kB", "1.09 MB"]


def test_the_table_takes_costs_from_the_network_of_the_same_shape():
    table = networks(full_report())
    rows = {key: [plain(cell.value) for cell in cells] for key, _, cells in table.rows}
    notes = {key: [plain(cell.note) for cell in cells] for key, _, cells in table.rows}
    assert [plain(head) for head in table.heads] == [
        "test accuracy",
        "validation accuracy",
        "parameters",
        "MACs",
        "file",
        "peak memory",
        "latency, batch 1",
        "latency, batch 64",
    ]
    assert rows["finetuned"][2:] == rows["compact"][2:]
    assert rows["relu"][0] == "90.21 %"
    assert notes["finetuned"][0] == "-0.1 points"  # 90.12 - 90.21
    assert notes["compact"][7] == "2.28x"
    assert not any(notes["relu"])


def test_columns_without_figures_are_left_out():
    assert networks(trained_report()).heads == ["validation accuracy"]
    assert networks({}) is None
    assert tiles(trained_report()) == []


def test_paper_count_and_achieved_count_side_by_side():
    data = {
        "networks": [
            {"key": "rotated", "label": "rotated", "conv_linear_weights": 1000, "macs": 5000},
            {"key": "compact", "label": "compacted", "conv_linear_weights": 400, "macs": 2500},
        ],
        "paper_count": {
            "full_weights": 1000,
            "alive_weights": 300,
            "full_flops": 10_000,
            "alive_flops": 4000,
        },
    }
    # FLOPs are 2 * MACs.
    assert [(row.what, row.how, plain(row.after), plain(row.saved_words)) for row in counts(data)] == [
        ("weights", "paper count", "300", "70.0 %"),
        ("weights", "achieved", "400", "60.0 %"),
        ("FLOPs", "paper count", "4,000", "60.0 %"),
        ("FLOPs", "achieved", "5,000", "50.0 %"),
    ]
    assert counts({}) == []


def test_held_channels_are_grouped_by_reason():
    rows = [("a", 1, "pad"), ("b", 5, "rounding"), ("c", 7, "pad")]
    data = {
        "held": [{"name": name, "channels": channels, "reason": reason} for name, channels, reason in rows]
    }
    assert [(reason, len(entries)) for reason, entries in held(data)] == [("pad", 2), ("rounding", 1)]
    assert held({"held": []}) == []
    assert held({}) is None


def test_certificate_in_words():
    assert "at most 3.1e-15 relative" in certificate(full_report())
    assert "not a single bit" in certificate({"certificate": {"max_relative_difference": 0.0}})
    assert certificate({}) == ""


def test_nested_facts_are_flattened():
    facts = dict(made(full_report()))
    assert facts["dataset: name"] == "cifar10"
    assert facts["processor"] == "AMD EPYC 7R13"
    assert facts["versions"] == "torch 2.14.1, onnxruntime 1.32.0"
    assert dict(made({"made": {"epochs": None, "mean": [0.491401, 1]}})) == {"mean": "0.4914, 1"}


def test_figures_of_a_full_run_are_valid_plotly():
    graph_objects = pytest.importorskip("plotly.graph_objects")
    drawn = figures(full_report())
    assert set(drawn) == ALL_FIGURES
    for figure in drawn.values():
        # Plotly knows no CSS variables; the page replaces them.
        text = re.sub(r"var\(--[a-z-]+\)", "#123456", json.dumps(figure.spec))
        graph_objects.Figure(json.loads(text))
        assert figure.alt
        assert figure.caption


def test_threshold_figure_frames_the_plateau_and_marks_the_choice():
    sweep = [(0.0, 91.0, 10), (0.01, 90.0, 9), (0.1, 89.0, 5), (0.5, 10.0, 1)]
    data = {
        "threshold": {
            "value": 0.1,
            "score": 89.0,
            "baseline_score": 90.0,
            "alive": 5,
            "total": 10,
            "sweep": [{"threshold": zeta, "score": score, "alive": alive} for zeta, score, alive in sweep],
        }
    }
    figure = figures(data)["threshold"]
    low, high = figure.spec["layout"]["yaxis"]["range"]
    assert low < 78 < high  # twelve points under the baseline
    assert low > 10
    assert "1 larger thresholds" in figure.caption
    assert figure.spec["data"][0]["x"] == [0.01, 0.1, 0.5]  # a logarithmic axis has no 0
    assert [(trace["x"], trace["y"]) for trace in figure.spec["data"][2:]] == [
        ([0.1], [89.0]),
        ([0.1], [50.0]),
    ]


def test_threshold_figure_of_a_search_that_found_nothing_says_so():
    sweep = [{"threshold": 0.0, "score": 90.0, "alive": 4}, {"threshold": 0.1, "score": 50.0, "alive": 3}]
    found = {"value": 0.0, "score": 90.0, "baseline_score": 90.0, "alive": 4, "total": 4, "sweep": sweep}
    figure = figures({"threshold": found})["threshold"]
    assert figure.caption.startswith("No threshold kept the score: all 4 filters stay.")
    assert len(figure.spec["data"]) == 2  # the two lines, and no chosen point


def test_slopes_histogram_counts_every_slope():
    data = {"slopes": {"start": {"a": [-1.0, 1.0]}, "end": {"a": [0.0, 0.0]}}}
    for trace, expected in zip(figures(data)["slopes"].spec["data"], (2, 2), strict=True):
        assert sum(trace["y"]) == expected
    assert figures({"slopes": {"start": {}, "end": {}}}) == {}
    assert "slopes" in figures({"slopes": {"end": {"a": [0.0]}}})


def test_layers_that_are_gone_count_as_zero():
    data = {
        "networks": [{"key": "rotated", "label": "r"}, {"key": "compact", "label": "c"}],
        "layer_weights": {"rotated": {"a": 10, "b": 20}, "compact": {"a": 5}},
    }
    before, after = figures(data)["layers"].spec["data"]
    assert (before["y"], after["y"]) == ([10, 20], [5, 0])


def path_side(paths, shares):
    return {"paths": paths, "mean": 7.0, "shares": shares}


def test_paths_figure_says_how_many_paths_are_left():
    sides = {"before": path_side(2**20, [0.25, 0.75]), "after": path_side(2**19, [1.0])}
    figure = figures({"paths": {"blocks": 20, "width": 4, **sides}})["paths"]
    before, after = figure.spec["data"]
    assert (before["x"], before["y"], before["width"]) == ([2.0, 6.0], [25.0, 75.0], 4)
    assert (after["x"], after["y"]) == ([2.0], [100.0])
    assert figure.caption.startswith("2²⁰ paths lead through 20 residual blocks")
    assert figure.caption.endswith("2¹⁹ paths are left.")


def test_paths_figure_of_a_network_that_nothing_gets_through():
    sides = {"before": path_side(4, [1.0]), "after": path_side(0, [])}
    figure = figures({"paths": {"blocks": 2, "width": 4, **sides}})["paths"]
    assert len(figure.spec["data"]) == 1
    assert figure.caption.endswith("no paths are left.")


def test_paths_in_words():
    assert [paths(value) for value in (0, 512, 2**16, 2**17, 2**54)] == ["0", "512", "65,536", "2¹⁷", "2⁵⁴"]


def test_attack_table():
    table = attack(full_report())
    assert [(key, label) for key, label, _ in table.rows][-1] == ("relu", "ReLU (first-relu)")
    assert [plain(cell.value) for cell in table.rows[0][2]] == ["89.9 %", "11.2 %", "0.0 %", "812"]
    assert plain(table.rows[-1][2][-1].value) == "1004"
    assert "ε = 0.031" in table.caption
    assert "1,000 test images, 200 of them for PGD" in table.caption
    assert "from the image;" in table.caption
    assert attack({}) is None
    data = full_report()
    data["attack"]["settings"] |= {"random_start": True, "pgd_images": 1000}
    assert "200" not in attack(data).caption
    assert "from a random place;" in attack(data).caption
    assert "Under attack" in render(data)
    assert "Under attack" not in render(trained_report())


def test_a_run_that_was_only_trained(tmp_path):
    text = build(trained_report(), tmp_path / "report.html").read_text(encoding="utf-8")
    assert "plot-curves" in text
    assert "plot-latency" not in text
    assert "rotated-relu prune" in text  # says what to do next


def test_an_empty_report_is_a_page_without_scripts():
    text = render({"title": "Nothing"})
    assert "Nothing has been measured yet." in text
    assert "<script" not in text


def test_markup_in_the_data_stays_text():
    data = full_report() | {"title": "<b>bold</b>"}
    data["networks"][0]["label"] = "</script><script>alert(1)</script>"
    text = render(data)
    assert "<b>bold" not in text
    assert "<script>alert" not in text


def test_not_a_number_becomes_a_gap():
    data = trained_report()
    data["curves"][0]["rows"][3]["validation_loss"] = float("nan")
    specifications = render(data).split('id="specifications">')[1].split("</script>")[0]
    assert "NaN" not in specifications
    assert json.loads(specifications)["curves"]["data"][1]["y"][3] is None


def test_unknown_part_and_unwritable_place(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'latency'"):
        render({"latencies": []})
    with pytest.raises(RunError):
        build(trained_report(), tmp_path / "missing" / "report.html")


def two_timed(**parts):
    """Two networks of two layers, timed at batch 8: 6 ms and 3 ms."""
    data = two_networks()
    data["latency"][0] |= {"medians_ms": {"relu": 6.0, "compact": 3.0}} | parts
    return data


def test_unsteadiness_is_the_widest_middle_half():
    # Quartiles of 1..7 are 2 and 6, of seven equal times 1.
    steady, spread = [3.0] * 7, [4.0, 1.0, 7.0, 2.0, 6.0, 3.0, 5.0]
    assert unsteadiness(
        [{"milliseconds": {"a": steady}}, {"milliseconds": {"a": steady, "b": spread}}]
    ) == pytest.approx(3)
    assert unsteadiness([{"milliseconds": {"a": steady}}]) == 1
    assert unsteadiness([{"milliseconds": {"a": spread[:3]}}]) == 1  # too few to say


@pytest.mark.parametrize(("steps", "says"), [(0.1, False), (1.0, True)])
def test_times_of_a_busy_machine_are_said_to_be_so(steps, says):
    # Quartiles of 1, 1.1, ..., 1.6 are 1.1 and 1.5, of 1, 2, ..., 7 they are 2 and 6.
    times = {"relu": [1.0] * 7, "compact": [1 + steps * turn for turn in range(7)]}
    caption = networks(two_timed(milliseconds=times)).caption
    assert ("times spans a factor of 3.0" in caption) == says
    assert ("The machine was busy" in caption) == says


def test_where_the_milliseconds_went_is_drawn_as_measured_and_as_estimated():
    measured = {"relu": {"conv": 4.0, "fc": 2.0}, "compact": {"conv": 2.5, "fc": 0.5}}
    estimated = {"relu": {"conv": 4.0, "fc": 1.0}, "compact": {"conv": 2.0, "fc": 0.5}}
    drawn = figures(two_timed(measured_layer_ms=measured, estimated_layer_ms=estimated))["layer_latency"]
    # 4 + 2 and 2.5 + 0.5; 4 + 1 and 2 + 0.5
    assert plain(drawn.caption).startswith(
        "One call at batch 8, before and after: measured 6.00 ms → 3.00 ms, estimated 5.00 ms → 2.50 ms."
    )
    assert [(trace["name"], trace["yaxis"], trace["y"]) for trace in drawn.spec["data"]] == [
        ("before", "y", [4.0, 2.0]),
        ("after", "y", [2.5, 0.5]),
        ("before", "y2", [4.0, 1.0]),
        ("after", "y2", [2.0, 0.5]),
    ]


def test_where_the_milliseconds_went_needs_both_networks():
    one = {"relu": {"conv": 4.0}}
    both = one | {"compact": {"conv": 3.0}}
    assert "layer_latency" not in figures(two_timed(measured_layer_ms=one))
    assert "layer_latency" not in figures(two_timed())
    drawn = figures(two_timed(measured_layer_ms=both, estimated_layer_ms=one))["layer_latency"]
    assert "estimated" not in drawn.caption
    assert len(drawn.spec["data"]) == 2
