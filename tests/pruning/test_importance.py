"""Scores of channels, by hand."""

import pytest
import torch
from torch import nn

import rotated_relu as rr
from rotated_relu.nn.activation import RotatedReLU
from rotated_relu.pruning.importance import (
    consumer_scores,
    per_cost,
    random_scores,
    slope_scores,
    taylor_scores,
)


def chain():
    net = nn.Sequential(nn.Linear(2, 2, bias=False), RotatedReLU(2), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(2))
        net[1].slope.copy_(torch.tensor([-2.0, 0.5]))
        net[2].weight.copy_(torch.tensor([[3.0, 0.0], [4.0, 12.0]]))
    return net


def test_slope_scores_are_absolute_slopes():
    assert slope_scores(chain())["1.slope"].tolist() == [2.0, 0.5]


def test_random_scores_are_those_of_the_seed_whatever_the_slopes():
    net, same, other = chain(), random_scores(chain(), seed=3), random_scores(chain(), seed=4)
    with torch.no_grad():
        net[1].slope.zero_()
    found = random_scores(net, seed=3)
    assert found.kind == "random"
    assert torch.equal(found["1.slope"], same["1.slope"])
    assert not torch.equal(found["1.slope"], other["1.slope"])
    with pytest.raises(rr.errors.SlopeError, match="no slopes"):
        random_scores(nn.Linear(2, 2))


def test_consumer_scores_by_hand():
    # Columns (3, 4) and (0, 12) have norms 5 and 12.
    assert consumer_scores(chain(), torch.zeros(1, 2))["1.slope"].tolist() == [10.0, 6.0]


def test_consumer_scores_do_not_change_when_scale_moves_from_slope_to_reader():
    net = chain()
    before = consumer_scores(net, torch.zeros(1, 2))["1.slope"]
    with torch.no_grad():
        net[1].slope *= torch.tensor([8.0, 0.25])
        net[2].weight /= torch.tensor([8.0, 0.25])
    assert torch.equal(consumer_scores(net, torch.zeros(1, 2))["1.slope"], before)


def test_consumer_scores_through_pooling_flattening_and_groups():
    net = nn.Sequential(
        nn.Conv2d(1, 2, 1), RotatedReLU(2), nn.Conv2d(2, 2, 1, groups=2, bias=False), RotatedReLU(2), nn.Flatten(),
        nn.Linear(8, 1),
    )  # fmt: skip
    with torch.no_grad():
        net[1].slope.fill_(1.0)
        net[2].weight.copy_(torch.tensor([7.0, -2.0]).view(2, 1, 1, 1))
        net[3].slope.fill_(2.0)
        net[5].weight.copy_(torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 3.0, 4.0]]))
    scores = consumer_scores(net, torch.zeros(1, 1, 2, 2))
    assert scores["1.slope"].tolist() == [7.0, 2.0]  # one weight per group
    assert scores["3.slope"].tolist() == [4.0, 10.0]  # 2 * sqrt(4), 2 * sqrt(9 + 16)


class Residual(nn.Module):
    """The activation is read by a layer and by an addition."""

    def __init__(self):
        super().__init__()
        self.act, self.layer = RotatedReLU(2), nn.Linear(2, 2, bias=False)

    def forward(self, x):
        out = self.act(x)
        return out + self.layer(out)


def test_consumer_scores_where_an_addition_reads_too():
    net = Residual()
    with torch.no_grad():
        net.act.slope.fill_(1.0)
        net.layer.weight.copy_(torch.tensor([[3.0, 0.0], [4.0, 0.5]]))
    assert consumer_scores(net, torch.zeros(1, 2))["act.slope"].tolist() == [5.0, 0.5]


def test_taylor_scores_by_hand():
    # L = sum of outputs. dL/da_c = relu(x_c) * sum of column c: for x = (1, 2), 1 * 7 and 2 * 12.
    # a dL/da = -14 and 12; for x = (1, 0), -14 and 0.
    net = chain()
    net.train()
    batches = [(torch.tensor([[1.0, 2.0]]), torch.zeros(1)), (torch.tensor([[1.0, 0.0]]), torch.zeros(1))]
    scores = taylor_scores(net, batches, lambda out, labels: out.sum())
    assert scores["1.slope"].tolist() == [196.0, 72.0]
    assert net.training
    assert all(parameter.grad is None for parameter in net.parameters())


def test_per_cost_by_hand():
    scores = {"a": torch.tensor([6.0, 2.0]), "b": torch.tensor([1.0])}
    found = per_cost(scores, {"a": 4.0, "b": 0.0})
    assert found["a"].tolist() == [1.5, 0.5]
    assert float(found["b"]) > 1e8  # saves nothing: the last to go


def test_scores_leave_frozen_slopes_frozen():
    net = chain()
    net[1].slope.requires_grad_(False)
    taylor_scores(net, [(torch.ones(1, 2), torch.zeros(1))], lambda out, labels: out.sum())
    assert not net[1].slope.requires_grad


def test_bad_input_is_named():
    with pytest.raises(rr.errors.SlopeError, match="at least one batch"):
        taylor_scores(chain(), [], lambda out, labels: out.sum())
    with pytest.raises(rr.errors.SlopeError):
        slope_scores(nn.Linear(2, 2))
