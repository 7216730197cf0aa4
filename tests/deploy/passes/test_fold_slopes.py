"""Which networks export without a multiplication by slopes, and what the report says of slopes that stay."""

from collections import Counter

import onnx
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

import rotated_relu as rr
from rotated_relu.deploy.export import export_onnx
from rotated_relu.nn.activation import RotatedReLU
from rotated_relu.nn.models.preact import PreActBlock, PreActBottleneck, PreActResNet
from support import nets


def exported(net, x, path):
    """The report, and how often each operator occurs in the file."""
    report = export_onnx(net, x, path)
    return report, Counter(node.op_type for node in onnx.load(path).graph.node)


def signed(net, seed=0):
    """Slopes of both signs, none of them 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    for slope in rr.slopes(net).values():
        slope.data.uniform_(0.5, 1.5, generator=generator)
        slope.data[::2] *= -1
    return net


def vgg():
    """VGG-11 with batch norm as torchvision builds it, for images of 32 pixels and 4 classes."""
    torch.manual_seed(0)
    net = torchvision.models.vgg11_bn(weights=None, num_classes=4)
    net.avgpool = nn.AdaptiveAvgPool2d(1)
    net.classifier = nn.Sequential(nn.Linear(512, 16), nn.ReLU(), nn.Linear(16, 4))
    return nets.awake(rr.rotate(net, torch.randn(1, 3, 32, 32), init="published"))


@pytest.mark.slow
def test_vgg_has_no_slopes_left_where_those_before_a_max_pool_are_positive(tmp_path):
    net = signed(vgg())
    pooled = ("features.2", "features.6", "features.13", "features.20", "features.27")
    for name in pooled:
        net.get_submodule(name).slope.data.abs_()
    report, operators = exported(net, torch.randn(2, 3, 32, 32), tmp_path / "vgg.onnx")
    # eight convolutions and a hidden linear layer
    assert (report.folded_slopes, report.kept_slopes, operators["Mul"]) == (9, (), 0)
    assert operators["Conv"] == 8


def test_negative_slopes_before_a_max_pool_stay_and_the_report_says_so(tmp_path):
    net = signed(nets.awake(nets.Chain()))
    report, operators = exported(net, torch.randn(2, 3, 16, 16), tmp_path / "net.onnx")
    assert (report.folded_slopes, operators["Mul"]) == (1, 1)
    (kept,) = report.kept_slopes
    assert kept.name == "act2"
    assert kept.reason == "a max-pool reads it and 3 of 6 slopes are negative"
    assert report.to_dict()["kept_slopes"] == [{"name": kept.name, "reason": kept.reason}]


class Plain(nn.Module):
    """Convolutions, an average pool and linear layers, with biases."""

    def __init__(self):
        super().__init__()
        self.conv1, self.act1 = nn.Conv2d(3, 6, 3, padding=1), RotatedReLU(6)
        self.conv2, self.act2 = nn.Conv2d(6, 8, 3, stride=2), RotatedReLU(8)
        self.conv3, self.act3 = nn.Conv2d(8, 8, 3, padding=1, groups=2), RotatedReLU(8)
        self.fc1, self.act4, self.fc2 = nn.Linear(8 * 9, 10), RotatedReLU(10), nn.Linear(10, 3)

    def forward(self, x):
        x = self.act3(self.conv3(self.act2(self.conv2(self.act1(self.conv1(x))))))
        x = torch.flatten(F.avg_pool2d(x, 2), 1)
        return self.fc2(self.act4(self.fc1(x)))


def test_a_plain_network_has_no_slopes_left(tmp_path):
    report, operators = exported(signed(Plain().eval()), torch.randn(2, 3, 14, 14), tmp_path / "net.onnx")
    assert (report.folded_slopes, report.kept_slopes, operators["Mul"]) == (4, (), 0)


@pytest.mark.slow
@pytest.mark.parametrize(("block", "slopes"), [(PreActBlock, 2), (PreActBottleneck, 3)])
def test_pre_activation_networks_have_no_slopes_left(tmp_path, block, slopes):
    net = signed(nets.awake(PreActResNet(block, 1)))
    report, operators = exported(net, torch.randn(2, 3, 16, 16), tmp_path / "net.onnx")
    # one block in each of three stages
    assert (report.folded_slopes, report.kept_slopes, operators["Mul"]) == (3 * slopes, (), 0)


def test_after_an_addition_with_two_kinds_of_readers_slopes_stay_and_the_report_says_so(tmp_path):
    net = signed(nets.awake(nets.Residual()))
    report, operators = exported(net, torch.randn(2, 3, 8, 8), tmp_path / "net.onnx")
    # the stem and block 1 are read by a convolution and by the next addition; block 2 by the head alone
    assert [kept.name for kept in report.kept_slopes] == ["act", "block1.act2"]
    reason = "two kinds of consumers: an addition, which has no weights, and Conv"
    assert {kept.reason for kept in report.kept_slopes} == {reason}
    assert (report.folded_slopes, operators["Mul"]) == (3, 2)
