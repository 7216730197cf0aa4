"""The distillation loss by hand, and what it refuses."""

import math

import pytest
import torch

import rotated_relu as rr
from rotated_relu.core.errors import ShapeError, SlopeError


def test_by_hand():
    # Scores (0, 0): log 2 with any label. At temperature 2 the teacher's (2 log 3, 0) is (3/4, 1/4), the network's
    # (1/2, 1/2): divergence 3/4 log(3/2) + 1/4 log(1/2), times 4.
    scores = torch.zeros(1, 2)
    teacher = torch.tensor([[2 * math.log(3), 0.0]])
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    found = rr.distillation_loss(scores, teacher, torch.tensor([0]), weight=0.25, temperature=2.0)
    assert float(found) == pytest.approx(0.75 * math.log(2) + 0.25 * 4 * divergence)


def test_it_is_the_mean_over_positions():
    torch.manual_seed(0)
    scores, teacher = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    targets = torch.randint(3, (2, 4))
    parts = [
        rr.distillation_loss(scores[i : i + 1, :, j], teacher[i : i + 1, :, j], targets[i : i + 1, j])
        for i in range(2)
        for j in range(4)
    ]
    torch.testing.assert_close(rr.distillation_loss(scores, teacher, targets), torch.stack(parts).mean())


def test_a_network_that_agrees_with_its_teacher_gets_no_gradient_from_it():
    scores = torch.randn(3, 5, requires_grad=True)
    rr.distillation_loss(scores, scores.detach(), torch.tensor([0, 1, 2]), weight=1.0).backward()
    torch.testing.assert_close(scores.grad, torch.zeros(3, 5), atol=1e-6, rtol=0)


def test_no_gradient_flows_into_the_teacher():
    teacher = torch.randn(3, 5, requires_grad=True)
    rr.distillation_loss(torch.randn(3, 5, requires_grad=True), teacher, torch.tensor([0, 1, 2])).backward()
    assert teacher.grad is None


@pytest.mark.parametrize(
    ("teacher", "options", "error"),
    [
        (torch.zeros(1, 3), {}, ShapeError),
        (torch.zeros(1, 2), {"weight": 1.5}, SlopeError),
        (torch.zeros(1, 2), {"temperature": 0.0}, SlopeError),
        (torch.zeros(1, 2), {"temperature": math.inf}, SlopeError),
    ],
)
def test_refused(teacher, options, error):
    with pytest.raises(error):
        rr.distillation_loss(torch.zeros(1, 2), teacher, torch.tensor([0]), **options)
