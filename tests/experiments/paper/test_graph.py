import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rotated_relu.experiments.paper.graph import paper_layers
from rotated_relu.nn.activation import Rotated, RotatedReLU
from rotated_relu.nn.models.registry import create
from support.paper_networks import cifar_resnet_layers, fcnn_layers, wrn_layers


def shapes(layers):
    """Everything but the name, in an order that does not depend on the list's."""
    return sorted(
        (
            layer.before,
            layer.after,
            layer.kernel_area,
            layer.positions,
            layer.inputs,
            layer.outputs,
            layer.writes_stream,
        )
        for layer in layers
    )


def with_classes(network):
    """Append the classes as the last 'activation', as the published lists do."""
    last = len(network.widths)
    return [
        layer if layer.after is not None else type(layer)(**{**vars(layer), "after": last})
        for layer in network.layers
    ]


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("fcnn", (1, 28, 28), fcnn_layers()),
        ("resnet20", (3, 32, 32), cifar_resnet_layers(20)),
        ("wrn_16_4", (3, 32, 32), wrn_layers(16, 4)),
    ],
)
def test_the_papers_networks_from_their_graphs(name, size, expected):
    network = paper_layers(create(name, num_classes=10, rotated=True), torch.randn(2, *size))
    layers, widths = expected
    assert [*network.widths, 10] == widths
    assert shapes(with_classes(network)) == shapes(layers)


def test_alive_counts_follow_the_threshold():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), RotatedReLU(4), nn.Conv2d(4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(18, 5)
    )
    with torch.no_grad():
        net[1].slope.copy_(torch.tensor([0.5, -0.05, 0.0, -1.0]))

    network = paper_layers(net, torch.randn(2, 3, 5, 5), threshold=0.1)

    assert network.names == ["1.slope", "3"]
    assert (network.alive, network.widths) == ([2, 2], [4, 2])
    count = network.count()
    # 9*3*2 + 1*2*2 + 18*5 (2 channels of 3*3); full 9*3*4 + 4*2 + 90.
    assert (count.alive_weights, count.full_weights) == (54 + 4 + 90, 108 + 8 + 90)
    assert count.alive_flops == 2 * (9 * 54 + 9 * 4 + 90)
    assert paper_layers(net, torch.randn(2, 3, 5, 5)).alive == [3, 2]  # exactly 0 is dead at any threshold


class Concatenating(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(10, 2, 1)
        self.act = RotatedReLU(4)

    def forward(self, x):
        return self.last(torch.cat([self.act(self.one(x)), F.relu(self.two(x))], 1))


def test_a_concatenation_feeds_the_sum_of_its_parts():
    net = Concatenating()
    with torch.no_grad():
        net.act.slope[:3] = 0

    network = paper_layers(net, torch.randn(1, 3, 2, 2))

    assert network.layers[-1].before == (0, 1)
    assert network.count().alive_weights == 3 * 1 + 3 * 6 + (1 + 6) * 2


def test_without_an_activation_between_two_layers_all_channels_count():
    net = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 8), Rotated(nn.GELU(), 8, -1), nn.Linear(8, 3))
    with torch.no_grad():
        net[2].slope[:6] = 0
    network = paper_layers(net, torch.randn(2, 5, 6))
    assert [layer.positions for layer in network.layers] == [5, 5, 5]
    assert network.count().alive_weights == 6 * 4 + 4 * 2 + 2 * 3
