"""Accuracy of any network on a split."""

from __future__ import annotations

import torch
from torch import nn

from ..data import Split, normalise
from ..stored import StreamedSplit


def evaluate_model(net: nn.Module, split: Split | StreamedSplit, batch_size: int = 500) -> float:
    """Accuracy in percent, in float32 and eval mode; the network's training flags are restored.

    Args:
        net: Takes float32 images (N, C, H, W), normalised as the split says, and returns class scores.
        split: Images and labels.
        batch_size: Images at a time.
    """
    device = next((parameter.device for parameter in net.parameters()), torch.device("cpu"))
    training = {module: module.training for module in net.modules()}
    net.eval()
    correct = count = 0
    try:
        with torch.inference_mode():
            for images, labels in split.batches(batch_size):
                scores = net(normalise(images.to(device), split.mean, split.std))
                correct += int((scores.argmax(1) == labels.to(device)).sum())
                count += len(labels)
    finally:
        for module, was_training in training.items():
            module.training = was_training
    return 100 * correct / count
