"""Which score should choose the channels? Accuracy of networks pruned by each, before fine-tuning, on trained runs.

    python benchmarks/scores.py RUN [RUN ...] [--out benchmarks/scores.json]

Each run's network is pruned to the same shares of multiply-accumulates by ``|a|`` (as published), by ``|a|`` times the
norm of the weights that read the channel, and by the first-order (Taylor) score from 40 batches of training images;
each also per multiply-accumulate that goes with the channel (``.../cost``). Validation accuracy, in percent; the test
images are not read.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from torch.nn import functional as F

from rotated_relu.core.counting import count_macs
from rotated_relu.core.environment import environment
from rotated_relu.core.run_directory import write_json
from rotated_relu.experiments.comparison.prune import RankedChannels
from rotated_relu.experiments.run_networks import Loaded, open_run
from rotated_relu.pruning.estimate import CostEstimate
from rotated_relu.pruning.importance import Scores, consumer_scores, per_cost, slope_scores, taylor_scores
from rotated_relu.training import evaluate_model, sample_batches

LEVELS = (0.1, 0.2, 0.3, 0.4)


def scores(loaded: Loaded) -> dict[str, Scores]:
    net, inputs = loaded.network("trained"), loaded.example_inputs()
    batches = sample_batches(loaded.images.train, loaded.config)
    found = {
        "slope": slope_scores(net),
        "consumer": consumer_scores(net, inputs),
        "taylor": taylor_scores(net, batches, F.cross_entropy),
    }
    saves = CostEstimate(net, inputs).saved_per_channel({}, "macs")
    return found | {f"{kind}/cost": per_cost(one, saves) for kind, one in found.items()}


def frontier(loaded: Loaded, score: Scores) -> list[dict[str, float]]:
    net, inputs = loaded.network("trained"), loaded.example_inputs()
    pruner, whole = RankedChannels(net, score, inputs), sum(count_macs(net, inputs).values())
    rows = []
    for level in LEVELS:
        small = pruner.at(level)
        if small is not None:
            saved = 1 - sum(count_macs(small, inputs).values()) / whole
            accuracy = evaluate_model(small, loaded.images.validation)
            rows.append({"level": level, "macs_saved": saved, "validation": accuracy})
    return rows


def measure(path: str) -> dict[str, Any]:
    loaded = open_run(path)
    trained = evaluate_model(loaded.network("trained"), loaded.images.validation)
    found = {name: frontier(loaded, score) for name, score in scores(loaded).items()}
    for name, rows in found.items():
        line = "  ".join(f"{row['level']:.0%} {row['validation']:.1f}" for row in rows)
        print(f"{Path(path).name:24s} {trained:.2f} {name:14s} {line}", flush=True)
    return {"run": Path(path).name, "validation": trained, "frontiers": found}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/scores.json"))
    options = parser.parse_args()
    rows = [measure(path) for path in options.runs]
    names = [Path(path).name for path in options.runs]
    command = " ".join(["python", "benchmarks/scores.py", *names])
    write_json(options.out, {"command": command, "environment": environment(), "rows": rows})


if __name__ == "__main__":
    sys.exit(main())
