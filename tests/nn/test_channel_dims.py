"""The dimension that holds a gate's channels, followed through what moves it, or asked for."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import rotated_relu as rr
from rotated_relu.core.errors import RotationError
from support.rotations import IMAGE

DIMS = {
    "permuted": (lambda x: x.permute(0, 2, 3, 1), 3),
    "squeezed": (lambda x: x.mean((2, 3)), 1),
    "flattened": (lambda x: x.flatten(2), 1),
    "moved": (lambda x: x.movedim(1, -1), 3),
    "first row": (lambda x: x[:, :, 0], 1),
    "stacked rows": (lambda x: x.unbind(2)[0].transpose(1, 2), 2),
    "interpolated": (lambda x: F.interpolate(x, scale_factor=2), 1),
    "pooled": (lambda x: F.max_pool2d(x, 2), 1),
    "padded": (lambda x: F.pad(x, (1, 1)), 1),
    "new axis": (lambda x: x[:, None], 2),
}


class Moved(nn.Module):
    def __init__(self, move):
        super().__init__()
        self.move, self.conv = move, nn.Conv2d(3, 5, 1)

    def forward(self, x):
        return F.relu(self.move(self.conv(x)))


@pytest.mark.parametrize("name", DIMS)
def test_channels_are_followed_through_what_moves_them(name):
    move, dim = DIMS[name]
    x = torch.randn(2, 3, 6, 8)
    net = rr.rotate(Moved(move), x)
    (slope,) = rr.slopes(net).values()
    assert slope.shape == (5,)  # no other dimension is 5 long
    assert net.relu_1.channel_dim % net(x).dim() == dim


def test_unknown_channels_are_asked_for():
    with pytest.raises(RotationError, match=r"channel_dim=\{'0': 1\}.*exclude=\['0'\]"):
        rr.rotate(nn.Sequential(nn.ReLU()), IMAGE)
    for given in (1, -3, {"0": 1}):
        net = rr.rotate(nn.Sequential(nn.ReLU()), IMAGE, channel_dim=given)
        assert [len(slope) for slope in rr.slopes(net).values()] == [3]
