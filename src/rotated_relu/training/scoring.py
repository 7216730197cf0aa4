"""Score the channels of a trained network on its own training images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.arguments import checked
from ..pruning.estimate import CostEstimate
from ..pruning.importance import Scores, per_cost, taylor_scores
from ..pruning.leaving_out import Loss
from ..pruning.mask import zero_mask
from .config import Config
from .data.splits import ImageData
from .evaluation import sample_batches


@checked()
def loss_scores(
    net: nn.Module, images: ImageData, config: Config, example_inputs: Tensor, *, per_mac: bool = True
) -> Scores:
    """First-order scores per multiply-accumulate that goes with the channel, from some training images.

    Args:
        net: A rotated network.
        images: Of their training split 40 batches are read.
        config: Its batch size and seed count.
        example_inputs: For one forward pass.
        per_mac: False leaves the scores undivided, for what divides them by another cost.

    Raises:
        SlopeError: If there are no slopes, or some are not finite.
    """
    scores = taylor_scores(net, sample_batches(images.train, config), F.cross_entropy)
    if not per_mac:
        return scores
    return per_cost(
        scores, CostEstimate(net, example_inputs).saved_per_channel(zero_mask(net), "macs"), "macs"
    )


def sample_loss(net: nn.Module, images: ImageData, config: Config, batches: int = 4) -> Loss:
    """The loss of a network, as it is whenever this is called, on some training images: always the same ones.

    Args:
        net: Takes normalised images and returns class scores; in the mode in which it is to be judged.
        images: Of their training split some batches are read, at once.
        config: Its batch size and seed count.
        batches: How many.
    """
    drawn = list(sample_batches(images.train, config, batches))

    @torch.no_grad()
    def loss() -> Tensor:
        losses = [F.cross_entropy(net(examples), labels) for examples, labels in drawn]
        return torch.stack(losses).mean()

    return loss
