"""Passes over what is constant along batch and pixels, and over means, on graphs written as text."""

import onnx
import onnx.parser
import onnx_ir as ir
import pytest
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import nn

import rotated_relu as rr
from rotated_relu.deploy.conversion import to_onnx
from rotated_relu.deploy.passes.constant_images import ConstantImages
from rotated_relu.deploy.passes.means_to_pools import MeansToPools
from rotated_relu.deploy.passes.patterns import constant
from rotated_relu.deploy.sessions import OnnxRuntimeSession
from support.nets import Residual


def graph(body, constants="", inputs="float[2,3,4,4] x", outputs="float[2,3,4,4] y"):
    text = f'<ir_version: 9, opset_import: ["" : 20]>\ng ({inputs}) => ({outputs}) <{constants}> {{ {body} }}'
    inferred = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text), data_prop=True)
    return ir.serde.deserialize_model(inferred)


def kinds(model):
    return [node.op_type for node in model.graph]


def run(model, *x):
    return OnnxRuntimeSession(ir.to_proto(model).SerializeToString(), 1).run(*x)[0]


IMAGE = torch.zeros(1, 3, 4, 4)
X = torch.arange(96.0).reshape(2, 3, 4, 4) / 10 - 4
EYE = "float[3,3,1,1] w = {1, 0, 0, 0, 1, 0, 0, 0, 1}"
# Of zeros it makes gamma (0 - mean) / sqrt(variance) + beta: 1 * -1 / 1 + 1 = 0, 2 * -1 / 2 + 0 = -1, 0 - 1 = -1.
NORM = (
    "int64[4] shape = {2, 3, 4, 4}, float[3] gamma = {1, 2, 3}, float[3] beta = {1, 0, -1}, "
    "float[3] mean = {1, 1, 0}, float[3] variance = {1, 4, 1}"
)
ZEROS = (
    "zeros = ConstantOfShape(shape) c = BatchNormalization<epsilon = 0.0>(zeros, gamma, beta, mean, variance)"
)
OFFSET = torch.tensor([0.0, -1.0, -1.0]).view(1, 3, 1, 1)


def folded(model):
    changed = ConstantImages()(model).modified
    RemoveUnusedNodesPass()(model)
    return changed


@pytest.mark.parametrize("operands", ["c, d", "d, c"])
def test_the_norm_of_zeros_goes_into_the_bias_of_the_convolution_it_is_added_to(operands):
    model = graph(f"d = Conv(x, w) {ZEROS} s = Add({operands}) y = Relu(s)", f"{EYE}, {NORM}")
    expected = torch.relu(X + OFFSET)
    assert torch.equal(run(model, X), expected)
    assert folded(model)
    assert kinds(model) == ["Conv", "Relu"]
    assert constant(model.graph[0].inputs[2]).tolist() == [0, -1, -1]
    assert torch.equal(run(model, X), expected)
    assert not folded(model)


def test_a_bias_that_is_there_stays_in_it():
    model = graph(
        f"d = Conv(x, w, b) {ZEROS} y0 = Add(d, c) y = Relu(y0)", f"{EYE}, float[3] b = {{5, 5, 5}}, {NORM}"
    )
    assert folded(model)
    assert constant(model.graph[0].inputs[2]).tolist() == [5, 4, 4]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        # The convolution has another reader: what is added must not reach that.
        ("d = Conv(x, w) {} s = Add(c, d) y = Mul(s, d)", (X + OFFSET) * X),
        ("d = Relu(x) {} y = Add(c, d)", torch.relu(X) + OFFSET),
        ("d = Relu(x) {} y = Mul(c, d)", torch.relu(X) * OFFSET),
        ("d = Relu(x) {} y = Sub(c, d)", OFFSET - torch.relu(X)),
        ("d = Relu(x) {} y = Sub(d, c)", torch.relu(X) - OFFSET),
        # Through a ReLU, a sum and a convolution: relu(c) + c = 0, -1, -1.
        # With a number per channel, as the bias of a convolution that is gone is one.
        (
            "d = Relu(x) {} m = Add(c, b) y = Add(d, m)",
            torch.relu(X) + OFFSET + torch.tensor([1.0, 2, 3]).view(1, 3, 1, 1),
        ),
        (
            "d = Relu(x) {} m = Mul(b, c) y = Add(d, m)",
            torch.relu(X) + OFFSET * torch.tensor([1.0, 2, 3]).view(1, 3, 1, 1),
        ),
        ("d = Relu(x) {} r = Relu(c) t = Add(r, c) e = Conv(t, w) y = Add(d, e)", torch.relu(X) + OFFSET),
    ],
)
def test_elsewhere_it_becomes_a_number_per_channel(body, expected):
    model = graph(body.format(ZEROS), f"{EYE}, {NORM}, float[1,3,1,1] b = {{1, 2, 3}}")
    assert folded(model)
    assert not {"ConstantOfShape", "BatchNormalization"} & set(kinds(model))
    assert torch.equal(run(model, X), expected)


