"""Narrow graphs compute what the wide ones do, with fewer channels and no multiplication by slopes."""

import math
from collections import Counter

import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import rotated_relu as rr
from rotated_relu.core.errors import ExportError
from rotated_relu.deploy.conversion import apply_layout, raw_onnx, to_onnx
from rotated_relu.deploy.layout import AS_EXPORTED, EXACT_WIDTHS, GraphLayout
from rotated_relu.deploy.sessions import OnnxRuntimeSession
from rotated_relu.nn.activation import RotatedReLU
from support import nets
from support.random_networks import THRESHOLD, Program, RandomNetwork, example_inputs

NARROW, WIDE = GraphLayout("narrow", 1, math.inf, 1024), GraphLayout("wide", 1, 0, 1024)
LAYOUTS = [
    EXACT_WIDTHS,
    NARROW,
    WIDE,
    GraphLayout("narrow, widths of 4", 4, math.inf, 1024),
    GraphLayout("narrow, widths of 3, gathers", 3, math.inf, 0),
    GraphLayout("widths of 16", 16, 4, 64),
]


def same(raw, layout, inputs):
    """The finished graph, after comparing it with the raw one."""
    model = apply_layout(raw, layout)
    expected = OnnxRuntimeSession(raw.content).run(inputs)
    for one, other in zip(expected, OnnxRuntimeSession(model.content).run(inputs), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5 * max(1.0, float(one.abs().max())))
    return model


def operators(model):
    return Counter(node.op_type for node in onnx.load_from_string(model.content).graph.node)


def conv_widths(model):
    """Output and input channels of each convolution, in order."""
    graph = onnx.load_from_string(model.content).graph
    shapes = {value.name: tuple(value.dims) for value in graph.initializer}
    return [shapes[node.input[1]][:2] for node in graph.node if node.op_type == "Conv"]


def stream(dead1, dead2):
    """Two post-activation blocks on a stream of 8; the last slope of each kills some channels of it."""
    net = nets.awake(nets.Residual())
    nets.kill(net, "block1.act2", dead1)
    nets.kill(net, "block2.act2", dead2)
    return net


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_residual_stream_in_every_layout(layout):
    raw = raw_onnx(stream([0, 1, 2], [3, 4]), torch.randn(2, 3, 8, 8))
    same(raw, layout, torch.randn(5, 3, 8, 8))


def test_each_addition_is_as_wide_as_its_readers_want():
    raw = raw_onnx(stream([0, 1, 2], [3, 4]), torch.randn(2, 3, 8, 8))
    model = same(raw, NARROW, torch.randn(2, 3, 8, 8))
    # stem 8; block 1: 8 <- 8, then 5 alive <- 8, and the 5 of the stem's 8 that go into the sum; block 2: 8 <- 5,
    # 6 alive <- 8, and the selection of those 6 out of 5 (channels 0, 1, 2 are zero there)
    assert sorted(conv_widths(model)) == sorted([(8, 3), (8, 8), (5, 8), (5, 8), (8, 5), (6, 8), (6, 5)])
    assert operators(model)["Mul"] == 0
    assert model.kept_slopes == ()


def test_wide_streams_keep_their_width_and_select_nothing():
    raw = raw_onnx(stream([0, 1, 2], [3, 4]), torch.randn(2, 3, 8, 8))
    model = same(raw, WIDE, torch.randn(2, 3, 8, 8))
    assert sorted(conv_widths(model)) == sorted([(8, 3), (8, 8), (8, 8), (8, 8), (8, 8)])


def test_slopes_of_a_wide_stream_stay_and_say_why():
    net = nets.awake(nets.Residual())
    net.block1.act2.slope.data[0] = -1.0  # a positive scale would move behind the addition
    kept = apply_layout(raw_onnx(net, torch.randn(2, 3, 8, 8)), WIDE).kept_slopes
    assert "block1.act2" in [slopes.name for slopes in kept]
    assert all("two kinds of consumers" in slopes.reason and "Conv" in slopes.reason for slopes in kept)


class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.act, self.last = nn.Conv2d(3, 4, 3), RotatedReLU(4), nn.Conv2d(4, 2, 3)

    def forward(self, x):
        return self.last(F.max_pool2d(self.act(self.conv(x)), 2))


