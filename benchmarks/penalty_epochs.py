"""Does a penalty's setting mean the same for a short and a long training? Channels left after 10, 20 and 40 epochs.

    python benchmarks/penalty_epochs.py [--data cifar10] [--images 5000] [--runs DIR] [--out FILE]

ResNet-20 as `rotated-relu compare resnet20_cifar10_compare` trains it, on some of the training images (0: on all of
them), once with a budget (55 % of the multiply-accumulates) and once with an L1 pull; nothing but the number of epochs
differs. A channel is left if its slope is not zero; the pull is also read at 0.1. The command goes on where it was
stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import torch

import rotated_relu as rr
from rotated_relu.core.environment import environment
from rotated_relu.core.run_directory import write_json
from rotated_relu.experiments.comparison.methods import training_config
from rotated_relu.pruning.estimate import CostEstimate
from rotated_relu.pruning.mask import zero_mask
from rotated_relu.training import Config, fit, load_data
from rotated_relu.training.data.splits import ImageData
from rotated_relu.training.recipes import get

EPOCHS = (10, 20, 40)
VALIDATION = 2000
THRESHOLDS = (0.0, 0.1)


def penalties(base: Config, total: float, keep: float) -> dict[str, Config]:
    return {
        f"budget, keep {keep:g}": training_config(base, "budget", keep=keep),
        f"L1, total shrinkage {total:g}": training_config(base, "rotated_l1", strength=total),
    }


def fewer(images: ImageData, count: int) -> ImageData:
    """The first images, which are in random order; as they are for 0."""
    if not count:
        return images
    parts = {"train": count, "validation": VALIDATION}
    return dataclasses.replace(
        images,
        **{
            name: part.subset(torch.arange(min(size, len(part))))
            for name, size in parts.items()
            for part in [getattr(images, name)]
        },
    )


def row(config: Config, images: ImageData, run: Path) -> dict[str, Any]:
    trained = fit(config, run, images=images, progress="none")
    slopes = torch.cat([slope.detach().abs() for slope in rr.slopes(trained.net).values()])
    estimate = CostEstimate(trained.net, images.example_inputs())
    return {
        "epochs": config.epochs,
        "validation": trained.validation_accuracy,
        "macs_left": estimate.share(zero_mask(trained.net), "macs"),
        "channels": slopes.numel(),
        "left": {f"{zeta:g}": int((slopes > zeta).sum()) for zeta in THRESHOLDS},
    }


def spread(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Most minus fewest, in percent of the channels, per threshold."""
    shares = {key: [100 * r["left"][key] / r["channels"] for r in rows] for key in rows[0]["left"]}
    return {key: round(max(found) - min(found), 2) for key, found in shares.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="cifar10", help="as in rotated-relu train")
    parser.add_argument("--images", type=int, default=5000, help="training images; 0 takes all")
    parser.add_argument("--pull", type=float, default=2.0)
    parser.add_argument("--keep", type=float, default=0.55)
    parser.add_argument("--runs", type=Path, default=Path("runs/penalty-epochs"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/penalty_epochs.json"))
    options = parser.parse_args()
    recipe = get("resnet20_cifar10_compare")
    base = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, name=options.data))
    images = fewer(load_data(base), options.images)
    found: dict[str, Any] = {
        "command": f"python benchmarks/penalty_epochs.py --images {options.images}",
        "environment": environment(),
        "penalties": {},
    }
    for name, config in penalties(base, options.pull, options.keep).items():
        rows = []
        for epochs in EPOCHS:
            run = options.runs / f"{name.replace(', ', '-').replace(' ', '-')}-{epochs}"
            rows.append(row(dataclasses.replace(config, epochs=epochs), images, run))
            print(name, rows[-1], flush=True)
        found["penalties"][name] = {"rows": rows, "spread_in_points": spread(rows)}
        write_json(options.out, found)
        print(name, found["penalties"][name]["spread_in_points"], flush=True)


if __name__ == "__main__":
    sys.exit(main())
