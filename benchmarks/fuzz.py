"""Does anything end in an exception that is not ours, touch what it should not, or lose a file?

    python benchmarks/fuzz.py [--calls 2000] [--runs 500] [--seed 0] [--out benchmarks/fuzz.json]

With 0 calls or 0 runs the file keeps what it says of that part.

Two parts. Public functions are called with arguments of the wrong kind, drawn by hypothesis
(``tests/support/fuzzed_calls.py``); and every verb that reads a run is given run directories of which one file is
damaged in one of ten ways (``tests/support/damaged_runs.py``), as are directories of ``shrink``, ``compare`` and
``reproduce``. CI runs a tenth of both (``tests/test_fuzz.py``).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import torch

torch.set_num_threads(1)

from rotated_relu.core.environment import environment  # noqa: E402
from support import damaged_runs, fuzzed_calls  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes for the runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json").resolve())
    options = parser.parse_args()
    result: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    result |= {"command": " ".join(["python", "benchmarks/fuzz.py", *sys.argv[1:]]), **environment()}
    result["versions"]["hypothesis"] = version("hypothesis")
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        if options.runs:
            result["runs"] = damaged(Path(place), options.runs, options.jobs, options.seed)
            print(
                f"{options.runs} damaged directories, {len(result['runs']['complaints'])} complaints",
                flush=True,
            )
            options.out.write_text(json.dumps(result, indent=2) + "\n")
        if options.calls:
            made, foreign = fuzzed_calls.foreign_exceptions(options.calls, Path(place), options.seed)
            result["functions"] = {"calls": made, "foreign_exceptions": foreign}
            print(*foreign, f"{made} calls, {len(foreign)} exceptions that are not ours", sep="\n")
        os.chdir("/")
    options.out.write_text(json.dumps(result, indent=2) + "\n")


SHRINKS = 3  # to shrink further takes as long as all other verbs: every third directory is


def tried(
    wholes: dict[str, Path], other: Path, place: Path, case: damaged_runs.Damaged
) -> tuple[int, list[str]]:
    """How many verbs one damaged directory was given, and what they did wrong."""
    verbs = [verb for verb in damaged_runs.VERBS[case.kind] if verb != "shrink" or case.number % SHRINKS == 0]
    found: list[str] = []
    for verb in verbs:
        own = Path(tempfile.mkdtemp(dir=place))
        found += damaged_runs.complaints(case, verb, wholes, other, own)
    if found:
        print("\n".join(found), flush=True)
    return len(verbs), found


def damaged(place: Path, count: int, jobs: int, seed: int) -> dict[str, Any]:
    wholes = damaged_runs.finished(place / "whole", *damaged_runs.RESUMED)
    damaged_runs.trained(place / "other", 12, verbs=False)
    cases = damaged_runs.all_damaged(wholes, count, seed)
    results = []
    with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        for result in pool.map(partial(tried, wholes, place / "other", place), cases):
            results.append(result)
            if len(results) % 25 == 0:
                print(f"{len(results)} of {len(cases)} damaged directories", flush=True)
    found = [complaint for _, complaints in results for complaint in complaints]
    return {
        "directories": {kind: sum(case.kind == kind for case in cases) for kind in wholes},
        "files": {kind: damaged_runs.files_of(whole) for kind, whole in wholes.items()},
        "damages": [damage.__name__ for damage in damaged_runs.DAMAGES],
        "verbs": {kind: list(verbs) for kind, verbs in damaged_runs.VERBS.items()},
        "verb_calls": sum(calls for calls, _ in results),
        "complaints": found,
    }


if __name__ == "__main__":
    main()
