"""Putting slopes into models: one set per call site, keys kept, errors that name the sites."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import rotated_relu as rr
from rotated_relu.core.errors import (
    NothingRotatedWarning,
    ShapeError,
    UnknownNameError,
)

IMAGE = torch.randn(2, 3, 32, 32)


def ones(net: nn.Module) -> nn.Module:
    for slope in rr.slopes(net).values():
        slope.data.fill_(1.0)
    return net.eval()


def test_plain_sequential_is_swapped_in_place():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 900, 5), nn.GELU()
    )
    rotated = rr.rotate(net, IMAGE)
    assert rotated is net
    assert {name: len(slope) for name, slope in rr.slopes(net).items()} == {"2.slope": 4, "5.slope": 5}
    assert isinstance(net[2], rr.RotatedReLU)
    assert net[2].channel_dim == 1
    assert net[5].channel_dim == -1  # after a linear layer the features come last


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sites"),
    # ResNet-18: stem + 8 blocks x 2; ResNet-50: stem + 16 blocks x 3; VGG-16-BN: 13 convolutions + 2 linear layers
    [("resnet18", 1 + 8 * 2), ("resnet50", 1 + 16 * 3), ("vgg16_bn", 13 + 2)],
)
def test_torchvision_same_object_same_keys_same_function(name, sites):
    net = getattr(torchvision.models, name)(weights=None).eval()
    keys = set(net.state_dict())
    with torch.no_grad():
        before = net(IMAGE)
    rotated = ones(rr.rotate(net, IMAGE))
    assert rotated is net
    assert len(rr.slopes(net)) == sites
    assert keys <= set(net.state_dict())
    with torch.no_grad():
        assert torch.equal(rotated(IMAGE), before)


def test_a_module_called_twice_gets_two_sets_of_slopes():
    """torchvision's bottleneck calls one ReLU three times, with widths 64, 64 and 256."""
    net = rr.rotate(torchvision.models.resnet50(weights=None), IMAGE)
    widths = [len(slope) for name, slope in rr.slopes(net).items() if name.startswith("layer1.0.")]
    assert widths == [64, 64, 256]


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1)
        self.unused = nn.Linear(2, 2)
        self.note = "kept"

    def forward(self, x):
        x = F.dropout(F.relu(self.a(x)), 0.5, self.training)
        return torch.relu(self.b(x))


def test_functional_calls_at_the_root_are_rewritten():
    net = Functional()
    keys = list(net.state_dict())
    rotated = rr.rotate(net, IMAGE)
    assert [len(slope) for slope in rr.slopes(rotated).values()] == [4, 6]
    assert set(keys) < set(rotated.state_dict())  # also those of a module that forward never calls
    assert rotated.note == "kept"


def test_traced_dropout_still_follows_the_mode():
    torch.manual_seed(0)
    rotated = rr.rotate(Functional(), IMAGE)
    rotated.eval()
    assert torch.equal(rotated(IMAGE), rotated(IMAGE))
    rotated.train()
    assert not torch.equal(rotated(IMAGE), rotated(IMAGE))


class SharedBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())

    def forward(self, x):
        return self.block(self.block(x))


def test_a_block_called_twice_shares_weights_and_slopes():
    net = rr.rotate(SharedBlock(), IMAGE)
    assert rr.slopes(net)
    assert sum(slope.numel() for slope in rr.slopes(net).values()) == 3


def test_nothing_to_rotate_warns():
    with pytest.warns(NothingRotatedWarning):
        rr.rotate(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sigmoid()), IMAGE)


def test_rotating_twice_changes_nothing():
    net = rr.rotate(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()), IMAGE)
    slope = net[1].slope
    with pytest.warns(NothingRotatedWarning):
        rr.rotate(net, IMAGE)
    assert net[1].slope is slope


def test_wrong_input_is_named_before_anything_changes():
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
    with pytest.raises(ShapeError):
        rr.rotate(net, torch.randn(1, 4, 8, 8))
    assert not rr.slopes(net)


class _Optional(nn.Module):
    """One gate module called twice, and an argument that is None in practice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.act = nn.ReLU()

    def forward(self, x, extra=None):
        y = self.act(self.conv(x))
        if extra is not None:
            y = y + extra
        return self.act(self.conv(y))


class _Caller(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = _Optional()

    def forward(self, x):
        return self.inner(x)


def test_an_argument_that_is_none_stays_none_in_a_rewritten_forward():
    net = rr.rotate(_Caller(), torch.zeros(1, 3, 4, 4))
    assert len(rr.slopes(net)) == 2
    assert net(torch.randn(2, 3, 4, 4)).shape == (2, 3, 4, 4)


class _ListUser(nn.Module):
    """Takes a list of tensors and assigns to its entries, as HRNet's exchange units do."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)])
        self.act = nn.ReLU()

    def forward(self, xs):
        for i, conv in enumerate(self.convs):
            xs[i] = self.act(conv(xs[i]))
        return xs


class _ListCaller(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = _ListUser()

    def forward(self, x):
        one, other = self.inner([x, -x])
        return one + other


def test_a_list_of_tensors_in_a_rewritten_forward():
    torch.manual_seed(0)
    net, x = _ListCaller(), torch.randn(2, 3, 4, 4)
    before = net(x)
    net = rr.rotate(net, x[:1])
    for slope in rr.slopes(net).values():
        slope.data.fill_(1.0)
    assert len(rr.slopes(net)) == 2
    torch.testing.assert_close(net(x), before)


def test_excluded_modules_keep_their_activations():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()))
    net = rr.rotate(net, torch.zeros(1, 3, 4, 4), exclude=["2"])
    assert list(rr.slopes(net)) == ["1.slope"]


def test_an_unknown_module_cannot_be_excluded():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    with pytest.raises(UnknownNameError, match="module 'layer9'"):
        rr.rotate(net, torch.zeros(1, 3, 4, 4), exclude=["layer9"])
