"""How long does ``rotate`` take, beside another version of this package?

    git worktree add /tmp/before v0.1.0
    python benchmarks/rotation_speed.py --before /tmp/before [--out benchmarks/rotation_speed.json]

Each version runs in a process of its own, with one thread, and both take turns: one rotation by the one, one by the
other. Seconds are those of the processor, so that other work on the machine weighs less. ``ratio`` is the median of
the ratios of such pairs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rotated_relu.core.environment import environment

ROOT = Path(__file__).parents[1]


class FunctionCalls(nn.Module):
    """Forty convolutions, each followed by a call of ``F.relu`` in the same forward."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.convs = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(40))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for conv in self.convs:
            x = conv(F.relu(x))
        return self.head(x.mean((2, 3)))


class TransformerBlock(nn.Module):
    """Attention and an MLP with a call of ``F.gelu``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norms[0](x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.down(F.gelu(self.up(self.norms[1](x))))


def transformer() -> nn.Module:
    """Twelve such blocks."""
    return nn.Sequential(
        nn.Linear(16, 192), *(TransformerBlock(192) for _ in range(12)), nn.Flatten(), nn.Linear(12288, 10)
    )


def vision(name: str, **options: object) -> Callable[[], nn.Module]:
    """A network of torchvision."""

    def build() -> nn.Module:
        from torchvision import models

        return models.get_model(name, weights=None, **options)

    return build


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "densenet121": (vision("densenet121"), (1, 3, 224, 224)),
    "resnet50": (vision("resnet50"), (1, 3, 224, 224)),
    "googlenet": (vision("googlenet", aux_logits=False, init_weights=False), (1, 3, 224, 224)),
    "inception_v3": (vision("inception_v3", aux_logits=False, init_weights=False), (1, 3, 299, 299)),
    "efficientnet_b0": (vision("efficientnet_b0"), (1, 3, 224, 224)),
    "vit_b_16": (vision("vit_b_16"), (1, 3, 224, 224)),
    "function calls": (FunctionCalls, (1, 3, 32, 32)),
    "transformer": (transformer, (1, 64, 16)),
}


def rotation(name: str) -> float:
    """Seconds of the processor that one rotation takes."""
    import rotated_relu as rr

    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    net, x = build(), torch.randn(shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = time.process_time()
        rr.rotate(net, x)
        return time.process_time() - start


def worker() -> None:
    """Rotate the networks whose names come in, one a line, and write the seconds."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(rotation(line.strip())), flush=True)


class Version:
    """A process that imports the package from one tree."""

    def __init__(self, tree: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--worker"]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def rotation(self, name: str) -> float:
        """Seconds of one rotation."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{name} failed in {self.process.args}")
        return float(json.loads(line))

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def compared(name: str, before: Version, now: Version, repeats: int) -> dict[str, object]:
    """One network, after a rotation by each that does not count."""
    before.rotation(name), now.rotation(name)
    pairs = [(before.rotation(name), now.rotation(name)) for _ in range(repeats)]
    return {
        "network": name,
        "seconds_before": round(statistics.median(one for one, _ in pairs), 3),
        "seconds": round(statistics.median(other for _, other in pairs), 3),
        "ratio": round(statistics.median(other / one for one, other in pairs), 3),
        "ratios": [round(other / one, 3) for one, other in pairs],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, help="the other version's tree, which holds src/rotated_relu")
    parser.add_argument(
        "--tree", type=Path, default=ROOT, help="this version's tree; default: where this file is"
    )
    parser.add_argument("--only", default="", help="names of networks, separated by commas")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker()
        return
    if options.before is None or not (options.before / "src" / "rotated_relu").is_dir():
        parser.error("--before needs a tree with src/rotated_relu")
    versions = [Version(options.before), Version(options.tree)]
    rows = []
    for name in options.only.split(",") if options.only else NETWORKS:
        rows.append(compared(name, *versions, options.repeats))
        print(json.dumps(rows[-1]), flush=True)
    for version in versions:
        version.close()
    found = {
        "command": "python benchmarks/rotation_speed.py --before TREE",
        "environment": environment() | {"threads": 1},
        "median_ratio": statistics.median(row["ratio"] for row in rows),
        "largest_ratio": max(row["ratio"] for row in rows),
        "rows": rows,
    }
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
