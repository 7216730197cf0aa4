"""Does a compacted network train faster than the one that it came from, and what do its channel selections cost?

    python benchmarks/compacted_training.py [--rounds 15]

Random channels go from networks for CIFAR-10, one by one or in eights, until a share of the multiply-accumulates is
left. Timed are steps of SGD on 128 images, channels-last, in the fast form, on one thread, in seconds of the processor:
the whole network, the compacted one, and the compacted one with ``index_select`` wherever its layers select channels.
They take turns; ratios are medians over rounds. Rows that are in the file already are kept.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from rows import RowFile
from torch import nn

import rotated_relu as rr
from rotated_relu.pruning.removal import gather

OUT = Path(__file__).with_suffix(".json")
BATCH, THREADS = 128, 1
PRECISIONS = {True: "bf16", False: "32"}
CASES = [
    ("resnet20", 0.73, 1),
    ("resnet20", 0.5, 1),
    ("resnet20", 0.5, 8),
]


def compacted(name: str, keep: float, round_to: int) -> tuple[nn.Module, nn.Module]:
    """A rotated network, and what is left of it."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 32, 32)
    net = rr.rotate(getattr(rr.models, name)(), x, init="ones")
    scores = {slope: torch.rand(len(values)) for slope, values in rr.slopes(net).items()}
    steps = None if round_to == 1 else round_to
    mask = rr.select_channels(net, x, keep=keep, unit="macs", scores=scores, round_to=steps)
    return net, rr.compact(net, x, mask=mask).model


def stepper(net: nn.Module, bf16: bool) -> Callable[[], None]:
    """One step of training a copy."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(BATCH, 3, 32, 32, generator=generator).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (BATCH,), generator=generator)
    net = copy.deepcopy(net).train().to(memory_format=torch.channels_last)
    net = rr.fast_training(net, x[:2])
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            scores = net(x)
        F.cross_entropy(scores.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def seconds(step: Callable[[], None]) -> float:
    """Of the processor."""
    start = time.process_time()
    step()
    return time.process_time() - start


def measured(name: str, keep: float, round_to: int, bf16: bool, rounds: int) -> dict[str, object]:
    """What there is to say of one case."""
    net, small = compacted(name, keep, round_to)
    whole, ours, selecting = stepper(net, bf16), stepper(small, bf16), stepper(small, bf16)
    times: dict[str, list[float]] = {"whole": [], "compacted": [], "index_select": []}
    for _ in range(rounds + 2):  # the first two do not count
        times["whole"].append(seconds(whole))
        times["compacted"].append(seconds(ours))
        with mock.patch.object(gather, "_as_convolution", return_value=False):
            times["index_select"].append(seconds(selecting))
    times = {side: found[2:] for side, found in times.items()}

    def ratio(side: str) -> float:
        return round(statistics.median(a / b for a, b in zip(times[side], times["whole"], strict=True)), 3)

    return {
        "compacted_over_whole": ratio("compacted"),
        "index_select_over_whole": ratio("index_select"),
        "seconds": {side: [round(one, 4) for one in found] for side, found in times.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    file = RowFile(OUT, THREADS)
    for case in CASES:
        for bf16 in (True, False):
            key = dict(
                zip(("network", "keep", "round_to", "precision"), (*case, PRECISIONS[bf16]), strict=True)
            )
            if any(key.items() <= row.items() for row in file.rows):
                continue
            row = key | measured(*case, bf16, options.rounds)
            file.add(row)
            print(json.dumps({key: value for key, value in row.items() if key != "seconds"}), flush=True)


if __name__ == "__main__":
    main()
