"""``torch.einsum`` as a layer: each letter is one dimension, and goes as a whole."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import rotated_relu as rr
from rotated_relu.core.errors import NothingRemovedWarning


class Written(nn.Module):
    """Two layers in the user's notation, with one more operation on what is between them."""

    def __init__(self, first, last, between=lambda y: y):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(4, 8)), nn.Parameter(torch.randn(8))
        self.v = nn.Parameter(torch.randn(8, 3))
        self.first, self.last, self.between = first, last, between

    def forward(self, x):
        y = F.relu(torch.einsum(self.first, x, self.w) + self.b)
        return torch.einsum(self.last, self.between(y), self.v)


def half_removed(net):
    torch.manual_seed(0)
    x = torch.randn(2, 5, 4)
    rr.rotate(net.eval(), x)
    next(iter(rr.slopes(net).values())).data[::2] = 0.0
    result = rr.compact(net, x, 0.1)
    torch.testing.assert_close(result.model(x), net(x))
    return result


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("bti,if->btf", "btf,fo->bto"),
        ("bti, if -> btf", "btf,fo"),  # without an arrow: b, o, t
        ("bti,if->btf", "btf,fo->bo"),  # summed over time as well
        ("...i,if->...f", "b...f,fo->...bo"),
    ],
)
def test_both_sides_get_narrow(first, last):
    result = half_removed(Written(first, last))
    assert result.model.w.shape == (4, 4)
    assert result.model.b.shape == (4,)
    assert result.model.v.shape == (4, 3)


def test_a_letter_of_three_operands_is_one_dimension():
    class Weighted(Written):
        def forward(self, x):
            y = F.relu(torch.einsum(self.first, x, self.w) + self.b)
            return torch.einsum("btf,f,fo->bto", y, self.b, self.v)

    result = half_removed(Weighted("bti,if->btf", ""))
    assert result.model.v.shape == (4, 3)
    assert result.model.b.shape == (4,)


def test_a_diagonal_keeps_its_width_and_says_so():
    def diagonal(y):
        square = torch.einsum("btf,btg->bfg", y, y)
        return torch.einsum("bff->bf", square).unsqueeze(1)

    with pytest.warns(NothingRemovedWarning, match="has to stay.*einsum"):
        result = half_removed(Written("bti,if->btf", "btf,fo->bto", diagonal))
    assert result.model.w.shape == (4, 8)
    assert any("einsum" in entry.reason for entry in result.plan.held)
