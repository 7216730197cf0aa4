"""The loss of a network on some of its training images, whenever it is asked."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from rotated_relu.training.scoring import sample_loss
from support.training_data import CONFIG, IMAGES


class Scores(nn.Module):
    """The same scores for all images: 0 for nine classes, and one number for the first."""

    def __init__(self):
        super().__init__()
        self.first = 0.0

    def forward(self, x):
        return torch.tensor([self.first] + [0.0] * 9).expand(len(x), 10)


def test_it_is_the_mean_over_a_few_batches_of_the_network_as_it_is():
    net, config = Scores(), dataclasses.replace(CONFIG, batch_size=8)
    loss = sample_loss(net, IMAGES, config, batches=2)
    assert float(loss()) == pytest.approx(math.log(10))
    order = torch.randperm(len(IMAGES.train), generator=torch.Generator().manual_seed(config.seed))[:16]
    share = float((IMAGES.train.labels[order] == 0).float().mean())
    # A score of log(11) for the first of ten classes: it has 11 of 20 parts, each other one 1 of 20.
    net.first = math.log(11)
    assert float(loss()) == pytest.approx(share * math.log(20 / 11) + (1 - share) * math.log(20), rel=1e-5)
