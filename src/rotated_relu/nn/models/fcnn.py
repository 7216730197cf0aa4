"""The fully connected network 784-500-10, with slopes on its hidden activation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .blocks import activation, initialise_weights, weight_generator


class FullyConnected(nn.Module):
    """Flatten, linear, activation, linear.

    Args:
        num_classes: Number of outputs.
        rotated: Put slopes on the hidden activation.
        in_features: Values per image, channels times height times width.
        hidden: Width of the hidden layer.

    Shape:
        - Input: (N, ...) with ``in_features`` values per image.
        - Output: (N, num_classes).
    """

    def __init__(
        self, num_classes: int = 10, rotated: bool = True, in_features: int = 784, hidden: int = 500
    ) -> None:
        super().__init__()
        generator = weight_generator()
        self.fc1 = nn.Linear(in_features, hidden)
        self.act1 = activation(hidden, rotated)
        self.fc2 = nn.Linear(hidden, num_classes)
        initialise_weights(self, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Images to class scores."""
        return self.fc2(self.act1(self.fc1(torch.flatten(x, 1))))  # type: ignore[no-any-return]


def fcnn(
    num_classes: int = 10, rotated: bool = True, in_features: int = 784, hidden: int = 500
) -> FullyConnected:
    """784-500-10; 397,510 parameters, 500 slopes."""
    return FullyConnected(num_classes, rotated, in_features, hidden)
