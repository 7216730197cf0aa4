"""Splits whose sizes are an attribute of the module: the parts shrink, and the attribute with them."""

import copy

import pytest
import torch
from torch import nn

import rotated_relu as rr
from rotated_relu import RotatedReLU
from rotated_relu.core.errors import PlanError
from rotated_relu.pruning.removal import read_plan
from support import nets


class Mixed(nn.Module):
    """Each part of the channels through a convolution of its own, as in MixNet."""

    def __init__(self, parts=(5, 3)):
        super().__init__()
        self.parts = list(parts)
        self.convs = nn.ModuleList(
            nn.Conv2d(size, size, kernel, padding=kernel // 2, groups=size, bias=False)
            for size, kernel in zip(parts, (3, 5), strict=True)
        )

    def forward(self, x):
        parts = torch.split(x, self.parts, 1)
        return torch.cat([conv(part) for conv, part in zip(self.convs, parts, strict=True)], 1)


class Net(nn.Module):
    def __init__(self, mixed=Mixed):
        super().__init__()
        self.first, self.act1, self.mixed = nn.Conv2d(3, 8, 3), RotatedReLU(8), mixed()
        self.norm, self.act2, self.head = nn.BatchNorm2d(8), RotatedReLU(8), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return self.head(self.act2(self.norm(self.mixed(self.act1(self.first(x))))))


def killed(mixed=Mixed):
    torch.manual_seed(0)
    net = nets.awake(Net(mixed))
    for slope in rr.slopes(net).values():
        slope.data.fill_(1.0)
    nets.kill(net, "act2", [0, 1, 6])  # two of the first part, one of the second
    return net


def test_the_parts_shrink_with_the_attribute():
    net = killed()
    result = rr.compact(net, torch.randn(1, 3, 8, 8))
    small = result.model
    assert result.certificate.max_relative_difference <= 1e-9
    assert (net.mixed.parts, small.mixed.parts) == ([5, 3], [3, 2])
    assert [conv.groups for conv in small.mixed.convs] == [3, 2]
    assert small.first.out_channels == 5
    assert result.plan.held == []
    images = torch.randn(3, 3, 9, 12)
    torch.testing.assert_close(small(images), net(images), rtol=1e-5, atol=1e-5)


def test_a_dead_part_keeps_one_channel():
    net = killed()
    nets.kill(net, "act2", [5, 6, 7])
    small = rr.compact(net, torch.randn(1, 3, 8, 8)).model
    assert small.mixed.parts == [3, 1]


def test_compacting_twice_and_files(tmp_path):
    once = rr.compact(killed(), torch.randn(1, 3, 8, 8))
    again = copy.deepcopy(once.model)
    nets.kill(again, "act2", [4])  # the last of the second part
    twice = rr.compact(again, torch.randn(1, 3, 8, 8))
    assert (once.model.mixed.parts, twice.model.mixed.parts) == ([3, 2], [3, 1])
    rr.save(twice, tmp_path / "net.safetensors")
    plan, _ = read_plan(tmp_path / "net.safetensors")
    (split,) = plan.splits
    assert (split.name, split.attribute, split.before, split.after) == ("mixed", "parts", [3, 2], [3, 1])
    loaded = rr.load(tmp_path / "net.safetensors", Net()).eval()
    assert loaded.mixed.parts == [3, 1]
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(loaded(images), twice.model.eval()(images))


def test_a_network_that_splits_otherwise_is_refused(tmp_path):
    rr.save(rr.compact(killed(), torch.randn(1, 3, 8, 8)), tmp_path / "net.safetensors")
    other = Net()
    other.mixed.parts = [4, 4]
    with pytest.raises(PlanError, match=r"mixed.parts is \[4, 4\] in the model, \[5, 3\] in the plan"):
        rr.load(tmp_path / "net.safetensors", other)


def test_parts_along_the_last_dimension_that_meet_again():
    class Gated(nn.Module):
        """One part gates the other two, as in MambaOut."""

        def __init__(self):
            super().__init__()
            self.sizes = (6, 4, 2)
            self.fc1, self.act, self.fc2 = nn.Linear(3, 12), RotatedReLU(6, -1), nn.Linear(6, 3)

        def forward(self, x):
            gate, one, two = torch.split(self.fc1(x), self.sizes, dim=-1)
            return self.fc2(self.act(gate) * torch.cat((one, two), -1))

    torch.manual_seed(0)
    net = Gated().eval()
    nets.kill(net, "act", [0, 1, 5])  # two of the second part, one of the third
    result = rr.compact(net, torch.randn(2, 5, 3))
    assert result.certificate.max_relative_difference <= 1e-9
    assert result.model.sizes == (3, 2, 1)
    assert result.model.fc1.weight.shape == (6, 3)
    assert result.model.fc2.weight.shape == (3, 3)


class Literal(Mixed):
    def forward(self, x):
        a, b = torch.split(x, (5, 3), 1)
        return torch.cat([self.convs[0](a), self.convs[1](b)], 1)


class Twofold(Mixed):
    """The sizes serve something else too."""

    def forward(self, x):
        return super().forward(x) * self.parts[0]


class TwoLists(Mixed):
    def __init__(self):
        super().__init__()
        self.kernels = [5, 3]


class TwoSplits(Mixed):
    def forward(self, x):
        return super().forward(super().forward(x))


@pytest.mark.parametrize("mixed", [Literal, Twofold, TwoLists, TwoSplits])
def test_where_it_is_not_clear_the_width_stays(mixed):
    net = killed(mixed)
    if mixed is Literal:
        del net.mixed.parts
    result = rr.compact(net, torch.randn(1, 3, 8, 8))
    assert result.certificate.max_relative_difference <= 1e-9
    assert [conv.groups for conv in result.model.mixed.convs] == [5, 3]
    assert getattr(result.model.mixed, "parts", [5, 3]) == [5, 3]
    assert result.plan.splits == []
