"""Does a shrinking that is killed end as the one that never was?

    python benchmarks/kill_shrink.py [--kills 20] [--seed 0] [--out benchmarks/kill_shrink.json]

A small convolutional network (batch norm, moving average, distillation; bundled digits, four epochs) is shrunk once
undisturbed. Then it is shrunk anew and killed with SIGKILL in each phase, at a random moment of it, one phase after the
other; each time the same command goes on, and in the end both are compared byte for byte: weights, small network,
metrics, accuracies, settings, ONNX file. That is repeated until there were as many kills as asked for. What is found is
written at once; the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rotated_relu.core.environment import environment

EARLY = 0.6  # of a phase: a run that goes on has less of it left, and a machine may be faster than it was
TESTS = Path(__file__).parent.parent / "tests"
# What the shrinking says when a phase begins.
PHASES = {
    "bringing": "reading the network",
    "choosing": "choosing what goes",
    "removing": "removed and verified",
    "training on": "training the small network on",
    "exporting": "exporting the small network",
    "measuring": "measuring both networks",
    "testing": "reading the test images",
}
CODE = """
import torch
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.BatchNorm2d(16),
        nn.ReLU(), nn.Dropout(0.1), nn.Flatten(), nn.Linear(16 * 36, 10),
    )
"""
RUN = """
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
from rotated_relu.experiments.shrinking import delivery
from rotated_relu.experiments.shrinking.pipeline import shrink_run
from rotated_relu.experiments.shrinking.settings import Shrinking
delivery.ROUNDS, delivery.BATCH_SIZES = 1, (1,)
folder, out = map(Path, sys.argv[1:])
wanted = Shrinking(f"{folder}/net.py:build", f"{folder}/net.pt", "mnist5k", epochs=4, ema=0.9, precision="32")
shrink_run(wanted, out, device="cpu", say=lambda text: print(text, flush=True))
"""
MAKE = """
import sys, torch
from support.owners_network import built, train_quickly
code = open(sys.argv[1] + "/net.py").read()
torch.save(train_quickly(built(code)).state_dict(), sys.argv[1] + "/net.pt")
"""
FILES = (
    "weights.safetensors",
    "compact.safetensors",
    "compact.onnx",
    "metrics.csv",
    "config.json",
    "provenance.json",
    "evaluation.json",
)


def start(program: str, *arguments: Path) -> subprocess.Popen[str]:
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=TESTS,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=(arguments[0] / "errors.txt").open("w"),
        text=True,
    )


def phases(process: subprocess.Popen[str]) -> Iterator[tuple[str, float]]:
    """Each phase as it begins, with the time."""
    assert process.stdout is not None
    for line in process.stdout:
        for phase, begins in PHASES.items():
            if line.startswith(begins):
                yield phase, time.monotonic()


def undisturbed(folder: Path, out: Path) -> dict[str, float]:
    """Seconds that each phase lasts."""
    process = start(RUN, folder, out)
    begun = [*phases(process), ("end", time.monotonic())]
    if process.wait():
        raise failed(folder)
    times = [moment for _, moment in begun]
    return {phase: after - before for (phase, before), after in zip(begun, times[1:], strict=False)}


def killed_in(folder: Path, out: Path, phase: str, after: float) -> bool:
    """Go on with a run and kill it so many seconds after the phase began; whether it was killed."""
    process = start(RUN, folder, out)
    if any(found == phase for found, _ in phases(process)):
        time.sleep(after)
        process.send_signal(signal.SIGKILL)
    code = process.wait()
    if code not in (0, -signal.SIGKILL):
        raise failed(folder)
    return code != 0


def failed(folder: Path) -> SystemExit:
    return SystemExit(f"the shrinking in {folder} failed: {(folder / 'errors.txt').read_text()[-3000:]}")


def content(path: Path) -> str:
    """Digest of a file; safetensors writes the parts of its header in any order."""
    if path.suffix != ".safetensors":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    from safetensors import safe_open

    digest = hashlib.sha256()
    with safe_open(path, "np") as opened:
        digest.update(repr(sorted((opened.metadata() or {}).items())).encode())
        for name in sorted(opened.keys()):
            digest.update(name.encode() + opened.get_tensor(name).tobytes())
    return digest.hexdigest()


def differing(one: Path, other: Path) -> list[str]:
    return [name for name in FILES if content(one / name) != content(other / name)]


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The runs that were killed, each with its kills and what differs in the end."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--phases", nargs="*", choices=list(PHASES), default=list(PHASES))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args(arguments)
    found: list[dict[str, Any]] = json.loads(options.out.read_text())["found"] if options.out.exists() else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "net.py").write_text(CODE)
        if start(MAKE, folder).wait():
            raise failed(folder)
        lasted = undisturbed(folder, folder / "whole")
        while (done := sum(len(run["kills"]) for run in found)) < options.kills:
            drawn = random.Random(f"{options.seed}/{len(found)}")
            some = options.phases[: options.kills - done]
            found.append(one_run(folder, f"run{len(found)}", lasted, some, drawn))
            print(found[-1], flush=True)
            write(options.out, found)
    return found


def one_run(
    folder: Path, name: str, lasted: dict[str, float], some: Sequence[str], drawn: random.Random
) -> dict[str, Any]:
    """A run that is killed once in each of some phases, then finished."""
    kills = []
    for phase in some:
        after = drawn.uniform(0, EARLY * lasted[phase])
        if killed_in(folder, folder / name, phase, after):
            kills.append({"phase": phase, "seconds": round(after, 3)})
    undisturbed(folder, folder / name)
    return {"kills": kills, "different": differing(folder / "whole", folder / name)}


def write(path: Path, found: list[dict[str, Any]]) -> None:
    result = {
        "command": " ".join(["python", "benchmarks/kill_shrink.py", *sys.argv[1:]]),
        "kills": sum(len(run["kills"]) for run in found),
        "runs": len(found),
        "bitwise_equal": sum(not run["different"] for run in found),
        "found": found,
        **environment(),
    }
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    runs = main()
    print(f"{sum(not run['different'] for run in runs)} of {len(runs)} endings are bitwise equal")
