"""Which operations of a network cost time, and what is fused into them."""

import torch
from torch import nn

import rotated_relu as rr
from rotated_relu.graph.capture import capture
from rotated_relu.pruning.latency.operations import find_operations
from support.nets import Chain, OptionA, Residual


def words(net, x, batch_size=1):
    found = find_operations(capture(net.eval(), x), batch_size)
    return [f"{op.name}: {op.geometry} {op.inputs}>{op.outputs}" for op in found]


def test_norms_slopes_and_activations_go_into_the_layer_before():
    # 12 x 12, less 2 for each 3 x 3: 10 x 10, 8 x 8, then half of it: 4 x 4.
    net = Chain()
    net.fc = nn.Linear(6 * 4 * 4, 5)
    assert words(net, torch.zeros(1, 3, 12, 12)) == [
        "conv1: conv 3x3 on 12x12 + norm + relu + slopes 3>8",
        "conv2: conv 3x3 on 10x10 + norm + relu + slopes 8>6",
        "pool: max_pool 2x2 /2 on 8x8 6>6",
        "fc: linear 96>5",
    ]


def test_an_addition_goes_into_the_layer_that_comes_last():
    assert words(Residual(), torch.zeros(2, 3, 4, 4), batch_size=2) == [
        "stem: conv 3x3 on 4x4 + relu + slopes 3>8",
        "block1.conv1: conv 3x3 on 4x4 + norm + relu + slopes 8>8",
        "block1.conv2: conv 3x3 on 4x4 + norm + add + relu + slopes 8>8",
        "block2.conv1: conv 3x3 on 4x4 + norm + relu + slopes 8>8",
        "block2.conv2: conv 3x3 on 4x4 + norm + add + relu + slopes 8>8",
        ": mean on 4x4 8>8",
        "fc: linear 8>5",
    ]


class Tokens(nn.Module):
    """Attention over 6 tokens of 8 features in 2 heads, and what goes around it in a transformer."""

    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.mlp = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8))

    def forward(self, x):
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, -1))
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(y)
        return x + self.mlp(x)


def test_tokens_are_positions_of_an_example():
    net = rr.rotate(Tokens(), torch.zeros(3, 6, 8))
    assert words(net, torch.zeros(3, 6, 8), batch_size=3) == [
        "norm: layer_norm on 6 8>8",
        "qkv: linear on 6 8>24",
        ": attention on 2x6x6 4>4",
        "out: linear on 6 + add 8>8",
        "mlp.0: linear on 6 + gelu + slopes 8>32",
        "mlp.2: linear on 6 + add 32>8",
    ]


class Odds(nn.Module):
    """What is not fused: a depthwise layer before a gate that is read twice, a concatenation, a pool, a gate alone."""

    def __init__(self):
        super().__init__()
        self.depthwise = nn.Conv2d(4, 4, (3, 1), stride=2, padding=(1, 0), groups=4)
        self.grouped = nn.Conv2d(4, 6, 1, groups=2)
        self.norm = nn.BatchNorm2d(10)
        self.scale = nn.Parameter(torch.ones(10, 1, 1))

    def forward(self, x):
        y = self.depthwise(x)
        z = torch.cat([torch.sigmoid(y) * y, self.grouped(y)], 1)
        return nn.functional.adaptive_avg_pool2d(torch.tanh(self.norm(z)) * self.scale, 2).flatten(1)


def test_what_stays_an_operation_of_its_own():
    assert words(Odds(), torch.zeros(1, 4, 8, 8)) == [
        "depthwise: depthwise conv 3x1 /2 on 8x8 4>4",
        ": activation on 4x4 + sigmoid 4>4",
        ": mul on 4x4 4>4",
        "grouped: grouped conv 1x1 on 4x4 4>6",
        ": concat on 4x4 10>10",
        "norm: batch_norm on 4x4 + tanh + slopes 10>10",
        ": average_pool 2x2 /2 on 4x4 10>10",
    ]


def test_what_does_not_depend_on_the_inputs_costs_nothing():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.fc = nn.Parameter(torch.ones(4)), nn.Linear(4, 2)

        def forward(self, x):
            return self.fc(x + torch.relu(self.table))

    assert words(Positions(), torch.zeros(1, 4)) == [": add_constant 4>4", "fc: linear 4>2"]


def test_a_shortcut_that_pads_channels_is_a_layer_which_writes_the_whole_sum():
    # The sum goes into the convolution, although the shortcut comes after it: that is no layer of the network's own.
    assert words(OptionA(), torch.zeros(1, 3, 4, 4)) == [
        "stem: conv 3x3 on 4x4 + relu + slopes 3>4",
        "conv: conv 3x3 /2 on 4x4 + add + relu + slopes 4>8",
        "shortcut: shortcut 1x1 /2 on 4x4 4>8",
        ": mean on 2x2 8>8",
        "fc: linear 8>5",
    ]


def test_with_channels_gone_it_is_the_same_layer_whatever_picks_channels_around_it():
    net = OptionA()
    with torch.no_grad():
        net.act.slope[0], net.act2.slope[1] = 0, 0
    small = rr.compact(net, torch.zeros(1, 3, 4, 4)).model
    found = {word.split(": ")[1] for word in words(small, torch.zeros(1, 3, 4, 4))}
    assert "shortcut 1x1 /2 on 4x4 3>7" in found
    assert sum(word.startswith("shortcut") for word in found) == 1


def test_zeros_around_an_image_and_zeros_that_a_layer_reads_cost_nothing():
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(6, 5, 1)

        def forward(self, x):
            y = self.conv(nn.functional.pad(x, (1, 1, 1, 1)))
            return self.last(nn.functional.pad(y, (0, 0, 0, 0, 1, 1)))

    assert words(Padded(), torch.zeros(1, 3, 4, 4)) == [
        "conv: conv 3x3 on 6x6 3>4",
        "last: conv 1x1 on 4x4 6>5",
    ]
