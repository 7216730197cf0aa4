"""Does anything end in an exception that is not ours, touch what it should not, or lose a file?

    python benchmarks/fuzz.py [--calls 2000] [--runs 500] [--seed 0] [--out benchmarks/fuzz.json]

Two parts. Public functions are called with arguments of the wrong kind, drawn by hypothesis
(``tests/support/fuzzed_calls.py``); and every verb that reads a run is given run directories of which one file is
damaged in one of ten ways (``tests/support/damaged_runs.py``). CI runs a tenth of both (``tests/test_fuzz.py``).
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

EXPORTS = 3  # an export takes as long as all other verbs: every third damaged run is given one


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
    result: dict[str, Any] = {"command": " ".join(["python", "benchmarks/fuzz.py", *sys.argv[1:]])}
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        made, foreign = fuzzed_calls.foreign_exceptions(options.calls, Path(place), options.seed)
        result["functions"] = {"calls": made, "foreign_exceptions": foreign}
        result["runs"] = damaged(Path(place), options.runs, options.jobs)
        os.chdir("/")
    result |= environment()
    result["versions"]["hypothesis"] = version("hypothesis")
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{made} calls, {len(foreign)} exceptions that are not ours")
    print(f"{options.runs} damaged runs, {len(result['runs']['complaints'])} complaints; see {options.out}")


def tried(place: Path, case: damaged_runs.Damaged) -> tuple[int, list[str]]:
    """Verbs that one damaged run was given, and what they did wrong."""
    verbs = [verb for verb in damaged_runs.VERBS if verb != "export" or case.number % EXPORTS == 0]
    found: list[str] = []
    for verb in verbs:
        own = Path(tempfile.mkdtemp(dir=place))
        found += damaged_runs.complaints(case, verb, place / "whole", place / "other", own)
    if found:
        print("\n".join(found), flush=True)
    return len(verbs), found


def damaged(place: Path, count: int, jobs: int) -> dict[str, Any]:
    damaged_runs.trained(place / "whole", 8)
    damaged_runs.trained(place / "other", 12, verbs=False)
    whole = place / "whole"
    cases = damaged_runs.all_damaged(whole, count)
    with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        results = list(pool.map(partial(tried, place), cases))
    found = [complaint for _, complaints in results for complaint in complaints]
    return {
        "directories": len(cases),
        "files": damaged_runs.files_of(whole),
        "damages": [damage.__name__ for damage in damaged_runs.DAMAGES],
        "verbs": list(damaged_runs.VERBS),
        "verb_calls": sum(calls for calls, _ in results),
        "complaints": found,
    }


if __name__ == "__main__":
    main()
