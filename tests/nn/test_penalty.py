"""The L1 penalty on the slopes and the split of the parameters, with arithmetic by hand."""

import pytest
import torch
from torch import nn

from rotated_relu.nn.activation import RotatedReLU
from rotated_relu.nn.penalty import add_l1_subgradient, parameter_groups, shrink, slope_l1


@pytest.fixture
def net():
    net = nn.Sequential(nn.Linear(2, 3), RotatedReLU(3), nn.Linear(3, 2), RotatedReLU(2))
    with torch.no_grad():
        net[1].slope.copy_(torch.tensor([1.0, -2.0, 0.5]))
        net[3].slope.copy_(torch.tensor([-0.25, 0.0]))
    return net


def test_slope_l1_is_the_sum_of_absolute_values(net):
    assert float(slope_l1(net)) == 1 + 2 + 0.5 + 0.25


def test_slope_l1_differentiates_to_signs(net):
    slope_l1(net).backward()
    assert net[1].slope.grad.tolist() == [1, -1, 1]
    assert net[3].slope.grad.tolist() == [-1, 0]


def test_slope_l1_without_slopes_is_zero():
    assert float(slope_l1(nn.Linear(2, 2))) == 0


def test_subgradient_adds_to_what_is_there(net):
    net[1].slope.grad = torch.tensor([0.5, 0.5, 0.5])
    add_l1_subgradient([net[1].slope, net[3].slope], 0.25)
    assert net[1].slope.grad.tolist() == [0.75, 0.25, 0.75]
    assert net[3].slope.grad is None


def test_subgradient_equals_the_penalty_in_the_loss(net):
    slopes = [net[1].slope, net[3].slope]
    images = torch.randn(5, 2)
    net(images).sum().backward()
    add_l1_subgradient(slopes, 0.125)
    added = [slope.grad.clone() for slope in slopes]
    net.zero_grad()
    (net(images).sum() + 0.125 * slope_l1(net)).backward()
    for one, other in zip(added, slopes, strict=True):
        torch.testing.assert_close(one, other.grad)


def test_shrink_stops_at_exactly_zero(net):
    shrink([net[1].slope, net[3].slope], 0.5)
    assert net[1].slope.tolist() == [0.5, -1.5, 0]
    assert net[3].slope.tolist() == [0, 0]


def test_all_parameters_decay_as_published(net):
    (group,) = parameter_groups(net, 5e-4)
    assert group["weight_decay"] == 5e-4
    assert len(group["params"]) == 6


def test_slopes_can_be_kept_from_decaying(net):
    weights, slopes = parameter_groups(net, 5e-4, decay_slopes=False)
    assert (weights["weight_decay"], slopes["weight_decay"]) == (5e-4, 0)
    assert {id(p) for p in slopes["params"]} == {id(net[1].slope), id(net[3].slope)}
    assert len(weights["params"]) == 4


def test_frozen_parameters_are_left_out(net):
    net[0].weight.requires_grad_(False)
    (group,) = parameter_groups(net, 0.0)
    assert len(group["params"]) == 5
