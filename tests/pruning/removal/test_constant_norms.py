"""A batch norm behind a layer of which nothing is left writes one constant per channel, whatever comes in."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import rotated_relu as rr
from support import nets

SIZES = {1: (6,), 2: (5, 6), 3: (3, 4, 5)}


class Branch(nn.Module):
    """A residual branch that is added in place, as torchvision's are."""

    def __init__(self, rank=2, norm=None):
        super().__init__()
        conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[rank]
        norm = norm or {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[rank]
        self.stem, self.head = conv(3, 8, 1), conv(8, 5, 1)
        self.conv1, self.bn1, self.act1 = conv(8, 6, 3, padding=1), norm(6), rr.RotatedReLU(6)
        self.conv2, self.bn2, self.act2 = conv(6, 8, 3, padding=1, bias=False), norm(8), rr.RotatedReLU(8)

    def forward(self, x):
        shortcut = self.stem(x)
        out = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(shortcut)))))
        out += shortcut
        return self.head(self.act2(out))


def dead_branch(*args, **options):
    net = nets.awake(Branch(*args)).eval()
    nets.kill(net, "act1", list(range(6)))
    x = torch.randn(2, 3, *SIZES[args[0] if args else 2])
    return net, x, rr.compact(net, x, **options).model


class SmoothNorm(nn.BatchNorm2d):
    """A norm with a forward of its own, of which a pixel depends on its neighbours."""

    def forward(self, x):
        return F.avg_pool2d(super().forward(x), 3, 1, 1)


def computed_on(net, x):
    """Shape of what the last batch norm of a network is computed on."""
    shapes = []
    original = F.batch_norm

    def noted(value, *args, **options):
        shapes.append(tuple(value.shape))
        return original(value, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "batch_norm", noted)
        net(x)
    return shapes[-1]


@pytest.mark.parametrize("round_to", [1, 4, 8])
@pytest.mark.parametrize("rank", SIZES)
def test_it_is_computed_for_one_pixel(rank, round_to):
    net, x, small = dead_branch(rank, round_to=round_to)
    assert small.conv2.weight.numel() == 0
    # One channel of zeros is what the convolution writes, whatever the step of the widths: nobody reads them.
    assert small.conv2(small.act1(small.bn1(small.conv1(small.stem(x))))).shape == (2, 1, *SIZES[rank])
    assert computed_on(small, x) == (1, 8, *[1] * rank)
    other = torch.randn(4, 3, *(size + 2 for size in SIZES[rank]))
    torch.testing.assert_close(small(other), net(other))


def test_the_constant_is_offset_less_mean_times_factor_over_deviation():
    _, _, small = dead_branch()
    with torch.no_grad():
        small.bn2.weight[:], small.bn2.bias[:] = 3.0, 1.0
        small.bn2.running_mean[:], small.bn2.running_var[:] = 2.0, 4.0 - small.bn2.eps
    y = small.bn2(torch.zeros(2, 1, 5, 6))
    torch.testing.assert_close(y, torch.full((2, 8, 5, 6), 1.0 - 2.0 * 3.0 / 2.0))


def test_it_trains_as_the_whole_network_does():
    net, x, small = dead_branch()
    whole = copy.deepcopy(net)
    for one in (whole, small):
        one.train()
        one(x).square().sum().backward()
    torch.testing.assert_close(small.bn2.running_mean, whole.bn2.running_mean)
    torch.testing.assert_close(small.bn2.running_var, whole.bn2.running_var)
    torch.testing.assert_close(small.bn2.bias.grad, whole.bn2.bias.grad)
    torch.testing.assert_close(small.bn2.weight.grad, torch.zeros(8))


def test_in_eval_mode_its_offset_gets_the_gradient_of_all_pixels():
    net, x, small = dead_branch()
    for one in (net, small):
        one(x).square().sum().backward()
    torch.testing.assert_close(small.bn2.bias.grad, net.bn2.bias.grad)
    torch.testing.assert_close(small.bn2.weight.grad, net.bn2.weight.grad)


def test_a_norm_whose_pixels_depend_on_each_other_sees_all_of_them():
    net, x, small = dead_branch(2, SmoothNorm)
    assert small.conv2.out_channels == 1  # it reads nothing either, and is not given up
    assert computed_on(small, x) == (2, 8, 5, 6)
    torch.testing.assert_close(small(x), net(x))


def test_a_second_compaction_leaves_it_as_it_is():
    _, x, small = dead_branch()
    with pytest.warns(rr.errors.NothingRemovedWarning):
        again = rr.compact(small, x).model
    assert computed_on(again, x) == (1, 8, 1, 1)
    torch.testing.assert_close(again(x), small(x))


def test_a_trace_takes_other_batches_and_sizes():
    net, x, small = dead_branch()
    traced = torch.jit.trace(small, x)
    other = torch.randn(3, 3, 7, 9)
    torch.testing.assert_close(traced(other), net(other))
    torch.testing.assert_close(small(other[:0]), net(other[:0]))
