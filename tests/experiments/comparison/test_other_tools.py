"""What other tools chose, carried over to networks; and what they raise."""

import copy

import pytest
import torch
from torch import nn

import rotated_relu as rr
from rotated_relu.core.errors import MissingPackageError, RotationError
from rotated_relu.experiments.comparison.exported import ExportedGraph, convolutions
from rotated_relu.experiments.comparison.fastnas import of_widths
from rotated_relu.experiments.comparison.methods import METHODS
from rotated_relu.experiments.comparison.prune import Guarded, largest_within, macs

INPUTS = torch.zeros(1, 1, 6, 6)


def net(width=8):
    return nn.Sequential(
        nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 4, 3), nn.BatchNorm2d(4), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    ).eval()  # fmt: skip


def test_a_network_takes_the_widths_of_tensors():
    torch.manual_seed(0)
    whole, small = net(8), net(3)
    made = of_widths(whole, small.state_dict())
    assert (made[0].out_channels, made[1].num_features, made[3].in_channels) == (3, 3, 3)
    images = torch.randn(2, 1, 6, 6)
    assert torch.equal(made(images), small(images))
    assert whole[0].out_channels == 8


def test_what_a_tool_raises_is_kept_and_the_others_go_on():
    class Broken:
        def at(self, level):
            if level > 0.4:
                raise ValueError("no such\n width")
            return net()

    pruner = Guarded(Broken)
    assert pruner.at(0.5) is None
    assert pruner.failure == "ValueError: no such width"
    assert pruner.at(0.3) is not None
    assert pruner.failure is None


def test_a_missing_package_is_no_failure_of_the_tool():
    def missing():
        raise MissingPackageError("not installed")

    with pytest.raises(MissingPackageError):
        Guarded(missing).at(0.5)


def test_the_ratio_of_a_tool_is_bisected():
    asked = []

    def pruned(ratio):
        asked.append(ratio)
        return net(8 - round(6 * ratio))

    # Widths 8 to 2; a channel of the first layer costs 4*4*9 in it and 2*2*9*4 in the second, 288 of 2304 + 12.
    found = largest_within(pruned, 0.5 * macs(net(8), INPUTS), INPUTS)
    assert found[0].out_channels == 3
    assert asked[:2] == [0.5, 0.75]


def test_a_tool_that_spares_what_it_would_empty_is_asked_for_more_ratios():
    def pruned(ratio):
        return net(3 if 0.6 <= ratio < 0.7 else 8)

    # Bisection asks for 0.5, 0.75, 0.875 and so on, and sees the whole network every time.
    assert largest_within(pruned, 0.5 * macs(net(8), INPUTS), INPUTS)[0].out_channels == 3
    assert largest_within(pruned, 0.1 * macs(net(8), INPUTS), INPUTS) is None


def test_batch_norms_are_found_behind_their_convolutions():
    assert convolutions(net(), INPUTS) == [("1", 8), ("4", 4)]
    with pytest.raises(RotationError, match="is not followed by a batch norm"):
        convolutions(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), INPUTS)


def test_onnxsim_takes_the_smallest_filters():
    pytest.importorskip("onnxsim")
    torch.manual_seed(0)
    whole = net()
    with torch.no_grad():
        whole[0].weight[::2] *= 0.01
    stand_in = rr.rotate(copy.deepcopy(whole), INPUTS, init="ones").eval()
    # Each of the 8 filters costs 288 multiplications (below) of 2316: 4 of them and the classifier's 12 are 1164.
    small = ExportedGraph(stand_in, INPUTS).at(0.49)
    assert torch.equal(small[0].weight, whole[0].weight[1::2])


def test_every_method_of_another_tool_says_how_widths_are_rounded():
    assert METHODS["fastnas"].round_to == 8
    assert [m.name for m in METHODS.values() if m.round_to == 16] == ["group_round16"]
