"""Float64 whatever a forward casts to."""

import torch
from torch import nn

from rotated_relu.core.state import unchanged
from rotated_relu.pruning.removal.precision import Lowest, in_float64


class Casting(nn.Module):
    """Casts in every way, and makes tensors of its own."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.constant = torch.eye(3)
        self.register_buffer("third", torch.tensor(1 / 3))

    def forward(self, x):
        y = self.layer(x.float()).half().to(torch.bfloat16).type(torch.float32) @ self.constant
        y = y + torch.zeros(3) + torch.ones(3, dtype=torch.float32) + torch.eye(3)[0]
        return torch.softmax(y, -1, dtype=torch.float32).to(x.dtype)


def by_hand(net, x):
    y = torch.nn.functional.linear(x, net.layer.weight.double(), net.layer.bias.double())
    return torch.softmax(y + 1 + torch.eye(3, dtype=torch.float64)[0], -1)


def test_every_cast_gives_float64():
    net, x = Casting(), torch.randn(2, 3, dtype=torch.float64)
    want = by_hand(net, x)
    with torch.no_grad(), unchanged(net), in_float64(net):
        found = net(x)
    assert found.dtype == torch.float64
    assert torch.allclose(found, want, rtol=1e-14, atol=0)


def test_nothing_of_it_stays():
    net = Casting()
    with torch.no_grad(), unchanged(net), in_float64(net):
        pass
    assert {value.dtype for value in [*net.parameters(), *net.buffers()]} == {torch.float32}
    assert torch.get_default_dtype() == torch.float32
    assert net(torch.ones(1, 3)).dtype == torch.float32


def test_autocast_does_nothing_in_float64():
    net, x = nn.Linear(3, 3), torch.randn(2, 3, dtype=torch.float64)
    with torch.no_grad(), unchanged(net), in_float64(net), torch.autocast("cpu", torch.bfloat16):
        assert net(x).dtype == torch.float64


def test_complex_parameters_are_widened():
    net = nn.Module()
    net.spectrum = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    with unchanged(net), in_float64(net):
        assert net.spectrum.dtype == torch.complex128
    assert net.spectrum.dtype == torch.complex64


def test_the_lowest_precision_inside_is_noted():
    with Lowest() as lowest:
        (torch.ones(2) * 2).bfloat16().float()
    assert lowest.dtype == torch.bfloat16
    with Lowest() as lowest:
        torch.ones(2) * 2
    assert lowest.dtype == torch.float32
