"""How much of a bare training loop's throughput does the trainer reach?

    python benchmarks/trainer_throughput.py [--rounds 30] [--steps 4] [--model resnet20] [--device cpu]

Both train the rotated network with SGD, bf16 autocast, channels-last and the L1 on its slopes, in the fast form. The
bare loop repeats its step on one batch that lies ready. The trainer does everything that it does in a run: it gathers
images in a new order from 45,000, mirrors, shifts and normalises them, counts loss and correct answers, sets the
learning rate, looks for signals and divergence. (Per epoch, and so not here: validation, logs, checkpoint.) In every
round each does some steps, in turn; reported is the median over the rounds of trainer throughput over bare throughput,
by the clock and, since other programs may run on the same cores, by processor time too.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from torch.nn import functional as F

from rotated_relu.core.environment import device_name
from rotated_relu.nn.folding import fast_training
from rotated_relu.nn.penalty import add_l1_subgradient
from rotated_relu.nn.slopes import slopes
from rotated_relu.training import Config, ModelConfig, build_model, recipes
from rotated_relu.training.data.splits import ImageData, Split
from rotated_relu.training.engine.distributed import start
from rotated_relu.training.engine.optimizers import build_optimizer
from rotated_relu.training.fitting import loop_over

IMAGES, SIZE = 45_000, 32  # as CIFAR-10 without its validation images


def made_images() -> ImageData:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (IMAGES, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (IMAGES,), generator=generator)
    split = Split(pixels, labels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return ImageData(split, split.subset(torch.arange(1000)), split, tuple(map(str, range(10))))


def network(config: Config, images: ImageData) -> torch.nn.Module:
    net = build_model(config, images)
    return fast_training(net, torch.zeros(2, *images.image_shape)).to(memory_format=torch.channels_last)


def bare(config: Config, images: ImageData, device: torch.device) -> Callable[[], None]:
    net = network(config, images).to(device).train()
    optimizer = build_optimizer(net, config.optimizer)
    pulled = list(slopes(net).values())
    inputs = images.train.normalised(slice(config.batch_size)).to(device)
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    labels = images.train.labels[: config.batch_size].to(device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            scores = net(inputs)
        loss = F.cross_entropy(scores.float(), labels)
        loss.backward()
        add_l1_subgradient(pulled, config.slope_l1)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def trainer(
    config: Config, images: ImageData, device: str, stack: contextlib.ExitStack
) -> Callable[[], None]:
    fabric = start(config, device)
    loop = loop_over(network(config, images), config, images, None, fabric, "none", stack)
    loop.stepper.net.train()

    def endless():
        while True:
            for pieces in loop.batches.epoch(loop.progress.epoch):
                loop.stepper.step(pieces, loop.progress)
                loop.obey(can_keep=True)
                yield
            loop.progress.epoch, loop.progress.step = loop.progress.epoch + 1, 0

    steps = endless()
    return lambda: next(steps)


def milliseconds(step: Callable[[], None], count: int, wait: Callable[[], None]) -> dict[str, float]:
    """Per step, by the clock and of all processors together."""
    wait()
    began = time.perf_counter(), time.process_time()
    for _ in range(count):
        step()
    wait()
    ended = time.perf_counter(), time.process_time()
    took = [1000 * (end - begin) / count for begin, end in zip(began, ended, strict=True)]
    return {"clock": round(took[0], 2), "processor": round(took[1], 2)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images, device = made_images(), torch.device(options.device)
    config = dataclasses.replace(
        recipes.get("resnet20_cifar10_short"), model=ModelConfig(options.model), slope_l1=1e-4, batch_size=128
    )
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    with contextlib.ExitStack() as stack:
        steps = {
            "bare": bare(config, images, device),
            "trainer": trainer(config, images, options.device, stack),
        }
        for step in steps.values():
            milliseconds(step, 3, wait)
        rounds = []
        for index in range(options.rounds):
            order = list(steps)[:: 1 if index % 2 else -1]
            rounds.append({name: milliseconds(steps[name], options.steps, wait) for name in order})
    ratios = {
        kind: round(statistics.median(one["bare"][kind] / one["trainer"][kind] for one in rounds), 4)
        for kind in ("clock", "processor")
    }
    result = {
        "command": " ".join(["python", "benchmarks/trainer_throughput.py", *sys.argv[1:]]),
        "model": options.model,
        "batch_size": config.batch_size,
        "trainer_over_bare_throughput": ratios,
        "median_milliseconds": {
            name: {kind: statistics.median(one[name][kind] for one in rounds) for kind in ratios}
            for name in steps
        },
        "milliseconds_per_step_of_each_round": rounds,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device_name(device),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("torch", "lightning-fabric", "rotated-relu")},
        "load_average": os.getloadavg(),
        "system": platform.platform(terse=True),
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(result["trainer_over_bare_throughput"], result["median_milliseconds"])


if __name__ == "__main__":
    main()
