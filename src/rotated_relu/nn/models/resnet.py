"""CIFAR ResNets of depth 6n + 2, post-activation, with parameter-free shortcuts.

Both activations of every block carry slopes, the second one after the addition; the stem's ReLU stays plain.

Source: He et al., *Deep Residual Learning*, 2016, Section 4.2; slopes as in Nayak and Kalyani, TMLR 2024.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .blocks import ChannelPadShortcut, activation, conv1x1, conv3x3, initialise_weights, weight_generator

WIDTHS = (16, 32, 64)


class BasicBlock(nn.Module):
    """conv, norm, activation, conv, norm, add the shortcut, activation."""

    def __init__(
        self, in_channels: int, channels: int, stride: int, rotated: bool, projection: bool = False
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = activation(channels, rotated)
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        same = in_channels == channels and stride == 1
        self.shortcut: nn.Module = nn.Identity()
        if not same:
            shortcut = _projection if projection else ChannelPadShortcut
            self.shortcut = shortcut(in_channels, channels, stride)
        self.act2 = activation(channels, rotated)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, channels, H / stride, W / stride)."""
        out = self.act1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.act2(out + self.shortcut(x))  # type: ignore[no-any-return]


class CifarResNet(nn.Module):
    """Stem, one stage of ``blocks`` basic blocks per width, global average pooling, linear layer.

    Args:
        blocks: Blocks per stage; the depth is ``6 * blocks + 2``.
        num_classes: Number of outputs.
        rotated: Put slopes on both activations of every block.
        in_channels: Channels of the images.
        widths: Channels of the stages; the stem has as many as the first.
        rotate_stem: Put slopes on the stem's activation as well; the paper leaves it plain.
        projection: Between stages use 1x1 convolutions as shortcuts ("option B"), which let each stage have widths of
            its own, instead of padding.

    Shape:
        - Input: (N, in_channels, H, W).
        - Output: (N, num_classes).
    """

    def __init__(
        self,
        blocks: int,
        num_classes: int = 10,
        rotated: bool = True,
        in_channels: int = 3,
        widths: tuple[int, ...] = WIDTHS,
        *,
        rotate_stem: bool = False,
        projection: bool = False,
    ) -> None:
        super().__init__()
        generator = weight_generator()
        self.conv1 = conv3x3(in_channels, widths[0])
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = activation(widths[0], rotated and rotate_stem)
        channels = widths[0]
        for stage, width in enumerate(widths, start=1):
            stride = 1 if stage == 1 else 2
            setattr(self, f"layer{stage}", _stage(channels, width, blocks, stride, rotated, projection))
            channels = width
        self.stages = len(widths)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        initialise_weights(self, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Images to class scores."""
        x = self.relu(self.bn1(self.conv1(x)))
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(torch.flatten(self.pool(x), 1))  # type: ignore[no-any-return]


def _projection(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(conv1x1(in_channels, channels, stride), nn.BatchNorm2d(channels))


def _stage(
    in_channels: int, channels: int, blocks: int, stride: int, rotated: bool, projection: bool
) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride, rotated, projection)
    rest = [BasicBlock(channels, channels, 1, rotated) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


def resnet20(
    num_classes: int = 10, rotated: bool = True, in_channels: int = 3, projection: bool = False
) -> CifarResNet:
    """ResNet-20; 269,722 parameters, 672 slopes."""
    return CifarResNet(3, num_classes, rotated, in_channels, projection=projection)


def resnet32(
    num_classes: int = 10, rotated: bool = True, in_channels: int = 3, projection: bool = False
) -> CifarResNet:
    """ResNet-32; 464,154 parameters, 1,120 slopes."""
    return CifarResNet(5, num_classes, rotated, in_channels, projection=projection)


def resnet44(
    num_classes: int = 10, rotated: bool = True, in_channels: int = 3, projection: bool = False
) -> CifarResNet:
    """ResNet-44; 658,586 parameters, 1,568 slopes."""
    return CifarResNet(7, num_classes, rotated, in_channels, projection=projection)


def resnet56(
    num_classes: int = 10, rotated: bool = True, in_channels: int = 3, projection: bool = False
) -> CifarResNet:
    """ResNet-56; 853,018 parameters, 2,016 slopes."""
    return CifarResNet(9, num_classes, rotated, in_channels, projection=projection)


def resnet110(
    num_classes: int = 10, rotated: bool = True, in_channels: int = 3, projection: bool = False
) -> CifarResNet:
    """ResNet-110; 1,727,962 parameters, 4,032 slopes."""
    return CifarResNet(18, num_classes, rotated, in_channels, projection=projection)
