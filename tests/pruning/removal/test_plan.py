"""A plan is checked before anything is cut, whatever a file holds."""

import copy
import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

import rotated_relu as rr
from rotated_relu.core.errors import PlanError, RotatedReLUError
from rotated_relu.pruning.removal.plan import Plan
from rotated_relu.pruning.removal.plan_checks import check_numbers
from support import nets


def made():
    torch.manual_seed(0)
    net = nets.awake(nets.OptionA())
    nets.kill(net, "act", [1])
    nets.kill(net, "act2", [0, 3])
    return rr.compact(net, torch.randn(1, 3, 8, 8))


@pytest.fixture(scope="module")
def result():
    return made()


@pytest.fixture(scope="module")
def data(result):
    return json.loads(json.dumps(result.plan.to_dict()))


def test_a_plan_survives_json(result, data):
    assert Plan.from_dict(copy.deepcopy(data)) == result.plan
    check_numbers(result.plan)


def changed(data, *path, value):
    data = copy.deepcopy(data)
    target = data
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["cuts", 0, "keep", 0], [0, 99], "positions outside the tensor"),
        (["cuts", 0, "keep", 0], [0, 0], "positions outside the tensor"),
        (["cuts", 0, "keep", 0], [-1], "positions outside the tensor"),
        (["cuts", 0, "keep"], [None] * 9, "positions for 9 dimensions"),
        (["cuts", 0, "shape"], [10**9], "the shape in the cut"),
        (["cuts", 0, "name"], "nothing", "the shape in the cut of nothing"),
        (["cuts", 0, "keep", 0], ["0"], "must be"),
        (["cuts", 0], None, "must be a table of fields"),
        (["cuts"], {}, "must be"),
        (["layers", 0, "out"], [4, 10**12], "widths [4"),
        (["layers", 0, "out"], [], "widths []"),
        (["layers", 0, "void"], 10**12, "a width of"),
        (["layers", 0, "read"], [10**15], "positions outside the tensor"),
        (["layers", 0, "dim"], 10**6, "dimension"),
        (["layers", 0, "kind"], 3, "kind must be str"),
        (["states", "fc.weight"], [-4], "the shape of fc.weight"),
        (["round_to"], "1", "round_to must be int"),
        (["format"], 0, "format 0 is not known"),
        (["format"], True, "format True is not known"),
        (["surprise"], 1, "no field 'surprise'"),
    ],
)
def test_damage_is_named(data, path, value, message):
    with pytest.raises(PlanError) as error:
        check_numbers(Plan.from_dict(changed(data, *path, value=value)))
    assert message in str(error.value)


@pytest.mark.parametrize("given", [None, "plan", 3, [], {}, {"format": 4}])
def test_what_is_no_plan_is_refused(given):
    with pytest.raises(PlanError):
        Plan.from_dict(given)


def paths(data, above=()):
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield (*above, key)
        yield from paths(value, (*above, key))


WRONG = st.sampled_from(
    [None, -1, 10**12, 0, 1.5, "x", "", True, [], {}, [[]], [None], ["x"], [-5], [10**9], {"a": 1}]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draws=st.data())
def test_no_damage_ends_in_an_error_that_is_not_ours(data, result, tmp_path_factory, draws):
    """Any one entry of the plan replaced by anything: load gives a network, or one error of the library."""
    path = draws.draw(st.sampled_from(list(paths(data))))
    damaged = changed(data, *path, value=draws.draw(WRONG))
    file = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    metadata = {"rotated_relu.plan": json.dumps(damaged), "rotated_relu.certificate": "{}"}
    metadata["rotated_relu.certificate"] = json.dumps(result.certificate.to_dict())
    save_file({name: value.contiguous() for name, value in result.model.state_dict().items()}, file, metadata)
    try:
        loaded = rr.load(file, nets.OptionA())
    except RotatedReLUError:
        return
    assert isinstance(loaded, nets.OptionA)


@pytest.mark.parametrize(
    "text", ["", "[", "null", "[]", '"x"', "[" * 5000, '{"format": 4}', '{"format": 1e999}']
)
@pytest.mark.parametrize("key", ["rotated_relu.plan", "rotated_relu.certificate"])
def test_a_damaged_header_is_refused(result, tmp_path, key, text):
    file = rr.save(result, tmp_path / "a.safetensors")
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    save_file({"x": torch.zeros(1)}, file, metadata | {key: text})
    with pytest.raises(RotatedReLUError):
        rr.load(file, nets.OptionA())


def test_results_show_as_a_few_lines(result):
    assert len(repr(result).splitlines()) <= 4
    assert repr(result).startswith("Compacted(OptionA of ")
    assert "slopes alive" in repr(result.plan)
    assert len(repr(result.plan)) < 300
    assert "float64" in repr(result.certificate)
