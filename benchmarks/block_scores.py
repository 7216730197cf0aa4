"""Do the scores of single channels say what a block of them is worth? Half and all of each activation within a branch.

    python benchmarks/block_scores.py --weights resnet20.th --data data/cifar10 [--out benchmarks/block_scores.json]

The published ResNet-20 with slopes of 1, in training mode. For each activation within a residual branch, for the half
of its channels that matters least and for all of them: the sum of the first-order scores ``E[(a dL/da)^2]``, the score
of the block as one, ``E[(sum a dL/da)^2]``, both over 40 batches of training images, and by how much the loss of 10 of
these rises without the block. Rank correlations over the activations. Nothing is trained, and no test image is read.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

import rotated_relu as rr
from rotated_relu.core.environment import environment
from rotated_relu.core.run_directory import write_json
from rotated_relu.experiments.comparison.start import base_settings
from rotated_relu.pruning.leaving_out import loss_increases
from rotated_relu.training import load_data, sample_batches
from rotated_relu.training.brought import bring, parse

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCHES, MEASURED = 40, 10
PARTS = {"half": 0.5, "all": 1.0}


def gradients(net: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """``a dL/da`` of each batch, shape (batches, channels), by slope."""
    found: dict[str, list[Tensor]] = {name: [] for name in rr.slopes(net)}
    for images, labels in batches:
        net.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        for name, slope in rr.slopes(net).items():
            assert slope.grad is not None
            found[name].append((slope * slope.grad).detach())
    return {name: torch.stack(values) for name, values in found.items()}


def losses(net: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Mean over batches."""
    return torch.stack([F.cross_entropy(net(images), labels) for images, labels in batches]).mean()


def rows(net: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> list[dict[str, Any]]:
    """One per activation within a branch and part of it."""
    products = gradients(net, batches)

    def rise(masks: dict[str, Tensor]) -> float:
        found = loss_increases(net, lambda: losses(net, batches[:MEASURED]), [((0, 0), masks)])
        return found[0, 0]

    found = []
    for name, product in ((name, product) for name, product in products.items() if "act1" in name):
        order = product.square().mean(0).argsort()
        for part, share in PARTS.items():
            gone = torch.zeros(len(order), dtype=torch.bool)
            gone[order[: round(share * len(order))]] = True
            found.append(
                {
                    "slope": name,
                    "part": part,
                    "sum_of_scores": float(product[:, gone].square().mean(0).sum()),
                    "score_of_sum": float(product[:, gone].sum(1).square().mean()),
                    "loss_increase": rise({name: gone}),
                }
            )
    return found


def options_of(text: str, out: str) -> argparse.Namespace:
    """Where the weights and the images are, and where the results go."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, default=Path(out))
    return parser.parse_args()


def published(weights: str, data: str, count: int) -> tuple[nn.Module, Tensor, list[tuple[Tensor, Tensor]]]:
    """The published ResNet-20 with slopes of 1 in training mode, an example input, and batches of training images."""
    given = {"model.name": "resnet20", "data.name": data, "data.mean": MEAN, "data.std": STD}
    config, place = base_settings(None, weights, given)
    images = load_data(config)
    assert place is not None
    net = bring(parse("resnet20", {}), place, images.num_classes, renames={"linear": "fc"})
    example = images.train.normalised(torch.arange(1))
    net = rr.rotate(net, example, init="ones").train()
    return net, example, list(sample_batches(images.train, config, count))


def main() -> None:
    options = options_of(__doc__ or "", "benchmarks/block_scores.json")
    net, _, batches = published(options.weights, options.data, BATCHES)
    found = rows(net, batches)
    correlations = {
        part: {
            score: float(
                spearmanr(
                    *([row[key] for row in found if row["part"] == part] for key in (score, "loss_increase"))
                )[0]
            )
            for score in ("sum_of_scores", "score_of_sum")
        }
        for part in PARTS
    }
    print(correlations)
    command = "python benchmarks/block_scores.py --weights resnet20.th --data data/cifar10"
    write_json(
        options.out,
        {"command": command, "environment": environment(), "rank_correlation": correlations, "rows": found},
    )


if __name__ == "__main__":
    sys.exit(main())
