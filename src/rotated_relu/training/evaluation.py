"""Accuracy of any network on a split."""

from __future__ import annotations

import torch
from torch import nn

from ..data import Split


def evaluate_model(net: nn.Module, split: Split, batch_size: int = 500) -> float:
    """Accuracy in percent, in float32 and eval mode; the network's training flags are restored.

    Args:
        net: Takes float32 images (N, C, H, W), normalised as the split says, and returns class scores.
        split: Images and labels.
        batch_size: Images at a time.
    """
    device = next((parameter.device for parameter in net.parameters()), torch.device("cpu"))
    training = {module: module.training for module in net.modules()}
    net.eval()
    correct = 0
    try:
        with torch.inference_mode():
            for start in range(0, len(split), batch_size):
                images = split.normalised(slice(start, start + batch_size)).to(device)
                labels = split.labels[start : start + batch_size].to(device)
                correct += int((net(images).argmax(1) == labels).sum())
    finally:
        for module, was_training in training.items():
            module.training = was_training
    return 100 * correct / len(split)