@pytest.mark.parametrize(
    ("body", "inputs"),
    [
        # The border of a padded convolution is not like the rest.
        ("{} e = Conv<pads = [1, 1, 1, 1]>(c, k) y = Add(x, e)", "float[2,3,4,4] x"),
        # The other operand is smaller: the result would be.
        ("{} y = Add(c, z)", "float[2,3,1,1] z"),
        # Nobody reads it but the output.
        ("{} y = Identity(c)", "float[2,3,4,4] x"),
    ],
)
def test_what_does_not_fit_stays(body, inputs):
    kernel = "float[3,3,3,3] k = {" + ", ".join(81 * "1") + "}"
    model = graph(body.format(ZEROS), f"{kernel}, {NORM}", inputs)
    before = kinds(model)
    assert not folded(model)
    assert kinds(model) == before


def test_a_network_without_a_branch_keeps_no_zeros():
    """What it is for: an export of a compacted network whose first branch is gone."""
    net = Residual(8).eval()
    with torch.no_grad():
        for norm in (module for module in net.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.bias.uniform_(-1, 1)
        net.block1.act1.slope.zero_()
    small = rr.compact(net, IMAGE).model
    model = onnx.load_from_string(to_onnx(small, IMAGE).content)
    assert not {"ConstantOfShape", "BatchNormalization", "Shape"} & {
        node.op_type for node in model.graph.node
    }
    x = torch.randn(5, *IMAGE.shape[1:])
    found = OnnxRuntimeSession(model.SerializeToString(), 1).run(x)[0]
    assert torch.allclose(found, net(x).detach(), atol=1e-5)


# --- means ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep", "shape", "expected"),
    [(0, "2,3", ["GlobalAveragePool", "Flatten"]), (1, "2,3,1,1", ["GlobalAveragePool"])],
)
@pytest.mark.parametrize("axes", ["2, 3", "-1, -2"])
def test_a_mean_over_all_pixels_is_a_pool(keep, shape, expected, axes):
    body = f"y = ReduceMean<keepdims = {keep}>(x, axes)"
    model = graph(body, f"int64[2] axes = {{{axes}}}", outputs=f"float[{shape}] y")
    assert MeansToPools()(model).modified
    assert kinds(model) == expected
    assert model.graph.outputs[0].name == "y"
    # Pixels of a channel go up by 0.1: the mean is that of the first and the last.
    assert run(model, X).flatten().tolist() == pytest.approx([-3.25, -1.65, -0.05, 1.55, 3.15, 4.75])
    assert not MeansToPools()(model).modified


@pytest.mark.parametrize(
    ("axes", "shape", "kind"),
    [("1, 2", "2,4", "float"), ("3", "2,3,4", "float"), ("2, 3", "2,3", "double")],
)
def test_other_means_stay(axes, shape, kind):
    model = graph(
        "y = ReduceMean<keepdims = 0>(x, axes)",
        f"int64[{len(axes.split(','))}] axes = {{{axes}}}",
        f"{kind}[2,3,4,4] x",
        f"{kind}[{shape}] y",
    )
    assert not MeansToPools()(model).modified
    assert kinds(model) == ["ReduceMean"]


def test_a_mean_over_everything_is_no_pool():
    model = graph("y = ReduceMean<keepdims = 0>(x)", outputs="float y")
    assert not MeansToPools()(model).modified
