"""Programs around operations: each kind runs in both forms, and its copies have the shapes that they should."""

import onnxruntime
import pytest
import torch

from rotated_relu.core.errors import LatencyError
from rotated_relu.deploy.latency.graphs import graph_of, tails_graph
from rotated_relu.deploy.latency.modules import module_of
from rotated_relu.deploy.latency.probe import Probe, copies_for, multiplications
from rotated_relu.deploy.latency.widths import absent_widths
from rotated_relu.deploy.sessions import OnnxRuntimeSession, OpenVinoSession
from rotated_relu.pruning.latency.geometry import LayerGeometry
from rotated_relu.pruning.removal.adapters import Adapters

CONV = LayerGeometry("conv", (9, 6), (3, 3), (2, 2), (1, 1), (1, 1))  # 9 x 6 to 5 x 3


def changed(geometry, **fields):
    return LayerGeometry(**{**vars(geometry), **fields})


# Geometry, inputs, outputs -> shape of what one copy computes for 2 examples.
CASES = [
    (CONV, 3, 8, (2, 8, 5, 3)),
    (changed(CONV, addition=True, activation="silu"), 4, 8, (2, 8, 5, 3)),
    (changed(CONV, addition=True, activation="relu", slopes=True), 4, 8, (2, 8, 5, 3)),
    (changed(CONV, group=(1, 1), activation="relu6"), 8, 8, (2, 8, 5, 3)),
    (changed(CONV, group=(2, 4), activation="hardswish"), 4, 8, (2, 8, 5, 3)),
    (changed(CONV, kind="transposed"), 4, 8, (2, 8, 17, 11)),
    (LayerGeometry("conv", (9,), (3,), (1,), (1,), (2,)), 4, 8, (2, 8, 7)),
    (LayerGeometry("conv", (3, 9, 9), (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)), 4, 8, (2, 8, 3, 9, 9)),
    (LayerGeometry("conv", (1, 1), (1, 1), (1, 1), (0, 0), (1, 1), activation="sigmoid"), 4, 8, (2, 8, 1, 1)),
    (LayerGeometry("linear"), 4, 8, (2, 8)),
    (LayerGeometry("linear", (5,), activation="gelu"), 4, 8, (2, 5, 8)),
    (LayerGeometry("linear", (5,), addition=True), 4, 8, (2, 5, 8)),
    (LayerGeometry("batch_norm", (9, 6), activation="relu"), 8, 8, (2, 8, 9, 6)),
    (LayerGeometry("layer_norm", (5,)), 8, 8, (2, 5, 8)),
    (LayerGeometry("group_norm", (9, 6)), 8, 8, (2, 8, 9, 6)),
    (LayerGeometry("max_pool", (9, 6), (3, 3), (2, 2), (1, 1)), 8, 8, (2, 8, 5, 3)),
    (LayerGeometry("average_pool", (8, 6), (2, 2), (2, 2), (0, 0)), 8, 8, (2, 8, 4, 3)),
    (LayerGeometry("upsample", (9, 6)), 8, 8, (2, 8, 18, 12)),
    (LayerGeometry("mean", (9, 6)), 8, 8, (2, 8)),
    (LayerGeometry("add", (9, 6), activation="relu"), 8, 8, (2, 8, 9, 6)),
    (LayerGeometry("add", (5,)), 8, 8, (2, 5, 8)),
    (LayerGeometry("mul", (9, 6)), 8, 8, (2, 8, 9, 6)),
    (LayerGeometry("mul", ()), 8, 8, (2, 8)),
    (LayerGeometry("concat", (9, 6)), 8, 8, (2, 8, 9, 6)),
    (LayerGeometry("softmax", (5,)), 8, 8, (2, 5, 8)),
    (LayerGeometry("activation", (9, 6), activation="tanh"), 8, 8, (2, 8, 9, 6)),
    (LayerGeometry("attention", (3, 5, 7)), 4, 6, (2, 3, 5, 6)),
    (LayerGeometry("matmul", (3, 5)), 4, 6, (6, 5, 6)),
]
IDS = [str(case[0]) for case in CASES]


@pytest.mark.parametrize(("geometry", "inputs", "outputs", "shape"), CASES, ids=IDS)
def test_modules_compute_what_the_geometry_says(geometry, inputs, outputs, shape):
    module, call = module_of(Probe(geometry, inputs, outputs, 2, copies=3))
    results = call.run(module)
    assert [tuple(result.shape) for result in results] == [shape] * 3


def test_norms_and_slopes_are_computed_where_nothing_folds_them():
    module, call = module_of(
        Probe(changed(CONV, norm=True, activation="relu", slopes=True), 3, 8, 2, copies=1)
    )
    assert tuple(call.run(module)[0].shape) == (2, 8, 5, 3)
    kinds = [type(part).__name__ for part in module.copies[0].children()]
    assert kinds == ["Conv2d", "BatchNorm2d"]
    assert module.copies[0].slopes.shape == (8, 1, 1)


