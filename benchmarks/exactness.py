"""Is compaction exact on the paper's networks and on torchvision's ResNet-18/50 and VGG-16-BN?

    python benchmarks/exactness.py [--only resnet20,vgg16_bn] [--out benchmarks/exactness.json]

For each network: slopes killed at random at 0.1, 0.5 and 0.9, then single layers wholly dead (first, middle, last).
Reported: the certificate's largest relative difference in float64, the convolution and linear weights left beside the
paper count of the same alive filters, and whether all state-dict keys survived. Appends per network, so that a run that
was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import torch
import torchvision

import rotated_relu as rr
from rotated_relu.core.counting import count_macs, count_weights
from rotated_relu.experiments.paper.graph import paper_layers

OURS = [
    "fcnn", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "preact_resnet110", "preact_resnet164",
    "wrn_16_4", "wrn_40_4", "wrn_28_10",
]  # fmt: skip
THEIRS = ["resnet18", "resnet50", "vgg16_bn"]
POST_ACTIVATION = {"resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "resnet18", "resnet50"}
ZETA = 0.1


def build(name: str) -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    if name in THEIRS:
        inputs = torch.randn(1, 3, 64, 64)
        net = rr.rotate(getattr(torchvision.models, name)(weights=None), inputs, init="published")
    else:
        net = getattr(rr.models, name)()
        inputs = torch.randn(1, 1, 28, 28) if name == "fcnn" else torch.randn(1, 3, 32, 32)
    for module in net.modules():
        if isinstance(
            module, torch.nn.BatchNorm2d
        ):  # batch norms as after training, not as after construction
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return net.eval(), inputs


def kill(net: torch.nn.Module, rate: float) -> None:
    generator = torch.Generator().manual_seed(1)
    for slope in rr.slopes(net).values():
        dead = torch.rand(slope.numel(), generator=generator) < rate
        slope.data[dead] *= ZETA / 2 / slope.data[dead].abs()


def row(name: str, net: torch.nn.Module, inputs: torch.Tensor, case: str) -> dict[str, object]:
    keys = set(net.state_dict())
    macs, weights = sum(count_macs(net, inputs).values()), sum(count_weights(net).values())
    paper = paper_layers(net, inputs, ZETA).count()
    start = time.perf_counter()
    result = rr.compact(net, inputs, ZETA)
    seconds = time.perf_counter() - start
    left = sum(count_weights(result.model).values())
    return {
        "network": name,
        "case": case,
        "max_relative_difference": result.certificate.max_relative_difference,
        "macs_left": sum(count_macs(result.model, inputs).values()) / macs,
        "weights_before": weights,
        "weights_left": left,
        "paper_weights": paper.alive_weights,
        "within_paper_count": left <= paper.alive_weights,
        "keys_survive": set(result.model.state_dict()) == keys,
        "adapters": sum(1 for layer in result.plan.layers if layer.read or layer.write),
        "seconds": round(seconds, 2),
    }


def cases(name: str) -> list[dict[str, object]]:
    rows = []
    for rate in (0.1, 0.5, 0.9):
        net, inputs = build(name)
        kill(net, rate)
        rows.append(row(name, net, inputs, f"{rate:.1f} of slopes dead"))
    layers = list(rr.slopes(build(name)[0]))
    for layer in dict.fromkeys([layers[0], layers[len(layers) // 2], layers[-1]]):
        net, inputs = build(name)
        if len(layers) == 1:
            continue  # killing the only activation kills the network
        rr.slopes(net)[layer].data.zero_()
        rows.append(row(name, net, inputs, f"{layer} dead"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(OURS + THEIRS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/exactness.json"))
    options = parser.parse_args()
    found = json.loads(options.out.read_text()) if options.out.exists() else {"rows": []}
    for name in options.only.split(","):
        if any(r["network"] == name for r in found["rows"]):
            continue
        found["rows"] += cases(name)
        found["command"] = "python benchmarks/exactness.py"
        found["torch"], found["torchvision"] = torch.__version__, torchvision.__version__
        found["machine"] = f"{platform.machine()}, {torch.get_num_threads()} threads"
        found["worst"] = max(r["max_relative_difference"] for r in found["rows"])
        found["post_activation_within_paper_count"] = all(
            r["within_paper_count"] for r in found["rows"] if r["network"] in POST_ACTIVATION
        )
        found["all_keys_survive"] = all(r["keys_survive"] for r in found["rows"])
        options.out.write_text(json.dumps(found, indent=1) + "\n")
        for r in found["rows"]:
            if r["network"] == name:
                print(r, flush=True)


if __name__ == "__main__":
    main()
