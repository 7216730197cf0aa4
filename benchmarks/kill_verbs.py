"""Is anything lost when a verb is killed, whatever it was doing?

    python benchmarks/kill_verbs.py [--kills 40] [--seed 0] [--out benchmarks/kill_verbs.json]

Every verb that writes into a run is started on a copy of a finished one and killed with SIGKILL at a random moment of
the time that it takes undisturbed; verbs take turns until there are enough kills. Then:

- every file of the run can be read: JSON parses, weights load, ONNX files run, pages are whole;
- no file is gone but for those that the verb retires once its new result is in place;
- the same command, started again, ends well.

What is found is written at once; the same command goes on where it was stopped. ``benchmarks/kill.py`` asks more of
trainings: that they end bit for bit as if nothing had happened.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent.parent / "tests"
sys.path.insert(0, str(TESTS))

import torch  # noqa: E402

torch.set_num_threads(1)

from rotated_relu.core.environment import environment  # noqa: E402
from rotated_relu.core.run_directory import FILES, MADE_FROM, read_json, read_metrics  # noqa: E402
from rotated_relu.pruning.removal import read_plan  # noqa: E402
from rotated_relu.pruning.removal.checkpoint import read_tensors  # noqa: E402
from support import damaged_runs  # noqa: E402

SHORT = ("--epochs", "1", "--device", "cpu", "--progress", "none")
# Verb -> its command; RUN is a copy of a finished run, NEW a directory that it makes.
VERBS: dict[str, tuple[str, ...]] = {
    "prune": ("prune", "RUN", "--round-to", "1", "--tolerance", "5"),
    "finetune": ("finetune", "RUN", "--epochs", "2", "--device", "cpu", "--progress", "none"),
    "export": ("export", "RUN", "--no-tune"),
    "evaluate": ("evaluate", "RUN"),
    "measure": ("measure", "RUN", "--engine", "torch", "--repeats", "5"),
    "attack": ("attack", "RUN", "--images", "50", "--steps", "5", "--device", "cpu"),
    "report": ("report", "RUN"),
    "train": ("train", "fcnn_mnist", "--data", "mnist5k", "--epochs", "6", *SHORT[2:], "--out", "NEW"),
    "shrink": ("shrink", "RUN", "--keep-macs", "0.7", *SHORT, "--out", "NEW"),
    "compare": (
        "compare", "fcnn_mnist", "--data", "mnist5k", "--method", "rotated", "--level", "0.5",
        "--finetune-level", "0.5", "--finetune-epochs", "1", *SHORT, "--out", "NEW",
    ),
}  # fmt: skip
RETIRES = {"prune": MADE_FROM["compact"], "finetune": (*MADE_FROM["finetuned"], "finetune")}


def start(verb: str, place: Path) -> subprocess.Popen[str]:
    words = {"RUN": str(place / "run"), "NEW": str(place / "new")}
    process = subprocess.Popen(
        [sys.executable, str(TESTS / "support" / "killed_verb.py"), *(words.get(w, w) for w in VERBS[verb])],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=(place / "errors.txt").open("w"),
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()  # imported: what comes now is work
    return process


def unreadable(folder: Path) -> list[str]:
    """Files that are there and cannot be read."""
    found = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name.startswith(".") or path.suffix not in READERS:
            continue
        try:
            READERS[path.suffix](path)
        except Exception as error:
            found.append(f"{path.relative_to(folder)}: {type(error).__name__}: {error}")
    return found


def _weights(path: Path) -> None:
    read_tensors(path)
    if path.name.startswith(("compact", "finetuned")):
        read_plan(path)


def _graph(path: Path) -> None:
    import onnxruntime

    onnxruntime.InferenceSession(str(path))


def _page(path: Path) -> None:
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")


def _table(path: Path) -> None:
    """Every line has as many cells as the first; metrics of epochs are numbers, other tables hold names too."""
    if "metrics" in path.name:
        read_metrics(path)
    with path.open(newline="", encoding="utf-8") as file:
        assert len({len(row) for row in csv.reader(file)}) == 1


READERS: dict[str, Any] = {
    ".json": read_json,
    ".csv": _table,
    ".safetensors": _weights,
    ".onnx": _graph,
    ".html": _page,
    ".ckpt": lambda path: torch.load(path, weights_only=True),
}


def one_kill(verb: str, whole: Path, lasts: float, drawn: random.Random) -> dict[str, Any] | None:
    """Start, kill, look, start again; None if it had ended before."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        shutil.copytree(whole, place / "run")
        before = set(damaged_runs.files_of(place / "run"))
        process, after = start(verb, place), drawn.uniform(0, lasts)
        try:
            process.wait(timeout=after)
            return None
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        retired = {FILES[key][0] if key in FILES else key for key in RETIRES.get(verb, ())}
        gone = {
            name
            for name in before - set(damaged_runs.files_of(place / "run"))
            if Path(name).parts[0] not in retired
        }
        broken = unreadable(place)
        again = start(verb, place)
        _, code = again.communicate(), again.returncode
        problems = [*(f"lost {name}" for name in sorted(gone)), *broken]
        if code:
            problems.append(
                f"ends with {code} when started again: {(place / 'errors.txt').read_text()[-300:]}"
            )
        problems += [f"at the end: {one}" for one in unreadable(place)]
        return {
            "verb": verb,
            "after_seconds": round(after, 3),
            "of_seconds": round(lasts, 3),
            "problems": problems,
        }


def undisturbed(verb: str, whole: Path) -> float:
    """Seconds that the verb works."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(whole, Path(folder) / "run")
        process = start(verb, Path(folder))
        began = time.monotonic()
        process.communicate()
        if process.returncode:
            raise SystemExit(f"{verb} failed: {(Path(folder) / 'errors.txt').read_text()}")
        return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    found = json.loads(options.out.read_text())["found"] if options.out.exists() else []
    drawn, names = random.Random(f"{options.seed}/{len(found)}"), list(VERBS)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        damaged_runs.trained(whole, 500)
        lasting: dict[str, float] = {}
        while len(found) < options.kills:
            verb = names[len(found) % len(names)]
            lasts = lasting.get(verb) or undisturbed(verb, whole)
            kill = one_kill(verb, whole, lasts, drawn)
            lasting[verb] = lasts if kill else lasts * 0.9  # it had ended: this moment does not count
            if kill:
                found.append(kill)
                print(kill, flush=True)
                write(options.out, found)
    print(f"{sum(not one['problems'] for one in found)} of {len(found)} kills lost nothing")


def write(path: Path, found: list[dict[str, Any]]) -> None:
    result = {
        "command": " ".join(["python", "benchmarks/kill_verbs.py", *sys.argv[1:]]),
        "kills": len(found),
        "nothing_lost": sum(not one["problems"] for one in found),
        "found": found,
        **environment(),
    }
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
