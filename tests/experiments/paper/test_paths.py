"""Filter-path lengths, against enumeration and against distributions derived by hand."""

import itertools
import math
from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rotated_relu.core.errors import CaptureError, ShapeError
from rotated_relu.experiments.paper.paths import Block, path_lengths, residual_blocks
from rotated_relu.nn.activation import RotatedReLU
from rotated_relu.nn.models import preact_resnet164, resnet20, wrn_16_4

IMAGE = torch.zeros(1, 3, 16, 16)


def enumerated(ways):
    """Number of paths by length, one path after the other."""
    counts = Counter(map(sum, itertools.product(*ways)))
    return [counts[length] for length in range(max(counts) + 1)] if counts else []


@pytest.mark.parametrize(
    "ways",
    [
        [],
        [[0, 3]],
        [[0, 3], [0, 5], [0, 3], [0, 1], [0, 0]],
        [[0, 7], [0], [0, 2], [0, 2]],  # one block that nothing passes
        [[0, 7], [4], [0, 2]],  # one that nothing skips
        [[0, 7], [], [0, 2]],  # one where nothing gets through
        [[0, width] for width in (16, 13, 5, 9, 3, 6, 3, 9, 3, 11, 6, 7)],
    ],
)
def test_counts_are_those_of_enumeration(ways):
    found = path_lengths(ways)
    assert found.counts == enumerated(ways)
    assert found.paths == math.prod(map(len, ways))


def test_equal_blocks_are_binomial():
    # k of n blocks of 4 filters are passed on C(n, k) paths, which have 4 k filters.
    counts = path_lengths([[0, 4]] * 10).counts
    assert counts == [math.comb(10, length // 4) if length % 4 == 0 else 0 for length in range(41)]


def test_hundreds_of_blocks_are_exact():
    found = path_lengths([[0, 64]] * 300 + [[0, 32]] * 200)
    assert found.paths == 2**500
    assert len(found.counts) == 300 * 64 + 200 * 32 + 1
    # 96 filters: one block of 64 and one of 32, or three of 32.
    assert found.counts[96] == 300 * 200 + math.comb(200, 3)
    assert found.counts[-1] == 1
    # Each block is passed on half of the paths.
    assert found.mean == (300 * 64 + 200 * 32) / 2
    assert sum(found.shares(640)) == pytest.approx(1)


def test_shares_of_bins():
    # Lengths 0, 1, 2, 3 and their paths: (1 + x)(1 + x^2) has one of each.
    found = path_lengths([[0, 1], [0, 2]])
    assert found.shares() == [0.25] * 4
    assert found.shares(3) == [0.75, 0.25]
    assert found.mean == 1.5
    assert (path_lengths([[]]).shares(), path_lengths([[]]).mean) == ([], 0.0)


def test_negative_lengths_are_refused():
    with pytest.raises(ShapeError, match="negative number of filters"):
        path_lengths([[0, 3], [0, -1]])


def slopes_of(net):
    return {name: p for name, p in net.named_parameters() if name.endswith("slope")}


def fill(net, **alive):
    """Leave so many filters alive at each activation, by the start of its name; all where none is given."""
    with torch.no_grad():
        for name, slope in slopes_of(net).items():
            slope.fill_(1.0)
            for start, left in alive.items():
                if name.startswith(start.replace("__", ".")):
                    slope[left:] = 0.01
    return net


def test_blocks_of_a_post_activation_network():
    # Each convolution has as many filters as the activation it feeds: conv1 act1, conv2 act2 (after the sum).
    net = fill(resnet20(), layer1__0__act1=5, layer1__0__act2=7, layer2__1__act2=9)
    blocks = residual_blocks(net, IMAGE, threshold=0.1)
    assert [block.name for block in blocks] == [f"layer{s}.{b}" for s in (1, 2, 3) for b in (0, 1, 2)]
    assert [block.filters for block in blocks] == [32] * 3 + [64] * 3 + [128] * 3
    assert [block.alive for block in blocks] == [12, 32, 32, 64, 41, 64, 128, 128, 128]
    assert all(block.ways == [0, block.alive] for block in blocks)
    assert path_lengths(block.ways for block in blocks).paths == 2**9


def test_a_dead_activation_on_the_branch_leaves_the_skip():
    (block, *others) = residual_blocks(fill(resnet20(), layer1__0__act1=0), IMAGE, threshold=0.1)
    assert (block.passable, block.skippable, block.ways) == (False, True, [0])
    assert path_lengths(each.ways for each in (block, *others)).paths == 2**8


def test_a_dead_activation_after_the_sum_ends_every_path():
    blocks = residual_blocks(fill(resnet20(), layer2__0__act2=0), IMAGE, threshold=0.1)
    assert blocks[3].ways == []
    assert path_lengths(block.ways for block in blocks).counts == []


@pytest.mark.slow
def test_blocks_of_a_pre_activation_network():
    # layer1.0: conv1 feeds act2 (16), conv2 act3 (16), conv3 the next block's act1 (64).
    net = fill(preact_resnet164(), layer1__1__act1=50, layer1__1__act2=0, layer1__3__act1=0)
    blocks = residual_blocks(net, torch.zeros(1, 3, 8, 8), threshold=0.1)
    assert len(blocks) == 54
    assert [block.filters for block in blocks[:2]] == [96, 96]
    assert blocks[0].alive == 16 + 16 + 50
    assert [block.ways for block in blocks[:5]] == [[0, 82], [0], [0, 32], [0], [0, 96]]


def test_a_shortcut_that_reads_a_dead_activation_is_closed_too():
    # In a wide network the first block's 1x1 shortcut reads act1, as conv1 does.
    first = residual_blocks(fill(wrn_16_4(), layer1__0__act1=0), IMAGE, threshold=0.1)[0]
    assert (first.passable, first.skippable) == (False, False)
    assert [block.filters for block in residual_blocks(wrn_16_4(), IMAGE)] == [128] * 2 + [256] * 2 + [
        512,
        512,
    ]


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.act = nn.Linear(4, 4), nn.Linear(4, 4), RotatedReLU(4)

    def forward(self, x):
        inner = x + self.one(x)
        return x + self.two(self.act(inner))


def test_blocks_within_blocks_are_refused():
    with pytest.raises(CaptureError, match="within or beside one another"):
        residual_blocks(Nested(), torch.zeros(1, 4))


class NoBlocks(nn.Module):
    """Sums that are no residual blocks: of parallel layers, with a parameter, of an activation."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.offset = nn.Linear(4, 4), nn.Linear(4, 4), nn.Parameter(torch.ones(4))

    def forward(self, x):
        both = self.one(x) + self.two(x)
        return F.relu(both + self.offset) + 1.0 + both


def test_other_sums_are_no_blocks():
    assert residual_blocks(NoBlocks(), torch.zeros(1, 4)) == []
    assert path_lengths([]).counts == [1]


def test_a_block_says_its_open_ways():
    assert Block("a", 9, 4).ways == [0, 4]
    assert Block("a", 9, 4, skippable=False).ways == [4]
