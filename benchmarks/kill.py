"""Does a run that is killed end as the run that never was?

    python benchmarks/kill.py [--kills 20] [--seed 0] [--out benchmarks/kill.json]

A small run (rotated WRN-16-4 on 96 images, dropout, augmentation, proximal penalty, moving average, accumulation, the
fast form, a checkpoint after every one of 32 steps) is trained once undisturbed. Then, as often as asked: started anew,
killed with SIGKILL at a random moment between its first checkpoint and its end, then started again.
Compared byte for byte: weights, slopes, metrics.csv. What is found is written at once; the same command goes on where
it was stopped.
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
from pathlib import Path

from rotated_relu.core.environment import environment

TESTS = Path(__file__).parent.parent / "tests"
RUN = """
import dataclasses, sys, torch
torch.set_num_threads(1)
from support.training_data import IMAGES, RICH
from rotated_relu.training import fit
fit(dataclasses.replace(RICH, epochs=8), sys.argv[1], images=IMAGES, progress="none", device="cpu")
"""
FILES = ("weights.safetensors", "slopes.safetensors", "metrics.csv")


def start(run: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(run)],
        cwd=TESTS,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)},
        stderr=(run.parent / "errors.txt").open("wb"),
    )


def failed(run: Path) -> SystemExit:
    return SystemExit(f"the run in {run} failed: {(run.parent / 'errors.txt').read_text()}")


def finish(run: Path) -> None:
    if start(run).wait():
        raise failed(run)


def digests(run: Path) -> dict[str, str]:
    return {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in FILES}


def first_sign(run: Path, process: subprocess.Popen[bytes]) -> float:
    """When the first checkpoint is begun, as seconds of the monotonic clock: before that there is nothing to lose."""
    while not (run / "checkpoints").exists():
        if process.poll() is not None:
            raise failed(run)
        time.sleep(0.002)
    return time.monotonic()


def position(run: Path) -> str:
    """Which checkpoint the killed run left, by its age in steps."""
    import torch

    for name in ("last.ckpt", "previous.ckpt"):
        path = run / "checkpoints" / name
        if path.exists():
            progress = torch.load(path, weights_only=True)["progress"]
            return f"epoch {progress['epoch']}, step {progress['step']}"
    return "none"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    found = json.loads(options.out.read_text())["found"] if options.out.exists() else []
    drawn = random.Random(f"{options.seed}/{len(found)}")
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        process = start(whole)
        began = first_sign(whole, process)
        if process.wait():
            raise failed(whole)
        lasted = time.monotonic() - began
        wanted = digests(whole)
        while len(found) < options.kills:
            run = Path(folder) / f"run{len(found)}"
            process = start(run)
            began = first_sign(run, process)
            time.sleep(drawn.uniform(0, lasted))
            process.send_signal(signal.SIGKILL)
            killed = process.wait() == -signal.SIGKILL
            after = time.monotonic() - began
            if not killed:  # it had ended already: this moment does not count
                lasted = min(lasted, after)
                subprocess.run(["rm", "-r", str(run)], check=True)
                continue
            left = {"after_seconds": round(after, 3), "checkpoint": position(run)}
            finish(run)
            found.append({**left, "equal": digests(run) == wanted})
            print(found[-1], flush=True)
            write(options.out, found)
    print(f"{sum(one['equal'] for one in found)} of {len(found)} endings are bitwise equal")


def write(path: Path, found: list[dict[str, object]]) -> None:
    result = {
        "command": " ".join(["python", "benchmarks/kill.py", *sys.argv[1:]]),
        "kills": len(found),
        "bitwise_equal": sum(bool(one["equal"]) for one in found),
        "found": found,
        **environment(),
    }
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
