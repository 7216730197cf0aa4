"""A fixed sample of the architectures in benchmarks/coverage.json; `compact` itself certifies each to 1e-9."""

import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "coverage.py"


@pytest.fixture(scope="module")
def coverage():
    spec = importlib.util.spec_from_file_location("benchmark_coverage", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# What a family needs is in brackets; the bars are the least that its achieved / ideal must reach.
SAMPLE = {
    "resnet18": 0.99,  # functional and shared activations, residual widths
    "squeezenet1_1": 0.99,  # concatenation
    "shufflenet_v2_x0_5": 0.9,  # channel shuffle
    "mobilenet_v3_small": 0.9,  # depthwise, squeeze-excite, Hardswish
    "regnet_x_400mf": 0.8,  # groups
}
TIMM = {
    "test_vit": 0.99,  # attention, GELU
    "test_convnext": 0.95,  # layer norm, depthwise 7x7
    "dla46_c": 0.99,  # trees of residual blocks, optional arguments
    "resnet10t": 0.99,
    "ghostnet_050": 0.5,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLE)
def test_torchvision(coverage, name):
    check(coverage.row(name, smallest=64), SAMPLE[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_timm(coverage, name):
    pytest.importorskip("timm")
    check(coverage.row(f"timm:{name}", smallest=64), TIMM[name])


def check(row, sharpness):
    assert row["certificate"] <= 1e-9
    assert row["macs_left"] < row["macs"]
    assert row["parameters_left"] < row["parameters"]
    assert row["keys_survive"]
    assert row["achieved_over_ideal"] >= sharpness
    assert row["macs_graph"] == row["macs"]  # the ideal is counted on the same work


def test_the_table_says_why_a_model_was_refused(coverage):
    found = {"rows": [{"model": "timm:odd", "refused": "RotationError: cannot | trace"}]}
    line = coverage.table(found).splitlines()[2]
    assert line.startswith("| timm:odd |")
    assert "refused: RotationError: cannot / trace" in line
    assert line.count("|") == len(coverage.HEAD) + 1
