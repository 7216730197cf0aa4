"""What does a training step with slopes cost beside plain ReLU, in the naive and in the fast form?

    python benchmarks/training_speed.py [--device cpu|cuda] [--compile] [--only resnet20] [--out FILE.json]

A step: forward under bf16 autocast, channels-last, cross entropy, backward, SGD with momentum and weight decay, one
fixed batch. All variants of a network alternate, in a new random order in every round; the ratio to plain ReLU is taken
within the round, and the median over all rounds is reported. ``relu`` is the network as it comes (``nn.ReLU()``),
``relu_inplace`` the same with in-place ReLUs. With --compile, ``fast`` is compiled by ``rr.compile_training``, the
others by ``torch.compile`` as it comes, and ``relu_recomputed`` is plain ReLU compiled as ``fast`` is. Peak memory is
that of one step: on CUDA the allocator's, on the CPU the peak of the sum of all allocations and frees that torch's
profiler saw. ``saved`` counts the bytes that autograd keeps between forward and backward, parameters apart. Appends to
the file, so that repeats at different moments come together; medians are over all of them.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import rotated_relu as rr
from rotated_relu.core.run_directory import write_json
from rotated_relu.nn.models.preact import PreActBlock, PreActResNet

NETS: dict[str, Callable[[bool], nn.Module]] = {
    "wrn_16_4": lambda rotated: rr.models.wrn_16_4(rotated=rotated),
    "preact_resnet20": lambda rotated: PreActResNet(PreActBlock, 3, rotated=rotated),
    "resnet20": lambda rotated: rr.models.resnet20(rotated=rotated),
}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
VARIANTS = ("relu", "relu_inplace", "naive", "fast")
COMPILED = ("relu", "relu_recomputed", "naive", "fast")
RECOMPUTED = ("relu_recomputed", "fast")


def build(name: str, variant: str, images: torch.Tensor) -> nn.Module:
    torch.manual_seed(0)
    net = NETS[name](variant in ("naive", "fast"))
    net = net.to(images.device, memory_format=torch.channels_last).train()
    if variant == "fast":
        rr.fast_training(net, images[:2])
    if variant == "relu_inplace":
        for module in net.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = True
    return net


class Step:
    """One variant with its optimizer; ``step()`` trains on the batch, ``seconds()`` times some steps."""

    def __init__(
        self, name: str, variant: str, batch: tuple[torch.Tensor, torch.Tensor], compiled: bool
    ) -> None:
        self.images, self.labels = batch
        net = build(name, variant, self.images)
        self.optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        if compiled:
            # What the trainer does with every network, and what most people do.
            self.net = rr.compile_training(net) if variant in RECOMPUTED else torch.compile(net)
        else:
            self.net = net

    def loss(self) -> torch.Tensor:
        with torch.autocast(self.images.device.type, torch.bfloat16):
            scores = self.net(self.images)
        return F.cross_entropy(scores.float(), self.labels)

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.loss().backward()
        self.optimizer.step()

    def seconds(self, steps: int, clock: str) -> float:
        now = CLOCKS[clock]
        synchronise(self.images.device)
        start = now()
        for _ in range(steps):
            self.step()
        synchronise(self.images.device)
        return (now() - start) / steps

    def saved_bytes(self) -> int:
        """Of distinct storages that autograd keeps, parameters apart."""
        own = {p.untyped_storage().data_ptr() for p in self.net.parameters()}
        kept: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = self.loss()
        del loss
        return sum(kept.values())

    def peak_bytes(self) -> int:
        """Above what is allocated between steps: parameters, gradients and momenta do not count."""
        self.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.images.device.type == "cuda":
            synchronise(self.images.device)
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            self.step()
            synchronise(self.images.device)
            return torch.cuda.max_memory_allocated() - before
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
        ) as profile:
            self.step()
        assert profile.profiler is not None
        assert profile.profiler.kineto_results is not None
        events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
        held = peak = 0
        for event in sorted(events, key=lambda e: e.start_ns()):
            held += event.nbytes()
            peak = max(peak, held)
        return peak


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    device = torch.device(options.device)
    torch.manual_seed(1)
    images = torch.randn(options.batch_size, 3, 32, 32, device=device).contiguous(
        memory_format=torch.channels_last
    )
    labels = torch.randint(10, (options.batch_size,), device=device)
    steps = {v: Step(name, v, (images, labels), options.compile) for v in options.variants.split(",")}
    memory = {}
    for variant, one in steps.items():
        for _ in range(options.warm_up):
            one.step()
        memory[variant] = {"peak_bytes": one.peak_bytes(), "saved_bytes": one.saved_bytes()}
    order, rounds = random.Random(time.time_ns()), []
    for _ in range(options.rounds):
        names = list(steps)
        order.shuffle(names)
        rounds.append({variant: steps[variant].seconds(options.steps, options.clock) for variant in names})
    return {
        "network": name,
        "batch_size": options.batch_size,
        "compile": options.compile,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else cpu_name(),
        "threads": torch.get_num_threads(),
        "clock": options.clock,
        "torch": torch.__version__,
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load_average": Path("/proc/loadavg").read_text().split()[:3]
        if Path("/proc/loadavg").exists()
        else [],
        "command": " ".join(["python benchmarks/training_speed.py", *options.argv]),
        "memory": memory,
        "rounds": [{v: round(s, 6) for v, s in one.items()} for one in rounds],
    }


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


KEYS = ("network", "batch_size", "compile", "device", "threads", "clock")


def summarise(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Medians over all rounds of all runs that measured the same thing."""
    same: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for run in runs:
        key = tuple(run[k] for k in KEYS)
        same.setdefault(key, []).append(run)
    rows = []
    for key, group in same.items():
        rounds = [one for run in group for one in run["rounds"]]
        row: dict[str, Any] = dict(zip(KEYS, key, strict=True))
        row |= {"repeats": len(group), "rounds": len(rounds)}
        for variant in rounds[0]:
            ratios = [one[variant] / one["relu"] for one in rounds]
            memory, base = group[-1]["memory"][variant], group[-1]["memory"]["relu"]
            row[variant] = {
                "seconds": round(statistics.median(one[variant] for one in rounds), 5),
                "time_ratio": round(statistics.median(ratios), 4),
                "ratio_of_each_repeat": [
                    round(statistics.median(one[variant] / one["relu"] for one in run["rounds"]), 4)
                    for run in group
                ],
                "peak_memory_ratio": round(memory["peak_bytes"] / base["peak_bytes"], 4),
                "saved_ratio": round(memory["saved_bytes"] / base["saved_bytes"], 4)
                if base["saved_bytes"]
                else None,
            }
            if "relu_inplace" in rounds[0]:
                row[variant]["time_ratio_to_relu_inplace"] = round(
                    statistics.median(one[variant] / one["relu_inplace"] for one in rounds), 4
                )
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--compile", action="store_true", help="measure under torch.compile")
    parser.add_argument("--only", default=",".join(NETS))
    parser.add_argument("--variants", default=None, help="relu must be among them")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=1, help="steps per variant and round")
    parser.add_argument(
        "--clock",
        default="wall",
        choices=list(CLOCKS),
        help="cpu: processor time, on a machine that others use too",
    )
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/training_speed.json"))
    options = parser.parse_args()
    options.variants = options.variants or ",".join(COMPILED if options.compile else VARIANTS)
    options.argv = sys.argv[1:]
    found = json.loads(options.out.read_text()) if options.out.exists() else {"runs": []}
    for name in options.only.split(","):
        found["runs"].append(measure(name, options))
        found["summary"] = summarise(found["runs"])
        write_json(options.out, found)
        print(json.dumps(summarise([found["runs"][-1]])[0]), flush=True)


if __name__ == "__main__":
    main()
