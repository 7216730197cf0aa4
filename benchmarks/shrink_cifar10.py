"""Published CIFAR-10 networks, shrunk: each a run of ``rotated-relu shrink`` that can be stopped and taken up again.

    python benchmarks/shrink_cifar10.py --weights FOLDER --data data/cifar10               # all, one after the other
    python benchmarks/shrink_cifar10.py --weights FOLDER --only resnet20-keep-0.5-epochs-10-seed-0
    python benchmarks/shrink_cifar10.py --table                                            # what there is, as Markdown

FOLDER has ``resnet20.th`` and ``resnet56.th`` of Yerlan Idelbayev's *Proper ResNet Implementation for
CIFAR10/CIFAR100 in PyTorch*. Runs go to ``runs/shrink-cifar10``; of a finished one the summary, the curves and the log
are copied into ``results/shrink-cifar10``. The test images are read once for each network, by the command itself.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "shrink-cifar10"
RESULTS = ROOT / "results" / "shrink-cifar10"
BUDGETS = {"keep": "--keep-macs", "speedup": "--speedup"}


@dataclass(frozen=True)
class Trial:
    """One run.

    Attributes:
        network: ``resnet20`` or ``resnet56``.
        amount: Share of the multiply-accumulates that is kept, 0 to 1; of a ``speedup``, how many times as fast.
        epochs: In all.
        seed: Of order and augmentation.
        lr: Learning rate; None is the default of the command.
        kind: ``keep`` is a budget of multiply-accumulates, ``speedup`` one of time in onnxruntime at batch 64.
    """

    network: str
    amount: float
    epochs: int
    seed: int = 0
    lr: float | None = None
    kind: str = "keep"

    @property
    def name(self) -> str:
        """Of its folders, such as ``resnet20-keep-0.5-epochs-10-seed-0``."""
        rate = "" if self.lr is None else f"-lr-{self.lr:g}"
        return f"{self.network}-{self.kind}-{self.amount:g}-epochs-{self.epochs}{rate}-seed-{self.seed}"

    def command(self, weights: str, data: str, out: str) -> list[str]:
        """What is run."""
        return [
            "rotated-relu", "shrink", "--model", self.network, "--weights", weights,
            "--rename", "linear=fc", "--data", data, "--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225",
            "--validation", "500", BUDGETS[self.kind], f"{self.amount:g}", "--epochs", str(self.epochs),
            *([] if self.lr is None else ["--lr", f"{self.lr:g}"]),
            "--seed", str(self.seed), "--progress", "lines", "--out", out,
        ]  # fmt: skip


TRIALS = [
    *(Trial("resnet20", 0.5, epochs) for epochs in (5, 10, 20, 60)),
    *(Trial("resnet20", 0.5, 60, seed) for seed in (1, 2)),
    *(Trial("resnet20", 0.73, 20, seed) for seed in (0, 1, 2)),
    *(Trial("resnet56", 0.47, epochs) for epochs in (20, 40)),
    Trial("resnet20", 0.31, 10),
    Trial("resnet20", 1.5, 10, kind="speedup"),
    Trial("resnet56", 2, 20, kind="speedup"),
]


def named(name: str) -> Trial:
    """The trial of a name, among :data:`TRIALS` or not.

    Raises:
        argparse.ArgumentTypeError: If that is no name of one.
    """
    pattern = r"(resnet20|resnet56)-(keep|speedup)-([\d.]+)-epochs-(\d+)(?:-lr-([\d.]+))?-seed-(\d+)"
    found = re.fullmatch(pattern, name)
    if found is None:
        raise argparse.ArgumentTypeError(f"{name!r} is not like {TRIALS[0].name}")
    network, kind, amount, epochs, lr, seed = found.groups()
    return Trial(network, float(amount), int(epochs), int(seed), None if lr is None else float(lr), kind)


def run(trial: Trial, weights: Path, data: str) -> None:
    """Begin or go on with a trial, and keep what it found.

    Raises:
        subprocess.CalledProcessError: If the command fails; what it printed is in the log beside its run.
    """
    out, log = RUNS / trial.name, RUNS / f"{trial.name}.log"
    RUNS.mkdir(parents=True, exist_ok=True)
    file_of_weights = str(weights / f"{trial.network}.th")
    command = trial.command(file_of_weights, data, str(out))
    print(shlex.join(command), flush=True)
    with log.open("a", encoding="utf-8") as file:
        program = [sys.executable, "-m", "rotated_relu.cli", *command[1:]]
        subprocess.run(program, stdout=file, stderr=subprocess.STDOUT, check=True)
    keep_results(
        trial,
        out,
        log,
        {str(out): f"runs/{trial.name}", file_of_weights: f"{trial.network}.th", data: "cifar10"},
    )


def keep_results(trial: Trial, out: Path, log: Path, places: dict[str, str]) -> None:
    """Copy what a finished run found, with places of this machine replaced by names."""
    target = RESULTS / trial.name
    target.mkdir(parents=True, exist_ok=True)
    files = {"log.txt": log, "metrics.csv": out / "metrics.csv", "summary.json": out / "summary.json"}
    for name, source in files.items():
        text = source.read_text(encoding="utf-8")
        for place, short in places.items():
            text = text.replace(str(Path(place).resolve()), short).replace(place, short)
        (target / name).write_text(text.rstrip("\n") + "\n", encoding="utf-8")


def table() -> str:
    """All results there are, as Markdown."""
    lines = [
        "| run | test before | after | points | MACs | parameters | times as fast, batch 64 |",
        "|---|" + "--:|" * 6,
    ]
    for file in sorted(RESULTS.glob("*/summary.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        before, after = found["original_test_accuracy"], found["shrunk_test_accuracy"]
        accuracy = f"{before:.2f} % | {after:.2f} % | {after - before:+.2f}"
        size = f"{found['macs_kept']:.1%} | {found['parameters_kept']:.1%}"
        lines.append(f"| {file.parent.name} | {accuracy} | {size} | {found['latency_speedup']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, help="the folder with the two files")
    parser.add_argument("--data", default="cifar10", help="folder, or name on the Hub")
    parser.add_argument("--only", nargs="+", type=named, default=TRIALS, metavar="NAME")
    parser.add_argument("--table", action="store_true", help="print what there is")
    options = parser.parse_args()
    if options.table:
        print(table())
        return
    if options.weights is None:
        parser.error("say where the weights are: --weights FOLDER")
    for trial in options.only:
        run(trial, options.weights.resolve(), options.data)


if __name__ == "__main__":
    main()
