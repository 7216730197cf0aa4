"""Accuracy of any network on a split, and batches to look at one with."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..core.arguments import checked, need_count
from ..core.errors import RotatedReLUError, ShapeError
from ..core.modules import first_line
from .config import Config
from .data.format import normalise
from .data.splits import Split
from .data.storage import StreamedSplit
from .outputs import class_scores


@checked()
def sample_batches(
    split: Split | StreamedSplit, config: Config, count: int = 40
) -> Iterator[tuple[Tensor, Tensor]]:
    """Some batches of a split as they are, normalised, without variation; drawn by the seed, or the first of a stream.

    Args:
        split: As a rule the training images.
        config: Its batch size and seed count.
        count: How many batches.
    """
    size = config.batch_size
    if isinstance(split, StreamedSplit):
        for images, labels in itertools.islice(split.batches(size), count):
            yield normalise(images, split.mean, split.std), labels
        return
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(config.seed))
    for batch in torch.split(order, size)[:count]:
        yield split.normalised(batch), split.labels[batch]


@checked()
def evaluate_model(net: nn.Module, split: Split | StreamedSplit, batch_size: int = 500) -> float:
    """Accuracy in percent, in float32 and eval mode; the network's training flags are restored.

    Args:
        net: Takes float32 images (N, C, H, W), normalised as the split says, and returns class scores,
            see :func:`~rotated_relu.training.outputs.class_scores`.
        split: Images and labels.
        batch_size: Images at a time.

    Raises:
        ShapeError: If the network does not run on the images.
        ArgumentError: If ``batch_size`` is below 1.
    """
    need_count(batch_size, "batch_size")
    device = next((parameter.device for parameter in net.parameters()), torch.device("cpu"))
    training = {module: module.training for module in net.modules()}
    net.eval()
    correct = count = 0
    try:
        with torch.inference_mode():
            for images, labels in split.batches(batch_size):
                scores = _scores(net, normalise(images.to(device), split.mean, split.std))
                correct += int((scores.argmax(1) == labels.to(device)).sum())
                count += len(labels)
    finally:
        for module, was_training in training.items():
            module.training = was_training
    return 100 * correct / count


def _scores(net: nn.Module, images: Tensor) -> Tensor:
    try:
        return class_scores(net(images))
    except (RotatedReLUError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ShapeError(
            f"the network does not run on images of shape {tuple(images.shape)}: {first_line(error)}"
        ) from error
