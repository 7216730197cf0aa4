"""Choosing the rounding by measurement."""

import pytest
import torch

import nets
import rotated_relu as rr
from rotated_relu.errors import CompactionError
from rotated_relu.rounding import choose, compact_fastest


def test_the_fastest_by_geometric_mean_wins():
    # geometric means: 1 -> sqrt(2 * 8) = 4, 8 -> sqrt(3 * 3) = 3, 16 -> sqrt(1 * 16) = 4
    assert choose({1: [2.0, 8.0], 8: [3.0, 3.0], 16: [1.0, 16.0]}) == 8


def test_within_three_percent_the_smaller_network_wins():
    assert choose({1: [1.02], 8: [1.0]}) == 1
    assert choose({1: [1.05], 8: [1.0]}) == 8


def test_every_candidate_is_timed_and_the_result_is_one_of_them():
    net = nets.awake(nets.Residual())
    nets.kill(net, "block1.act1", [0, 1, 2])
    x = torch.randn(1, 3, 8, 8)
    found = compact_fastest(net, x, candidates=(1, 4), rounds=3, threads=1)
    assert set(found.milliseconds) == {1, 4}
    assert all(len(times) == 1 and times[0] > 0 for times in found.milliseconds.values())
    assert found.result.plan.round_to == found.round_to
    assert found.result.certificate.max_relative_difference <= 1e-9
    expected = {1: 5, 4: 8}[found.round_to]  # 8 channels less 3, and rounded up to 8
    assert found.result.model.block1.conv1.out_channels == expected


def test_no_candidate_is_an_error():
    with pytest.raises(CompactionError, match="at least one candidate"):
        compact_fastest(rr.models.fcnn(), torch.randn(1, 784), candidates=())
