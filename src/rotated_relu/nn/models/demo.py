"""The demo's network: a small post-activation residual net for 28x28 grey images."""

from __future__ import annotations

from .resnet import CifarResNet

DEMO_WIDTHS = (32, 64, 128)


def demo_resnet(num_classes: int = 10, rotated: bool = True, in_channels: int = 1) -> CifarResNet:
    """ResNet-8 of widths 32, 64, 128, shortcuts by 1x1 convolutions; every activation carries slopes."""
    return CifarResNet(1, num_classes, rotated, in_channels, DEMO_WIDTHS, rotate_stem=True, projection=True)
