"""Search random networks for one on which liveness is unsound or compaction inexact.

    python benchmarks/random_networks.py --count 10000 --seed 0 --jobs 1 --out benchmarks/random_networks.json

Network ``n`` is always the same (tests/random_networks.py has the grammar, tests/network_checks.py the checks). Even
numbers are tiny and are also compared with a brute-force answer to "does this single weight matter?"; odd ones are
larger. One line per network goes to ``<out>.lines`` at once, and a stopped run goes on where it was; the summary
is written at the end. Exit code 1 if a network was unsound or inexact, or crashed.

Sharpness misses are listed with what may explain them. Zero patterns know whether a value is zero, and nothing else:

- *sign*: ``relu(-x**2)`` is zero although no entry of it has to be;
- *cancellation*: ``x - x`` is zero, also where the second x was permuted by an identity or cropped by nothing;
- *invariance*: a shift before a norm or a score before a softmax over one entry changes nothing.
"""

from __future__ import annotations

import argparse
import collections
import gc
import json
import os
import platform
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from rotated_relu.core.run_directory import write_json
from support import network_checks
from support.random_networks import THRESHOLD, Program, RandomNetwork, example_inputs

TINY, LARGE = (1, 5), (4, 14)
REASONS = {
    "sign": {"number", "plain", "reduce", "constant", "rotated", "conv_gate", "inverted", "mlp"},
    "cancellation": {"add"},
    "invariance": {"norm", "attention", "plain", "reduce"},
}


def one(number: int) -> dict[str, Any]:
    """Build network ``number`` and check it; everything that is not as it should be, with its program."""
    torch.set_num_threads(1)
    tiny = number % 2 == 0
    program = Program.from_seed(number, TINY if tiny else LARGE)
    line: dict[str, Any] = {"number": number, "tiny": tiny}
    started = time.time()
    try:
        net = RandomNetwork(program)
        verdict = network_checks.check(net, example_inputs(program, batch=3, seed=1), THRESHOLD, sharp=tiny)
        line |= {key: value for key, value in asdict(verdict).items() if value}
        line["operations"] = sorted({op for op, _ in program.steps})
    except Exception as error:
        line["crashed"] = f"{type(error).__name__}: {error}"[:400]
        line["where"] = traceback.format_exc().splitlines()[-3:]
    line["seconds"] = round(time.time() - started, 3)
    if set(line) & {"crashed", "unsound", "inexact", "refused", "misses", "retried"}:
        line["program"] = program.to_json()
    return line


def run(numbers: list[int], jobs: int, lines: Path) -> None:
    """Check networks that have no line yet."""
    started, done, bad = time.time(), 0, 0
    gc.freeze()  # torch's own objects need not be searched after every export: a sixth of the time
    with lines.open("a") as file, ProcessPoolExecutor(jobs) as pool:
        results = map(one, numbers) if jobs == 1 else pool.map(one, numbers, chunksize=8)
        for line in results:
            file.write(json.dumps(line) + "\n")
            file.flush()
            done += 1
            if set(line) & {"crashed", "unsound", "inexact", "refused"}:
                bad += 1
                print(json.dumps(line), flush=True)
            if done % 100 == 0:
                pace = (time.time() - started) / done
                print(f"{done}/{len(numbers)}, {bad} bad, {pace:.2f} s each", flush=True)


def read(lines: Path, numbers: set[int]) -> list[dict[str, Any]]:
    """The lines of a run; a line that was cut off by a kill is dropped."""
    found = {}
    for text in lines.read_text().splitlines() if lines.exists() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if line["number"] in numbers:
            found[line["number"]] = line
    return [found[number] for number in sorted(found)]


def summary(lines: list[dict[str, Any]], command: str) -> dict[str, Any]:
    """Counts, and every failure with its program."""
    tiny = [line for line in lines if line["tiny"]]
    failures = [line for line in lines if set(line) & {"crashed", "unsound", "inexact", "refused"}]
    misses = [
        {
            "number": line["number"],
            "entries": line["misses"],
            "may be": [why for why, operations in REASONS.items() if operations & set(line["operations"])] or ["none"],
            "program": line["program"],
        }
        for line in lines
        if "misses" in line
    ]  # fmt: skip
    parameters = [line["parameters"] for line in lines if "parameters" in line]
    macs = [line["macs"] for line in lines if "macs" in line]
    refused = collections.Counter(line["refused"].partition(":")[0] for line in lines if "refused" in line)
    operations = collections.Counter(op for line in lines for op in line.get("operations", []))
    unhandled = collections.Counter(name for line in lines for name in line.get("unhandled", {}))
    return {
        "command": command,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "processor": f"{platform.machine()}, {os.cpu_count()} cores; one thread per network, float64",
        "seconds_per_network": round(sum(line["seconds"] for line in lines) / max(len(lines), 1), 3),
        "networks": len(lines),
        "sound": sum("unsound" not in line and "crashed" not in line for line in lines),
        "exact": sum(not set(line) & {"inexact", "crashed", "refused"} for line in lines),
        "refused": dict(refused),
        "crashed": sum("crashed" in line for line in lines),
        "compared_with_brute_force": len(tiny),
        "sharp": len(tiny) - len(misses),
        "largest_relative_difference": max((line.get("certificate", 0.0) for line in lines), default=0.0),
        "parameters": {"before": sum(p[0] for p in parameters), "after": sum(p[1] for p in parameters),
                       "alive": sum(p[2] for p in parameters)},
        "macs": {"before": sum(m[0] for m in macs), "after": sum(m[1] for m in macs)},
        "modules_kept_at_full_width_after_a_failure": sum("retried" in line for line in lines),
        "of_these_after_a_difference": sum(
            any("differs" in text for text in line.get("retried", [])) for line in lines
        ),
        "operations": dict(sorted(operations.items())),
        "operations_without_a_liveness_rule": dict(unhandled),
        "failures": failures,
        "sharpness_misses": misses,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000, help="how many networks")
    parser.add_argument("--seed", type=int, default=0, help="number of the first")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/random_networks.json"))
    parser.add_argument("--program", help="check one program, as printed for a failure, and stop")
    options = parser.parse_args()
    if options.program:
        program = Program.from_json(options.program)
        net = RandomNetwork(program)
        print(net, *net.calls, sep="\n")
        print(network_checks.check(net, example_inputs(program, batch=3, seed=1), THRESHOLD))
        return 0
    numbers = range(options.seed, options.seed + options.count)
    lines = Path(f"{options.out}.lines")
    known = {line["number"] for line in read(lines, set(numbers))}
    print(f"{len(known)} of {options.count} networks are done", flush=True)
    run([number for number in numbers if number not in known], options.jobs, lines)
    command = f"python benchmarks/random_networks.py --count {options.count} --seed {options.seed}"
    result = summary(read(lines, set(numbers)), command)
    write_json(options.out, result)
    print(
        json.dumps({key: value for key, value in result.items() if isinstance(value, (int, float))}, indent=1)
    )
    return int(any(set(line) & {"crashed", "unsound", "inexact"} for line in result["failures"]))


if __name__ == "__main__":
    sys.exit(main())
