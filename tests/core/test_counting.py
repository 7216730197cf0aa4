"""Parameters, multiply-accumulates, bytes and peak memory, worked out by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rotated_relu.core.counting import count_macs, count_parameters, count_weights, file_bytes, peak_memory
from rotated_relu.core.errors import ShapeError
from support import nets


def test_macs_per_layer_for_one_example():
    # 3*3*3*8 weights at 6*6 positions, whatever the batch; 8*5.
    assert count_macs(nets.classifier(), torch.randn(4, 3, 6, 6)) == {"0": 216 * 36, "5": 40}


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 6)
        self.weight = nn.Parameter(torch.randn(3, 6))

    def forward(self, x):
        return F.linear(self.inner(x), self.weight)


class Attention(nn.Module):
    def forward(self, x):
        return F.scaled_dot_product_attention(x, x, x)


def test_macs_of_functional_calls_belong_to_the_caller():
    net = nn.Sequential(Functional(), nn.Linear(3, 2))
    assert count_macs(net, torch.randn(5, 4)) == {"0": 6 * 3, "0.inner": 4 * 6, "1": 3 * 2}


def test_macs_of_the_root_and_of_grouped_shared_and_attention_layers():
    assert count_macs(Functional(), torch.randn(5, 4)) == {"": 18, "inner": 24}
    assert count_macs(nn.Conv2d(8, 8, 3, groups=4), torch.randn(1, 8, 5, 5)) == {"": 9 * 2 * 8 * 9}
    shared = nn.Linear(4, 4)
    assert count_macs(nn.Sequential(shared, nn.ReLU(), shared), torch.randn(1, 4)) == {"0": 32}
    # Heads 2, tokens 3, features 4: scores 3*3*4 and values 3*3*4 per head.
    assert count_macs(Attention(), torch.randn(2, 2, 3, 4)) == {"": 2 * 2 * 36}
    # Batch 2, tokens 3, features 4, one head: in-projection 3*4*12, scores and values 36 each, out 3*4*4.
    layer = nn.TransformerEncoderLayer(4, 1, dim_feedforward=8, batch_first=True).eval()
    assert sum(count_macs(layer, torch.randn(2, 3, 4)).values()) == 144 + 72 + 48 + 2 * 3 * 4 * 8


def test_parameters_and_weights():
    net = nets.classifier()
    assert count_parameters(net) == (216 + 8) + (8 + 8) + (40 + 5)
    assert count_weights(net) == {"0": 216, "5": 40}


def test_file_size_is_that_of_the_safetensors_file(tmp_path):
    from safetensors.torch import save_file

    net = nets.classifier()
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    assert file_bytes(net) == (tmp_path / "net.safetensors").stat().st_size


def test_tied_and_channels_last_weights_are_stored_once():
    net = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False))
    net[1].weight = net[0].weight
    assert 64 * 64 * 4 <= file_bytes(net) < 64 * 64 * 4 + 300
    assert file_bytes(nets.classifier().to(memory_format=torch.channels_last)) == file_bytes(
        nets.classifier()
    )


def test_peak_memory_is_weights_plus_live_tensors():
    net = nn.Sequential(nn.Linear(10, 1000, bias=False), nn.ReLU(), nn.Linear(1000, 10, bias=False))
    peak, method = peak_memory(net, torch.randn(2, 10))
    # Weights 2 * 10,000; input 20; while the ReLU runs both 2,000-entry tensors live. 4 bytes each.
    assert peak == 4 * (20_000 + 20 + 2_000 + 2_000)
    assert "live tensors" in method


@pytest.mark.parametrize("count", [count_macs, peak_memory])
def test_inputs_that_do_not_fit(count):
    with pytest.raises(ShapeError):
        count(nets.classifier(), torch.randn(1, 4, 6, 6))
