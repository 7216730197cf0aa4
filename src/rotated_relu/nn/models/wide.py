"""Wide residual networks WRN-d-k: pre-activation, dropout between the convolutions, 1x1 shortcuts.

Both activations of each block carry slopes; the final one stays plain. Where the width changes, the 1x1
shortcut reads the activated input, as the block's first convolution does.

Source: Zagoruyko and Komodakis, *Wide Residual Networks*, 2016; slopes as in Nayak and Kalyani, TMLR 2024.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from ...core.errors import ArgumentError
from .blocks import activation, conv1x1, conv3x3, initialise_weights, stages, weight_generator

STEM_WIDTH = 16


class WideBlock(nn.Module):
    """Norm, activation, convolution, norm, activation, dropout, convolution; then add the shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int, rotated: bool, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.act1 = activation(in_channels, rotated)
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.act2 = activation(channels, rotated)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv3x3(channels, channels)
        self.same = in_channels == channels and stride == 1
        self.shortcut = nn.Identity() if self.same else conv1x1(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, channels, H / stride, W / stride)."""
        active = self.act1(self.bn1(x))
        out = self.dropout(self.act2(self.bn2(self.conv1(active))))
        return self.conv2(out) + self.shortcut(x if self.same else active)  # type: ignore[no-any-return]


class WideResNet(nn.Module):
    """Stem convolution, three stages of wide blocks, norm, plain ReLU, global average pooling, linear layer.

    Args:
        depth: Number of layers, 6n + 4.
        widen: Factor on the widths 16, 32, 64 of the stages.
        num_classes: Number of outputs.
        rotated: Put slopes on both activations of every block.
        dropout: Probability of dropping a value between a block's convolutions.
        in_channels: Channels of the images.

    Shape:
        - Input: (N, in_channels, H, W).
        - Output: (N, num_classes).

    Raises:
        ValueError: If no such depth exists.
    """

    def __init__(
        self,
        depth: int,
        widen: int,
        num_classes: int = 10,
        rotated: bool = True,
        dropout: float = 0.0,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        generator = weight_generator()
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise ArgumentError(f"the depth of a wide residual network is 6n + 4 with n >= 1, got {depth}")
        self.conv1 = conv3x3(in_channels, STEM_WIDTH)
        widths = (16 * widen, 32 * widen, 64 * widen)
        block = partial(WideBlock, rotated=rotated, dropout=dropout)
        self.layer1, self.layer2, self.layer3 = stages(block, STEM_WIDTH, widths, blocks)
        channels = widths[-1]
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        initialise_weights(self, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Images to class scores."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        x = self.pool(self.relu(self.bn(x)))
        return self.fc(torch.flatten(x, 1))  # type: ignore[no-any-return]


def wrn_16_4(
    num_classes: int = 10, rotated: bool = True, dropout: float = 0.0, in_channels: int = 3
) -> WideResNet:
    """WRN-16-4; 2,748,890 parameters, 1,552 slopes."""
    return WideResNet(16, 4, num_classes, rotated, dropout, in_channels)


def wrn_40_4(
    num_classes: int = 10, rotated: bool = True, dropout: float = 0.0, in_channels: int = 3
) -> WideResNet:
    """WRN-40-4; 8,949,210 parameters, 5,136 slopes."""
    return WideResNet(40, 4, num_classes, rotated, dropout, in_channels)


def wrn_28_10(
    num_classes: int = 10, rotated: bool = True, dropout: float = 0.0, in_channels: int = 3
) -> WideResNet:
    """WRN-28-10; 36,479,194 parameters, 8,336 slopes."""
    return WideResNet(28, 10, num_classes, rotated, dropout, in_channels)
