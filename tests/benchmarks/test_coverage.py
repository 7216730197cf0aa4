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
    assert "refused: RotationError: cannot \\| trace" in line
    assert line.replace("\\|", "").count("|") == len(coverage.HEAD) + 1


def test_networks_of_other_packages_have_columns_of_their_own(coverage):
    row = {
        "model": "lpips:alex", "activations": 5, "slopes": 10, "parameters": 100, "parameters_left": 50, "macs": 1000,
        "macs_left": 250, "macs_graph": 1000, "macs_ideal": 200, "achieved_over_ideal": 0.9375, "certificate": 0.0,
        "difference": 2e-16, "loaded": 0.0, "onnx": "ok", "held": {"width fixed by a | b": 3},
    }  # fmt: skip
    line = coverage.table({"rows": [row, {"model": "x:y", "refused": "no gate"}]}).splitlines()[2]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert len(cells) == len(coverage.FOREIGN_HEAD)
    assert cells[7:] == ["20.0%", "0.938", "2.0e-16", "0.0e+00", "ok", "3: width fixed by a / b"]


def test_a_difference_that_the_certificate_did_not_see_is_not_exact(coverage):
    row = {"model": "lpips:alex", "certificate": 1e-16, "difference": 1e-3, "macs": 2, "macs_left": 1}
    found = coverage.summary([{**row, "achieved_over_ideal": 1.0}])
    assert found["exact"] == 0
    assert found["worst_difference"] == 1e-3


def test_packages_that_are_not_installed_are_named(coverage, capsys):
    assert not coverage.installed("no-such-package:net")
    assert capsys.readouterr().out == "skipped: no-such-package:net (no-such-package is not installed)\n"


def test_the_extra_names_the_packages_of_the_table(coverage):
    import tomllib

    project = tomllib.loads((FILE.parents[1] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    named = {
        requirement.partition(">")[0] for requirement in (*extras["third-party"], *extras["huggingface"])
    }
    packages = {name.partition(":")[0] for name in coverage.third_party()}
    # facenet-pytorch asks for an old torch, so that no one could install an extra with it.
    assert packages - named == {"smp", "facenet-pytorch"}
    assert len(packages) == 13
