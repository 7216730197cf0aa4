"""Class scores, however a network wraps them."""

import types

import pytest
import torch

from rotated_relu.core.errors import ShapeError
from rotated_relu.training.outputs import class_scores

SCORES = torch.arange(6.0).view(2, 3)


@pytest.mark.parametrize(
    "output",
    [
        SCORES,
        {"logits": SCORES, "features": torch.zeros(2, 9)},
        {"out": SCORES, "aux": torch.zeros(2, 3)},
        {"anything": SCORES},
        (SCORES, torch.zeros(1)),
        [SCORES],
        types.SimpleNamespace(logits=SCORES),
    ],
    ids=["tensor", "logits", "out", "only", "tuple", "list", "object"],
)
def test_found(output):
    assert class_scores(output) is SCORES


@pytest.mark.parametrize("output", [None, {}, {"a": SCORES, "b": SCORES}, (), torch.zeros(2), "text"])
def test_refused(output):
    with pytest.raises(ShapeError, match=r"scores of shape \(batch, classes\)"):
        class_scores(output)
