"""Contracts of single passes, on graphs of a few nodes."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx_ir.passes.common import CheckerPass, RemoveUnusedNodesPass

from rotated_relu.deploy.layout import AS_EXPORTED, EXACT_WIDTHS
from rotated_relu.deploy.passes import channel_demand, narrow_channels
from rotated_relu.deploy.passes.fold_slopes import FoldSlopes
from rotated_relu.deploy.passes.narrow_channels import NarrowChannels
from rotated_relu.deploy.passes.patterns import KINDS, recognise
from rotated_relu.deploy.passes.slices_to_strides import SlicesToStrides
from rotated_relu.deploy.passes.slope_notes import DropNotes
from rotated_relu.deploy.sessions import OnnxRuntimeSession


def initial(name, values, dtype=np.float32):
    tensor = ir.tensor(np.asarray(values, dtype=dtype), name=name)
    return ir.Value(
        name=name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
    )


def model(*nodes, x=(2, 3, 4, 4)):
    """A model of a chain of nodes (kind, constants, shape of the result, attributes); the first reads ``x``."""
    source = ir.Value(name="x", shape=ir.Shape(x), type=ir.TensorType(ir.DataType.FLOAT))
    current, made, held = source, [], []
    for number, (kind, weights, shape, attributes) in enumerate(nodes):
        values = [initial(f"{kind}_{number}_{k}", *weight) for k, weight in enumerate(weights)]
        node = ir.node(kind, [current, *values], attributes=attributes, name=f"{kind}_{number}")
        current = node.outputs[0]
        current.name, current.shape, current.dtype = f"y{number}", ir.Shape(shape), ir.DataType.FLOAT
        made.append(node)
        held += values
    graph = ir.Graph([source], [current], nodes=made, initializers=held, opset_imports={"": 20}, name="graph")
    return ir.Model(graph, ir_version=9)


def run(graph, x):
    content = ir.to_proto(graph).SerializeToString()
    return OnnxRuntimeSession(content, 1).run(x)[0]


def kinds(graph):
    return [node.op_type for node in graph.graph]


def test_every_kind_of_operation_has_both_rules():
    assert list(channel_demand.RULES) == list(narrow_channels.RULES) == list(KINDS)


EYE = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
SLICE = ([0, 0], np.int64), ([2**31, 2**31], np.int64), ([2, 3], np.int64), ([2, 2], np.int64)


def test_a_slice_before_a_pointwise_convolution_becomes_its_stride():
    graph = model(("Slice", SLICE, (2, 3, 2, 2), {}), ("Conv", [(EYE,)], (2, 3, 2, 2), {}))
    x = torch.randn(2, 3, 4, 4)
    expected = run(graph, x)
    assert SlicesToStrides()(graph).modified
    assert RemoveUnusedNodesPass()(graph).modified
    assert kinds(graph) == ["Conv"]
    assert torch.equal(run(graph, x), expected)
    assert not SlicesToStrides()(graph).modified


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_slice_stays_before_padding_and_larger_kernels(kernel):
    weight = np.ones((3, 3, kernel, kernel))
    graph = model(
        ("Slice", SLICE, (2, 3, 2, 2), {}),
        ("Conv", [(weight,)], (2, 3, 4, 4) if kernel == 1 else (2, 3, 2, 2), {"pads": [1, 1, 1, 1]}),
    )
    assert not SlicesToStrides()(graph).modified
    assert kinds(graph) == ["Slice", "Conv"]


def test_slopes_fold_into_a_convolution():
    slope = np.array([2.0, -1.0, 0.5]).reshape(3, 1, 1)
    graph = model(("Mul", [(slope,)], (2, 3, 4, 4), {}), ("Conv", [(EYE,)], (2, 3, 4, 4), {}))
    assert FoldSlopes()(graph).modified
    assert kinds(graph) == ["Conv"]
    weight = graph.graph.node(0).inputs[1].const_value.numpy()
    assert np.diag(weight[:, :, 0, 0]).tolist() == [2.0, -1.0, 0.5]
    assert not FoldSlopes()(graph).modified


def test_the_layout_as_exported_changes_nothing():
    graph = model(("Conv", [(EYE,)], (2, 3, 4, 4), {}))
    assert not NarrowChannels(AS_EXPORTED)(graph).modified


def test_narrowing_needs_numbers():
    graph = model(("Conv", [(EYE,)], (2, 3, 4, 4), {}))
    graph.graph.initializers["Conv_0_0"].const_value = None
    with pytest.raises(ir.passes.PreconditionError, match="initializer Conv_0_0 has no numbers"):
        NarrowChannels(EXACT_WIDTHS)(graph)


def test_a_channel_without_weights_leaves_both_layers():
    first = EYE.copy()
    first[1] = 0  # channel 1 is its bias of 5, which goes into the bias of the second layer: 5 * 3 = 15
    graph = model(
        ("Conv", [(first,), ([0.0, 5.0, 0.0],)], (2, 3, 4, 4), {}),
        ("Conv", [(EYE * 3,)], (2, 3, 4, 4), {}),
    )
    x = torch.randn(2, 3, 4, 4)
    expected = run(graph, x)
    assert NarrowChannels(EXACT_WIDTHS)(graph).modified
    RemoveUnusedNodesPass()(graph)
    CheckerPass()(graph)
    weights = [node.inputs[1].shape.numpy()[:2] for node in graph.graph]
    assert weights == [(2, 3), (3, 2)]
    assert graph.graph.node(1).inputs[2].const_value.numpy().tolist() == [0, 15, 0]
    assert graph.graph.outputs[0].name == "y1"
    torch.testing.assert_close(run(graph, x), expected)


@pytest.mark.parametrize(
    "attributes", [{"transB": 1, "beta": 0.5}, {"transB": 1, "alpha": 2.0}, {"transB": 0}, {"transA": 1}]
)
def test_a_scaled_or_transposed_matrix_product_has_no_rule(attributes):
    graph = model(("Gemm", [(np.eye(3),), ([1.0, 1.0, 1.0],)], (2, 3), attributes), x=(2, 3))
    assert recognise(graph.graph.node(0)) is None


def test_notes_of_this_machine_go_and_marks_stay_if_asked():
    graph = model(("Mul", [([2.0],)], (2, 3, 4, 4), {}))
    (node,) = graph.graph
    node.metadata_props.update({"pkg.torch.onnx.stack_trace": "/home/me", "rotated_relu.slopes": "act"})
    node.outputs[0].metadata_props["pkg.torch.onnx.original_node_name"] = "mul"
    DropNotes(keep_marks=True)(graph)
    assert node.metadata_props == {"rotated_relu.slopes": "act"}
    assert not node.outputs[0].metadata_props
    DropNotes(keep_marks=False)(graph)
    assert not node.metadata_props
