"""A report says how its filters were chosen, and counts by the mask, whatever ranked them.

The network is 36 -> 8 -> 3: with h of 8 hidden units 36 h + 3 h weights are left in the paper's count.
"""

import dataclasses

import pytest
import torch

import rotated_relu as rr
from rotated_relu.core.run_directory import read_json, write_json
from rotated_relu.experiments.report.build import render
from rotated_relu.experiments.report.collect import report_data
from rotated_relu.experiments.report.figures import figures
from rotated_relu.experiments.report.tables import counts
from rotated_relu.experiments.run_networks import open_run
from rotated_relu.experiments.stages.prune import prune_run
from rotated_relu.training import BudgetConfig, fit
from support.training_data import CONFIG, IMAGES

WEIGHTS_OF_A_UNIT = 36 + 3


def trained(path, **changes):
    fit(dataclasses.replace(CONFIG, **changes), path, images=IMAGES, progress="none", device="cpu")
    loaded = open_run(str(path))
    loaded.__dict__["images"] = IMAGES  # in place of a data set on disk
    return loaded


def title_of(figure):
    return figure.spec["layout"]["xaxis"]["title"]["text"]


def checked(loaded, alive):
    """The report's data and figures, with the paper's count compared with what the mask leaves."""
    data = report_data(loaded)
    assert sum(row["alive"] for row in data["alive"]) == alive
    assert data["paper_count"]["full_weights"] == 8 * WEIGHTS_OF_A_UNIT
    assert data["paper_count"]["alive_weights"] == alive * WEIGHTS_OF_A_UNIT
    assert next(row.after for row in counts(data)) == str(alive * WEIGHTS_OF_A_UNIT)
    assert "<title>" in render(data)
    return figures(data)


@pytest.mark.parametrize(
    ("score", "axis", "words"),
    [
        ("slope", "threshold ζ on |slope|", "ζ = "),
        pytest.param(
            "consumer",
            "threshold on |slope| times the consumers' norm",
            "|slope| times the consumers' norm below ",
            marks=pytest.mark.slow,
        ),
        ("taylor", "threshold on Taylor score per MAC", "Taylor score per MAC below "),
    ],
)
def test_a_searched_threshold(tmp_path, score, axis, words):
    loaded = trained(tmp_path / "run")
    found = prune_run(loaded, budget={"macs": 0.5}, score=score).found
    drawn = checked(loaded, alive=4)
    assert title_of(drawn["threshold"]) == axis
    assert drawn["threshold"].caption.startswith(f"Chosen: {words}")
    lines = drawn["slopes"].spec["layout"].get("shapes", [])
    if score == "slope":
        assert [shape["x0"] for shape in lines] == [-found.value, found.value]
    else:
        assert lines == []
        assert "cannot be seen here" in drawn["slopes"].caption
        assert "|a| <" not in drawn["slopes"].caption
        assert "ζ" not in str(drawn["threshold"].spec)


def test_slopes_that_a_budget_took_to_zero(tmp_path):
    loaded = trained(tmp_path / "run", budget=BudgetConfig(0.5, end=0.6, window=0.2))
    prune_run(loaded, threshold=0.0, round_to=1)
    drawn = checked(loaded, alive=4)
    assert drawn["slopes"].caption.endswith("4 slopes are exactly 0 at the end: these filters are dropped.")
    assert "shapes" not in drawn["slopes"].spec["layout"]


def test_a_mask_of_ones_own(tmp_path):
    loaded = trained(tmp_path / "run")
    net = loaded.network("trained")
    (name,) = rr.slopes(net)
    mask = {name: torch.tensor([True, False, True, False, True, False, False, False])}
    rr.save(rr.compact(net, loaded.example_inputs(), mask=mask), loaded.run.file("compact"))
    drawn = checked(loaded, alive=5)
    assert "threshold" not in drawn
    assert "chosen otherwise (a mask that was given)" in drawn["slopes"].caption


def test_files_from_before_that_only_name_the_score(tmp_path):
    loaded = trained(tmp_path / "run")
    prune_run(loaded, budget={"macs": 0.5}, score="taylor")
    path = loaded.run.file("threshold")
    found = read_json(path)
    del found["criterion"]
    write_json(path, {**found, "score_kind": "taylor"})
    assert title_of(checked(loaded, alive=4)["threshold"]) == "threshold on Taylor score per MAC"
