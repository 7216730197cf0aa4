"""Channels at given positions: as PyTorch selects them, and in training without losing the memory order."""

import pytest
import torch
import torch.nn.functional as F

from rotated_relu.pruning.removal.gather import WIDEST, gather_channels

# Three channels of one image; 9 stands for the zeros that are taken to lie beside them.
CASES = [
    ("none", [2, 0], [2, 0]),
    ("last", [1, 3, 0, 3], [1, 9, 0, 9]),
    ("first", [0, 3, 1], [9, 2, 0]),
]


def made(dtype, order=torch.channels_last):
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    return x.contiguous(memory_format=order).requires_grad_()


@pytest.mark.parametrize("order", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("zero", "index", "wanted"), CASES)
def test_values_and_gradients(zero, index, wanted, dtype, order):
    x = made(dtype, order)
    y = gather_channels(x, torch.tensor(index), 1, zero)
    for position, source in enumerate(wanted):
        expected = torch.zeros_like(x[:, 0]) if source == 9 else x[:, source]
        assert torch.equal(y[:, position], expected)
    g = torch.randn_like(y)
    y.backward(g)
    for channel in range(3):
        reads = [g[:, position] for position, source in enumerate(wanted) if source == channel]
        assert torch.equal(x.grad[:, channel], reads[0] if reads else torch.zeros_like(x[:, 0]))


def test_in_training_the_memory_order_stays():
    y = gather_channels(made(torch.bfloat16), torch.tensor([2, 0]), 1)
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_under_autocast_float32_is_not_rounded():
    x = made(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = gather_channels(x, torch.tensor([1]), 1)
    assert y.dtype == torch.float32
    assert torch.equal(y[:, 0], x[:, 1])


@pytest.fixture
def rounding():
    torch.backends.mkldnn.conv.fp32_precision = "bf16"
    yield
    torch.backends.mkldnn.conv.fp32_precision = "none"


def test_where_a_convolution_rounds_it_is_a_selection(monkeypatch, rounding):
    monkeypatch.setattr(F, "conv2d", None)
    x = made(torch.float32)
    assert torch.equal(gather_channels(x, torch.tensor([1, 0]), 1), x[:, [1, 0]])


@pytest.mark.parametrize("case", ["no gradients", "wide", "rows"])
def test_elsewhere_it_is_a_selection(monkeypatch, case):
    monkeypatch.setattr(F, "conv2d", None)
    x, index = made(torch.float32), torch.tensor([1, 0])
    if case == "wide":
        x = torch.ones(1, WIDEST + 1, 2, 2).contiguous(memory_format=torch.channels_last)
    if case == "rows":
        assert torch.equal(gather_channels(torch.eye(3), index, -1), torch.eye(3)[:, [1, 0]])
        return
    with torch.set_grad_enabled(case != "no gradients"):
        assert torch.equal(gather_channels(x, index, 1), x[:, [1, 0]])


def test_what_is_captured_stays_a_selection():
    class Net(torch.nn.Module):
        def forward(self, x):
            return gather_channels(x, torch.tensor([1, 0]), 1)

    graph = torch.export.export(Net(), (made(torch.float32).detach(),)).graph
    names = {str(node.target) for node in graph.nodes}
    assert any("index_select" in name for name in names)
    assert not any("conv" in name for name in names)