def test_a_max_pool_takes_positive_slopes_only():
    net, x = Pooled().eval(), torch.randn(2, 3, 12, 12)
    net.act.slope.data = torch.tensor([0.5, 1.5, 2.0, 1.0])
    assert same(raw_onnx(net, x), EXACT_WIDTHS, x).kept_slopes == ()
    net.act.slope.data[1] = -1.5
    (kept,) = same(raw_onnx(net, x), EXACT_WIDTHS, x).kept_slopes
    assert kept.name == "act"
    assert kept.reason == "a max-pool reads it and 1 of 4 slopes are negative"


@pytest.mark.slow
@pytest.mark.parametrize(
    "net",
    [
        rr.models.wrn_16_4(),
        nets.Chain(),
        nets.PreActivation(),
    ],
    ids=["wrn", "plain", "small preact"],
)
def test_slopes_of_pre_activation_and_plain_nets_cost_nothing(net):
    for slope in rr.slopes(net).values():
        slope.data.abs_()  # a max-pool behind negative ones would keep them
    size = 16 if isinstance(net, nets.Chain) else 32
    model = to_onnx(nets.awake(net), torch.randn(2, 3, size, size))
    assert operators(model)["Mul"] == 0
    assert model.kept_slopes == ()
    assert model.folded_slopes == len(rr.slopes(net))


def test_a_norm_over_a_wide_stream_becomes_a_selection():
    net = nets.awake(nets.PreActivation(width=12))
    nets.kill(net, "act1", list(range(9)))
    model = same(raw_onnx(net, torch.randn(2, 3, 8, 8)), NARROW, torch.randn(3, 3, 8, 8))
    assert (3, 12) in conv_widths(model)  # the norm of the 3 channels that are read
    assert operators(model)["BatchNormalization"] == 1  # the one before the head, at full width


class Inverted(nn.Module):
    """1x1 convolution, depthwise convolution, 1x1 convolution, with norms that make constants of dead channels."""

    def __init__(self):
        super().__init__()
        self.wide, self.bn1, self.act1 = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), RotatedReLU(8)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.bn2, self.act2, self.narrow = nn.BatchNorm2d(8), RotatedReLU(8), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.act1(self.bn1(self.wide(x)))
        return self.narrow(self.act2(self.bn2(self.deep(x))))


def test_constant_channels_go_into_the_bias():
    net = nets.awake(Inverted())
    nets.kill(net, "act1", [0, 1, 2])
    nets.kill(net, "act2", [2, 3])
    model = same(raw_onnx(net, torch.randn(2, 3, 6, 6)), EXACT_WIDTHS, torch.randn(2, 3, 6, 6))
    # 4, 5, 6, 7 are alive on both sides; 0 and 1 are constant behind the depthwise convolution
    assert conv_widths(model) == [(4, 3), (4, 1), (4, 4)]


def test_widths_are_filled_up_with_zeros():
    net = nets.awake(Inverted())
    nets.kill(net, "act1", [0, 1, 2])
    model = same(
        raw_onnx(net, torch.randn(2, 3, 6, 6)),
        GraphLayout("widths of 8", round_to=8),
        torch.randn(2, 3, 6, 6),
    )
    assert conv_widths(model) == [(8, 3), (8, 1), (4, 8)]  # the output keeps its width


def test_every_second_pixel_is_a_stride():
    net = nets.awake(nets.OptionA())
    nets.kill(net, "act", [1])
    model = same(raw_onnx(net, torch.randn(2, 3, 8, 8)), NARROW, torch.randn(2, 3, 8, 8))
    assert operators(model)["Slice"] == operators(model)["Gather"] == operators(model)["Pad"] == 0


def test_the_layout_as_exported_changes_nothing():
    raw = raw_onnx(stream([0], [1]), torch.randn(2, 3, 8, 8))
    assert operators(apply_layout(raw, AS_EXPORTED)) == operators(raw)


class Fixed(nn.Module):
    """A random network with a fixed number of arguments, as the exporter wants it."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, a):
        return self.net(a)


class FixedTwo(Fixed):
    def forward(self, a, b):
        return self.net(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, *range(100, 110)])
def test_random_networks(seed):
    program = Program.from_seed(seed)
    net = RandomNetwork(program).float().eval()
    if rr.slopes(net):
        rr.apply_threshold(net, THRESHOLD)
    inputs = tuple(value.float() for value in example_inputs(program, batch=3))
    try:
        raw = raw_onnx((Fixed, FixedTwo)[len(inputs) - 1](net), inputs)
        OnnxRuntimeSession(raw.content)
    except ExportError:
        pytest.skip("torch cannot export it with a dynamic batch")
    for layout in LAYOUTS[1:5]:
        same(raw, layout, inputs)
