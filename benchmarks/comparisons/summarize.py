"""Means and standard deviations over seeds of runs called KIND-seedN, and the paired difference of each kind to ReLU.

python benchmarks/comparisons/summarize.py runs/comparisons/rotated_against_relu
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rotated_relu.core.run_directory import read_json, write_json
from rotated_relu.experiments.comparison.spread import spread


def accuracies(folder: Path) -> dict[str, dict[int, float]]:
    """Test accuracies in percent, by kind and seed."""
    found: dict[str, dict[int, float]] = {}
    for path in sorted(folder.glob("*-seed*/evaluation.json")):
        kind, _, seed = path.parent.name.rpartition("-seed")
        found.setdefault(kind, {})[int(seed)] = read_json(path)["trained"]["test"]
    return found


def summary(found: dict[str, dict[int, float]], reference: str = "relu") -> dict[str, dict[str, object]]:
    """Per kind the spread of its accuracy, and that of its difference to the reference of the same seed."""
    made: dict[str, dict[str, object]] = {}
    for kind, by_seed in found.items():
        made[kind] = {"accuracy": vars(spread(list(by_seed.values())))}
        pairs = [
            by_seed[seed] - found[reference][seed] for seed in by_seed if seed in found.get(reference, {})
        ]
        if kind != reference and pairs:
            made[kind]["difference"] = vars(spread(pairs))
    return made


def main() -> None:
    folder = Path(sys.argv[1])
    found = accuracies(folder)
    result = {"test_accuracy": found, "summary": summary(found)}
    write_json(folder / "summary.json", result)
    print(json.dumps(result["summary"], indent=2))


if __name__ == "__main__":
    main()
