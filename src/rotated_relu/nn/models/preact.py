"""CIFAR pre-activation ResNets: norm and activation before each convolution.

Every activation inside a block carries slopes; the final one stays plain. Where the width changes, the
block's raw input is carried to the addition by a parameter-free shortcut (basic blocks, which also have a
norm after the stem) or by a 1x1 convolution (bottlenecks), so the residual stream itself is never multiplied
by a slope. Both choices follow from the published parameter counts.

Source: He et al., *Identity Mappings in Deep Residual Networks*, 2016; slopes as in
Nayak and Kalyani, TMLR 2024.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from .blocks import (
    ChannelPadShortcut,
    activation,
    conv1x1,
    conv3x3,
    initialise_weights,
    stages,
    weight_generator,
)

WIDTHS = (16, 32, 64)


class PreActBlock(nn.Module):
    """Twice norm, activation, 3x3 convolution; then add the shortcut."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, rotated: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.act1 = activation(in_channels, rotated)
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.act2 = activation(channels, rotated)
        self.conv2 = conv3x3(channels, channels)
        same = in_channels == channels and stride == 1
        self.shortcut = nn.Identity() if same else ChannelPadShortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, channels, H / stride, W / stride)."""
        out = self.conv1(self.act1(self.bn1(x)))
        out = self.conv2(self.act2(self.bn2(out)))
        return out + self.shortcut(x)  # type: ignore[no-any-return]


class PreActBottleneck(nn.Module):
    """Three times norm, activation, convolution (1x1, 3x3, 1x1 to four times the width); add the shortcut."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, rotated: bool) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.act1 = activation(in_channels, rotated)
        self.conv1 = conv1x1(in_channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.act2 = activation(channels, rotated)
        self.conv2 = conv3x3(channels, channels, stride)
        self.bn3 = nn.BatchNorm2d(channels)
        self.act3 = activation(channels, rotated)
        self.conv3 = conv1x1(channels, out_channels)
        same = in_channels == out_channels and stride == 1
        self.shortcut = nn.Identity() if same else conv1x1(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, 4 * channels, H / stride, W / stride)."""
        out = self.conv1(self.act1(self.bn1(x)))
        out = self.conv2(self.act2(self.bn2(out)))
        out = self.conv3(self.act3(self.bn3(out)))
        return out + self.shortcut(x)  # type: ignore[no-any-return]


class PreActResNet(nn.Module):
    """Stem, three stages of ``blocks`` blocks, norm, plain ReLU, global average pooling, linear layer.

    Args:
        block: :class:`PreActBlock` or :class:`PreActBottleneck`.
        blocks: Blocks per stage.
        num_classes: Number of outputs.
        rotated: Put slopes on every activation inside the blocks.
        in_channels: Channels of the images.

    Shape:
        - Input: (N, in_channels, H, W).
        - Output: (N, num_classes).
    """

    def __init__(
        self,
        block: type[PreActBlock] | type[PreActBottleneck],
        blocks: int,
        num_classes: int = 10,
        rotated: bool = True,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        generator = weight_generator()
        self.conv1 = conv3x3(in_channels, WIDTHS[0])
        self.bn1 = nn.BatchNorm2d(WIDTHS[0]) if block is PreActBlock else nn.Identity()
        made = partial(block, rotated=rotated)
        self.layer1, self.layer2, self.layer3 = stages(made, WIDTHS[0], WIDTHS, blocks, block.expansion)
        channels = WIDTHS[-1] * block.expansion
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        initialise_weights(self, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Images to class scores."""
        x = self.layer3(self.layer2(self.layer1(self.bn1(self.conv1(x)))))
        x = self.pool(self.relu(self.bn(x)))
        return self.fc(torch.flatten(x, 1))  # type: ignore[no-any-return]


def preact_resnet110(num_classes: int = 10, rotated: bool = True, in_channels: int = 3) -> PreActResNet:
    """Pre-activation ResNet-110 of basic blocks; 1,727,994 parameters, 3,984 slopes."""
    return PreActResNet(PreActBlock, 18, num_classes, rotated, in_channels)


def preact_resnet164(num_classes: int = 10, rotated: bool = True, in_channels: int = 3) -> PreActResNet:
    """Pre-activation ResNet-164 of bottlenecks; 1,703,258 parameters, 11,856 slopes."""
    return PreActResNet(PreActBottleneck, 18, num_classes, rotated, in_channels)
