"""Networks of other people's own files, from trained weights to a page, with one command each.

    python benchmarks/shrink_third_party.py                      # all four, into results/shrink-third-party
    python benchmarks/shrink_third_party.py --only mnist_example --epochs 5

Four files with a function ``build`` (``tests/support/third_party.py``): PyTorch's own example for MNIST, whose root
calls ``F.relu``; a residual network with functions in blocks and root that returns a dictionary; the ResNet of Hugging
Face, which returns an object; timm's ResNet with squeeze-excite and SiLU. Each is trained on the bundled digits by a
loop that knows nothing of this library, its weights are saved with ``torch.save``, and ``rotated-relu shrink`` does the
rest, in a process and a folder of its own. Kept of each: the command with what it printed, ``summary.json`` and
``metrics.csv``. The test images are read once per network.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support.owners_network import built, train_quickly  # noqa: E402
from support.third_party import CODES  # noqa: E402

KEPT = ("summary.json", "metrics.csv")


def shrink(name: str, out: Path, trained: int, epochs: int, keep: float) -> None:
    """Train a network, shrink it, and keep what was found."""
    command = [
        "rotated-relu", "shrink", "--model", f"{name}.py:build", "--weights", "weights.pt", "--data", "mnist5k",
        "--keep-macs", f"{keep:g}", "--epochs", str(epochs), "--out", "run", "--progress", "lines",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        (place / f"{name}.py").write_text(CODES[name], encoding="utf-8")
        torch.save(train_quickly(built(CODES[name]), trained, lr=2e-3).state_dict(), place / "weights.pt")
        program = [sys.executable, "-m", "rotated_relu.cli", *command[1:]]
        done = subprocess.run(program, cwd=place, capture_output=True, text=True, check=False)
        target = out / name
        target.mkdir(parents=True, exist_ok=True)
        printed = (done.stdout + done.stderr).replace(str(place), "FOLDER")
        (target / "log.txt").write_text(f"$ {shlex.join(command)}\n{printed}exit status {done.returncode}\n")
        for file in KEPT:
            if (place / "run" / file).is_file():
                text = (place / "run" / file).read_text(encoding="utf-8").replace(str(place), "FOLDER")
                (target / file).write_text(text, encoding="utf-8")
    print(
        (target / "log.txt").read_text().splitlines()[0], done.stdout.splitlines()[-12:], sep="\n", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=CODES, default=list(CODES))
    parser.add_argument("--trained", type=int, default=15, help="epochs of the original")
    parser.add_argument("--epochs", type=int, default=20, help="epochs of shrink, in all")
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "shrink-third-party")
    options = parser.parse_args()
    for name in options.only:
        shutil.rmtree(options.out / name, ignore_errors=True)
        shrink(name, options.out, options.trained, options.epochs, options.keep)


if __name__ == "__main__":
    main()
