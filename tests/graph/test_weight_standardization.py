"""Convolutions that standardise their weight: output channels and groups go, inputs stay in the statistics."""

import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import rotated_relu as rr
from rotated_relu import RotatedReLU
from rotated_relu.deploy.conversion import to_onnx
from support import nets


class Standardised(nn.Conv2d):
    """Each output channel's weights to mean 0 and variance 1, times a gain."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.gain = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1) + 0.5)

    def forward(self, x):
        flat, gain = self.weight.reshape(1, self.out_channels, -1), (self.gain * 0.3).view(-1)
        weight = F.batch_norm(flat, None, None, weight=gain, training=True, momentum=0.0, eps=1e-6)
        x = F.pad(x, (0, 1, 0, 1))
        return F.conv2d(
            x, weight.reshape_as(self.weight), self.bias, self.stride, self.padding, groups=self.groups
        )


class Net(nn.Module):
    def __init__(self, conv=Standardised):
        super().__init__()
        self.conv1, self.act1 = conv(3, 8, 3), RotatedReLU(8)
        self.conv2, self.act2 = conv(8, 8, 3, groups=4), RotatedReLU(8)
        self.conv3, self.act3 = conv(8, 6, 1, bias=True), RotatedReLU(6)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x):
        return self.head(self.act3(self.conv3(self.act2(self.conv2(self.act1(self.conv1(x)))))))


def killed(conv=Standardised):
    torch.manual_seed(0)
    net = Net(conv).eval()
    for slope in rr.slopes(net).values():
        slope.data.fill_(1.0)
    nets.kill(net, "act1", [0, 1, 4])  # the first of four groups, and half of the third
    nets.kill(net, "act2", [2, 3, 6])  # the second group, and half of the fourth
    nets.kill(net, "act3", [1, 5])
    return net


def check_widths(small):
    # nobody reads group 1 of conv2, so it goes, with the channels that it reads; group 0 reads zeros, but has a bias
    assert small.conv2.groups == 3
    assert small.conv2.weight.shape[:2] == (6, 2)
    # all 8 inputs are in the mean and the variance; 2 of 6 outputs go
    assert small.conv3.weight.shape[:2] == (4, 8)
    assert small.conv3.bias.shape == (4,)
    assert small.head.weight.shape[:2] == (2, 4)
    assert small.head.bias.shape == (2,)


def test_outputs_and_groups_go_and_inputs_stay_in_the_statistics():
    net = killed()
    result = rr.compact(net, torch.randn(1, 3, 8, 8))
    small = result.model
    assert result.certificate.max_relative_difference <= 1e-9
    assert result.plan.frozen == []
    check_widths(small)
    assert small.conv1.weight.shape == (3, 3, 3, 3)  # channels 5, 6, 7
    assert small.conv1.gain.shape == (3, 1, 1, 1)
    assert small.conv3.gain.shape == (4, 1, 1, 1)
    # what is left computes with the very same standardised weights
    images = torch.randn(4, 3, 9, 11)
    torch.testing.assert_close(small(images), net(images), rtol=1e-5, atol=1e-5)
    saved = {name: one - ideal for name, (one, ideal) in result.plan.work.items()}
    assert saved["conv1"] > 0
    assert saved["conv3"] > 0


def test_widths_can_be_rounded_and_files_load(tmp_path):
    net = killed()
    result = rr.compact(net, torch.randn(1, 3, 8, 8), round_to=4)
    assert result.model.conv3.weight.shape[:2] == (4, 8)  # never fewer inputs than the statistics take
    rr.save(result, tmp_path / "net.safetensors")
    loaded = rr.load(tmp_path / "net.safetensors", Net()).eval()
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(loaded(images), result.model.eval()(images))


def test_it_trains_on_as_the_original_does():
    net = killed()
    small = rr.compact(net, torch.randn(1, 3, 8, 8)).model
    images = torch.randn(2, 3, 8, 8)
    for one in (net, small):
        one(images).square().sum().backward()
    # rows 0, 2, 3, 4 of conv3 are left; all of their inputs, the dead ones too, pull through mean and variance
    expected = net.conv3.weight.grad[[0, 2, 3, 4]]
    torch.testing.assert_close(small.conv3.weight.grad, expected, rtol=1e-4, atol=1e-5)
    assert bool((expected[:, 2] != 0).all())


def test_an_exported_graph_reads_what_is_left():
    small = rr.compact(killed(), torch.randn(1, 3, 8, 8)).model
    graph = onnx.load_from_string(to_onnx(small, torch.randn(2, 3, 8, 8)).content).graph
    shapes = {value.name: tuple(value.dims) for value in graph.initializer}
    found = [shapes[node.input[1]][:2] for node in graph.node if node.op_type == "Conv"]
    # The standardised weight is a constant there: conv3 has the 6 columns of its narrow input. Between conv1 and conv2,
    # a 1x1 convolution puts the 3 live channels at their places in the 3 groups.
    assert found == [(3, 3), (6, 3), (6, 2), (4, 6), (2, 4)]
    assert {node.op_type for node in graph.node} == {"Conv", "Relu"}


def test_an_input_whose_weights_are_zero_counts_in_the_statistics():
    net = killed()
    net.conv3.weight.data[:, 7] = 0.0  # -mean / std once standardised
    result = rr.compact(net, torch.randn(1, 3, 8, 8))
    assert result.certificate.max_relative_difference <= 1e-9
    assert result.model.conv3.weight.shape[1] == 8


def test_groups_that_are_partly_dead_lose_outputs_only():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1, bias=False),
        RotatedReLU(8),
        Standardised(8, 12, 3, groups=2),
        RotatedReLU(12),
        nn.Conv2d(12, 2, 1),
    ).eval()
    for slope in rr.slopes(net).values():
        slope.data.fill_(1.0)
    nets.kill(net, "1", [0, 5, 6])
    nets.kill(net, "3", [0, 1, 2, 7, 9, 10, 11])
    result = rr.compact(net, torch.randn(1, 3, 8, 8))
    small = result.model
    assert result.certificate.max_relative_difference <= 1e-9
    # 3 of the first 6 outputs are alive and 2 of the others: both groups get 3; 4 inputs of each are in the statistics
    assert small[2].weight.shape[:2] == (6, 4)
    assert small[2].gain.shape == (6, 1, 1, 1)
    assert small[2].groups == 2
    assert small[0].out_channels == 5


class OverInputs(nn.Conv2d):
    """Standardised over the outputs of each input: no channel may go."""

    def forward(self, x):
        flat = self.weight.transpose(0, 1).reshape(1, self.in_channels, -1)
        weight = F.batch_norm(flat, None, None, training=True).reshape(
            self.in_channels, self.out_channels, 1, 1
        )
        return F.conv2d(x, weight.transpose(0, 1), self.bias)


def test_other_standardisations_keep_their_width():
    torch.manual_seed(0)
    net = nn.Sequential(
        OverInputs(3, 6, 1), RotatedReLU(6), nn.Conv2d(6, 4, 1), RotatedReLU(4), nn.Conv2d(4, 2, 1)
    )
    net[1].slope.data[:] = torch.tensor([0.0, 0, 1, 1, 1, 1])
    net[3].slope.data[:] = torch.tensor([0.0, 1, 1, 1])
    result = rr.compact(net.eval(), torch.randn(1, 3, 4, 4))
    assert result.certificate.max_relative_difference <= 1e-9
    assert result.model[0].weight.shape[0] == 6
    assert result.model[2].weight.shape[0] == 3


@pytest.mark.parametrize("name", ["StdConv2d", "StdConv2dSame", "ScaledStdConv2d", "ScaledStdConv2dSame"])
def test_those_of_timm(name):
    layers = pytest.importorskip("timm.layers", reason="optional: pip install timm")
    net = killed(getattr(layers, name))
    result = rr.compact(net, torch.randn(1, 3, 8, 8))
    assert result.certificate.max_relative_difference <= 1e-9
    assert result.plan.frozen == []
    assert result.model.conv3.weight.shape[:2] == (4, 8)