@pytest.mark.parametrize(("geometry", "inputs", "outputs", "shape"), CASES, ids=IDS)
def test_graphs_run_with_copies_and_without(geometry, inputs, outputs, shape):
    for bare in (False, True):
        program = graph_of(Probe(geometry, inputs, outputs, 2, 3, bare))
        session = onnxruntime.InferenceSession(program.content, providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_inputs()]
        feed = dict(zip(names, (value.numpy() for value in program.inputs.tensors), strict=True))
        results = session.run(None, feed)
        on_images = Probe(geometry, inputs, outputs, 2, 3).on_images
        if not bare:
            assert len(results) == 3
            assert on_images or results[0].size == torch.zeros(shape).numel()
        # A tail leaves one entry per channel.
        assert not on_images or all(result.shape[2:] == (1,) * len(geometry.size) for result in results)


@pytest.mark.parametrize(("geometry", "inputs", "outputs", "shape"), CASES, ids=IDS)
def test_openvino_computes_the_same(geometry, inputs, outputs, shape):
    pytest.importorskip("openvino")
    for bare in (False, True):
        program = graph_of(Probe(geometry, inputs, outputs, 2, 3, bare))
        expected, found = (
            kind(program.content, threads=1).run(program.inputs)
            for kind in (OnnxRuntimeSession, OpenVinoSession)
        )
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_equal_programs_are_equal_bytes():
    probe = Probe(CONV, 3, 8, 2, 3)
    assert graph_of(probe).content == graph_of(probe).content
    assert tails_graph(1, 3).tails == 0  # those are what is counted, not around something


@pytest.mark.parametrize("geometry", [case[0] for case in CASES if not case[0].addition], ids=str)
def test_modules_of_which_nothing_is_left_run_with_one_channel(geometry):
    inputs, outputs = absent_widths(geometry)
    module, call = module_of(Probe(geometry, inputs, outputs, 2, copies=3))
    assert all(torch.isfinite(result).all() for result in call.run(module))


def test_a_layer_that_reads_nothing_is_what_compaction_makes_of_it():
    geometry = changed(CONV, norm=True, activation="relu", slopes=True)
    module, call = module_of(Probe(geometry, *absent_widths(geometry), 2, copies=3))
    copy = module.copies[0]
    assert isinstance(copy.operation, Adapters)
    assert copy.operation(torch.ones(2, 4, 9, 6)).equal(torch.zeros(2, 1, 5, 3))
    # No weight is read: the norm's shift of 0.25 is all there is.
    copy.norm.bias.data.fill_(0.25)
    assert call.run(module)[0].equal(torch.full((2, 1, 5, 3), 0.25))


def test_what_is_left_of_a_branch_is_added_by_its_norm():
    geometry = LayerGeometry("add_constant", (9, 6), norm=True, activation="relu")
    module, call = module_of(Probe(geometry, 8, 8, 2, copies=1))
    layer, norm = module.copies[0].operation.branch
    norm.bias.data.copy_(torch.arange(8.0))
    x = call.args[0]
    assert call.run(module)[0].equal(x + torch.arange(8.0).view(8, 1, 1))
    assert isinstance(layer, Adapters)
    assert isinstance(norm, Adapters)  # one channel of zeros comes, eight are read
    # A graph adds a number per channel.
    assert geometry.exported() == LayerGeometry("add_constant", (9, 6), activation="relu")


@pytest.mark.parametrize("make", [graph_of, module_of])
def test_kinds_that_are_not_known_are_named(make):
    with pytest.raises(LatencyError, match="kind recurrent cannot be measured yet: recurrent on 5"):
        make(Probe(LayerGeometry("recurrent", (5,)), 4, 8, 2, 3))
    with pytest.raises(LatencyError, match="activation warp cannot be measured yet"):
        make(Probe(LayerGeometry("activation", (5,), activation="warp"), 4, 4, 2, 3))


def test_multiplications_by_hand():
    assert multiplications(CONV, 3, 8, 2) == 2 * 15 * 9 * 3 * 8
    assert multiplications(changed(CONV, group=(1, 1)), 8, 8, 2) == 2 * 15 * 9 * 8
    assert multiplications(LayerGeometry("linear", (5,)), 4, 8, 2) == 2 * 5 * 4 * 8
    assert multiplications(LayerGeometry("attention", (3, 5, 7)), 4, 6, 2) == 2 * 3 * 5 * 7 * 10


def test_small_operations_are_repeated_more():
    linear = LayerGeometry("linear")
    assert [copies_for(linear, 1000, width, 1) for width in (10, 20_000, 200_000)] == [6, 2, 1]
