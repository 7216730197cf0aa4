"""How many batches does it take to see which blocks a network needs? What is chosen by 1, 2, 4, 8 and 16 of them.

    python benchmarks/block_batches.py --weights resnet20.th --data data/cifar10 [--out benchmarks/block_batches.json]

The published ResNet-20 with slopes of 1, in training mode; widths are multiples of 8, 70 and 50 % of the
multiply-accumulates may be left. By how much the loss rises without each block is measured on each of 16 batches of
128 training images. Blocks are chosen by the mean over some of these (six draws for each number), and by the
first-order scores alone; what is chosen is judged by what the loss of 16 other batches rises by when all of it is gone.
Nothing is trained, and no test image is read.
"""

from __future__ import annotations

import random
import statistics
import sys
from typing import Any

from block_scores import gradients, losses, options_of, published
from torch import Tensor, nn

from rotated_relu.core.environment import environment
from rotated_relu.core.run_directory import write_json
from rotated_relu.pruning.estimate import CostEstimate
from rotated_relu.pruning.leaving_out import loss_increases
from rotated_relu.pruning.mask import zero_mask
from rotated_relu.pruning.steps.selector import Level, StepSelector

BATCHES, KEEPS, WIDTHS, DRAWS = 16, (0.7, 0.5), 8, 6
NUMBERS = (1, 2, 4, 8, 16)

Batch = tuple[Tensor, Tensor]


def mean_of(chosen: list[dict[Level, float]]) -> dict[Level, float]:
    """What is lost at each level, over some batches."""
    return {level: max(0.0, statistics.fmean(one[level] for one in chosen)) for level in chosen[0]}


def rows(net: nn.Module, example: Tensor, batches: list[Batch]) -> list[dict[str, Any]]:
    """One per share and rule, with what the loss of other batches rises by, draw by draw."""
    seen, others = batches[:BATCHES], batches[BATCHES:]
    scores = {name: product.square().mean(0) for name, product in gradients(net, seen).items()}
    net.zero_grad(set_to_none=True)
    selector, dead = StepSelector(CostEstimate(net, example), "macs", WIDTHS), zero_mask(net)
    levels = list(selector.levels(scores, dead))
    measured = [loss_increases(net, lambda batch=batch: losses(net, [batch]), levels) for batch in seen]
    judged: dict[bytes, float] = {}

    def rise(masks: dict[str, Tensor]) -> float:
        key = b"".join(gone.numpy().tobytes() for gone in masks.values())
        if key not in judged:
            judged[key] = loss_increases(net, lambda: losses(net, others), [((0, 0), masks)])[0, 0]
        return judged[key]

    found: list[dict[str, Any]] = []
    for keep in KEEPS:
        found.append({"keep": keep, "batches": 0, "rises": [rise(selector.choose(keep, scores, dead))]})
        for number in NUMBERS:
            draws = [random.Random(f"{number}/{draw}") for draw in range(DRAWS if number < BATCHES else 1)]
            chosen = [mean_of(draw.sample(measured, number)) for draw in draws]
            rises = [rise(selector.choose(keep, scores, dead, lost=lost)) for lost in chosen]
            found.append({"keep": keep, "batches": number, "rises": rises})
            print(found[-1], flush=True)
    return found


def main() -> None:
    options = options_of(__doc__ or "", "benchmarks/block_batches.json")
    found = rows(*published(options.weights, options.data, 2 * BATCHES))
    for row in found:
        row["mean"] = statistics.fmean(row["rises"])
    command = "python benchmarks/block_batches.py --weights resnet20.th --data data/cifar10"
    write_json(options.out, {"command": command, "environment": environment(), "rows": found})


if __name__ == "__main__":
    sys.exit(main())
