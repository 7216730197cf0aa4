"""Slices of an ``nn.Sequential``: called, iterated over, beside the whole; their gates have the slopes of the whole."""

import copy

import pytest
import torch
from torch import nn

import rotated_relu as rr
from rotated_relu.core.errors import NothingRotatedWarning, RotationError
from support.rotations import IMAGE, outputs


class Features(nn.Module):
    """Four layers and two gates; ``shared``: one module in both places."""

    def __init__(self, shared):
        super().__init__()
        first = nn.ReLU()
        second = first if shared else nn.ReLU()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), first, nn.Conv2d(8, 6, 3, padding=1), second, nn.Conv2d(6, 4, 1)
        )


class BesideTheWhole(Features):
    def forward(self, x):
        return self.features[:3](x).mean() + self.features(x)


class Halves(Features):
    def forward(self, x):
        return self.features[2:](self.features[:2](x))


class LastFirst(Features):
    def forward(self, x):
        with torch.no_grad():
            wanted = self.features[2:](x.new_ones(1, 8, 2, 2)).mean()
        return self.features(x) - wanted


class Cuts(Features):
    """As a loss that compares features of several depths."""

    def forward(self, x):
        return torch.cat([self.features[:end](x).flatten(1) for end in (2, 4, 5)], 1)


class LoopAndSlice(Features):
    def forward(self, x):
        for layer in self.features[:3]:
            x = layer(x)
        return self.features[3:](x)


SHARED = [(kind, shared) for kind in (BesideTheWhole, Halves, LastFirst, Cuts) for shared in (False, True)]


@pytest.mark.parametrize(("kind", "shared"), [*SHARED, (LoopAndSlice, False)])
def test_each_gate_of_the_whole_has_its_slopes_once(kind, shared):
    net = kind(shared).eval()
    before = copy.deepcopy(net)
    rr.rotate(net, IMAGE)
    assert list(rr.slopes(net)) == ["features.1.slope", "features.3.slope"]
    torch.testing.assert_close(outputs(net, IMAGE), outputs(before, IMAGE))
    for slope in rr.slopes(net).values():
        slope.data[: len(slope) // 2] = 0.0
    small = rr.compact(net, IMAGE, threshold=1e-3).model
    torch.testing.assert_close(outputs(small, IMAGE), outputs(net, IMAGE), rtol=1e-4, atol=1e-5)


class LoopBesideTheWhole(Features):
    def forward(self, x):
        y = x
        for layer in self.features[:3]:
            y = layer(y)
        return self.features(x) + y.mean()


def test_a_gate_that_the_module_around_calls_too_has_slopes_there_and_here():
    net = LoopBesideTheWhole(False).eval()
    before = copy.deepcopy(net)
    rr.rotate(net, IMAGE)
    assert list(rr.slopes(net)) == ["features.3.slope", "features.relu_1.slope", "relu_1.slope"]
    torch.testing.assert_close(outputs(net, IMAGE), outputs(before, IMAGE))
    with torch.no_grad():
        hidden = before.features[2](2 * before.features[1](before.features[0](IMAGE)))
        wanted = before.features(IMAGE) + hidden.mean()
    rr.slopes(net)["relu_1.slope"].data.fill_(2.0)
    torch.testing.assert_close(outputs(net, IMAGE), wanted)


class OtherWidth(nn.Module):
    """A whole that reads 3 channels, and a slice from its middle that reads 5: its gate has no width of its own."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Dropout(0.0))
        self.other, self.last = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 2, 1)

    def forward(self, x):
        return self.features(x).mean() + self.last(self.features[1:](self.other(x)))


def test_a_slice_of_another_width_is_refused_by_name_and_the_advice_works():
    net = OtherWidth().eval()
    with pytest.raises(RotationError, match=r"features\.1.*8 channels.*with 5 channels too.*'features\.1'\]"):
        rr.rotate(net, IMAGE)
    assert not rr.slopes(net)
    with pytest.warns(NothingRotatedWarning):
        rr.rotate(net, IMAGE, exclude=["features.1"])
