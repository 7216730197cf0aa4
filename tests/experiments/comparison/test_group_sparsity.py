"""Torch-Pruning's penalty acts between backward pass and step, as strongly as it was told to, and only there."""

import dataclasses

import pytest
import torch
from torch import nn

from rotated_relu.experiments.comparison.group_sparsity import group_sparsity
from rotated_relu.training import OptimizerConfig, ScheduleConfig
from support.training_data import CONV

pytest.importorskip("torch_pruning")
# A constant rate of 0.5 over 4 steps, times 1 / (1 - 0.5) for the momentum: a penalty of 1 adds up to 4.
CONFIG = dataclasses.replace(
    CONV,
    model=dataclasses.replace(CONV.model, rotated=False),
    optimizer=OptimizerConfig(lr=0.5, momentum=0.5),
    schedule=ScheduleConfig("constant"),
)
INPUTS = torch.zeros(1, 1, 4, 4)


def net():
    """Two channels, the first of them ten times as large."""
    made = nn.Sequential(
        nn.Conv2d(1, 2, 1, bias=False),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2, 3, bias=False),
    )
    with torch.no_grad():
        made[0].weight.copy_(torch.tensor([10.0, 1.0]).view(2, 1, 1, 1))
        made[4].weight.copy_(torch.tensor([[10.0, 1.0]] * 3))
    return made


def stepped(made):
    """Weights of the convolution before and after a step of size 1 with a loss that has no gradient."""
    optimizer = torch.optim.SGD(made.parameters(), lr=1.0)
    (0 * made(torch.ones(2, 1, 4, 4)).sum()).backward()
    before = made[0].weight.detach().flatten().clone()
    optimizer.step()
    return before, made[0].weight.detach().flatten()


def test_the_least_important_channel_is_pulled_sixteen_times_as_much():
    made = net()
    with group_sparsity(made, INPUTS, CONFIG, strength=0.04, steps=4):
        before, after = stepped(made)
    # reg = 0.04 / 4; the most important channel's factor is 1, the least important one's 2^4.
    assert (before - after).tolist() == pytest.approx([0.01 * 10, 0.16 * 1], rel=1e-4)


def test_after_the_block_it_is_gone():
    made = net()
    with pytest.raises(ZeroDivisionError), group_sparsity(made, INPUTS, CONFIG, strength=1.0, steps=4):
        raise ZeroDivisionError
    before, after = stepped(made)
    assert torch.equal(before, after)


def test_the_network_is_left_in_its_mode():
    made = net().train()
    with group_sparsity(made, INPUTS, CONFIG, strength=1.0, steps=4):
        assert made.training
