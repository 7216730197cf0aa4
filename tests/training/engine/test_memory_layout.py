"""Channels-last memory is left where oneDNN would write past its end."""

import dataclasses

import pytest
import torch
from torch import nn

from rotated_relu.training import Config, finetune
from rotated_relu.training.engine.memory_layout import with_safe_layout
from support.training_data import CONV, IMAGES

CPU = torch.device("cpu")


def laid_out(net, device=CPU, **changes):
    return with_safe_layout(Config(**changes), net, device).channels_last


@pytest.fixture
def avx2(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")


def shortcut(inputs, kernel=1, stride=2):
    return nn.Sequential(nn.Conv2d(inputs, 16, kernel, stride))


def test_strided_pointwise_layers_of_odd_widths_are_not_safe(avx2):
    assert not laid_out(shortcut(7))
    assert not laid_out(shortcut(9, stride=(1, 2)))


@pytest.mark.parametrize("net", [shortcut(8), shortcut(7, kernel=3), shortcut(7, stride=1), nn.Linear(7, 3)])
def test_others_are(avx2, net):
    assert laid_out(net)


def test_so_is_everything_elsewhere(avx2, monkeypatch):
    assert laid_out(shortcut(7), torch.device("cuda"))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert laid_out(shortcut(7))
    assert not laid_out(shortcut(7), channels_last=False)  # as asked for


def test_such_a_network_trains_in_the_plain_layout(avx2):
    """On a processor with AVX2 alone this test died, or the next one."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.last = nn.Conv2d(1, 7, 1), nn.Conv2d(7, 16, 1, 2), nn.Linear(16, 3)
            self.seen = set()

        def forward(self, x):
            y = self.first(x)
            if self.training:  # inference is sound in either layout
                self.seen.add(y.is_contiguous())
            return self.last(torch.relu(self.second(y)).mean((2, 3)))

    net = Net().to(memory_format=torch.channels_last)
    finetune(net, dataclasses.replace(CONV, epochs=1, precision="32"), IMAGES)
    assert net.seen == {True}
    assert net.second.weight.is_contiguous()
