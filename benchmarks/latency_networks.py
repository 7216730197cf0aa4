"""The networks of the latency benchmarks, with random weights, in inference, and how many images they get at once."""

from __future__ import annotations

import torch
import torchvision

import rotated_relu as rr

OWN = ("resnet20", "resnet56", "wrn_16_4")


def batch_sizes(name: str) -> tuple[int, int]:
    return (1, 64) if name in OWN else (1, 8)


def build(name: str) -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    size = 32 if name in OWN else 320 if name == "yolov8n" else 224
    inputs = torch.randn(1, 3, size, size)
    if name in OWN:
        net = getattr(rr.models, name)()
    elif name == "yolov8n":
        from third_party import yolo

        net = rr.rotate(yolo(name)[0].eval(), inputs)
    else:
        net = rr.rotate(getattr(torchvision.models, name)(weights=None), inputs)
    with torch.no_grad():
        for slope in rr.slopes(net).values():
            slope.abs_().clamp_(min=0.1)  # those of a trained network, none of which is 0
    return net.eval(), inputs
