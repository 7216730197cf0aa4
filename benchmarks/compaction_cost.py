"""What compaction costs: seconds as depth grows, and peak memory beside the model's size in float64.

    python benchmarks/compaction_cost.py [--only 20,resnet50] [--out FILE] [--plot FILE]

Depth: post-activation CIFAR ResNets from 20 to 1,202 layers, 32 x 32, half of the slopes dead, certificate included.
Memory: the most that the process holds during ``compact`` beyond what it held before (with the network itself loaded),
and that plus the network, over the network's size in float64. Every measurement is a process of its own, after a
warm-up on a tiny network that pays for imports.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

DEPTHS = (20, 56, 110, 302, 602, 1202)
LARGE = ("resnet50", "vgg16_bn", "convnext_base", "vit_b_16", "vit_l_16")


def kill(net: torch.nn.Module) -> None:
    import rotated_relu as rr

    generator = torch.Generator().manual_seed(1)
    for slope in rr.slopes(net).values():
        slope.data = torch.where(torch.rand(slope.numel(), generator=generator) < 0.5, 0.01, 1.0)


def now_held() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def one(name: str) -> dict[str, object]:
    import torchvision

    import rotated_relu as rr
    from rotated_relu.nn.models.resnet import CifarResNet

    tiny = CifarResNet(1, widths=(4, 4, 4)).eval()
    kill(tiny)
    rr.compact(tiny, torch.randn(1, 3, 8, 8), 0.1)
    torch.manual_seed(0)
    if name.isdigit():
        net, inputs = CifarResNet((int(name) - 2) // 6).eval(), torch.randn(1, 3, 32, 32)
    else:
        inputs = torch.randn(1, 3, 224, 224)
        net = rr.rotate(torchvision.models.get_model(name, weights=None).eval(), inputs, init="published")
    kill(net)
    Path("/proc/self/clear_refs").write_text("5")  # start the peak anew
    before = now_held()
    start, cpu = time.perf_counter(), time.process_time()
    result = rr.compact(net, inputs, 0.1)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    status = Path("/proc/self/status").read_text()
    peak = 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    single = sum(value.numel() * value.element_size() for value in net.state_dict().values())
    double = sum(value.numel() * 8 for value in net.state_dict().values())
    return {
        "network": name, "seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2), "float64_bytes": double,
        "peak_beyond_network_bytes": peak - before,
        "peak_over_float64_size": round((peak - before) / double, 3),
        "peak_with_network_over_float64_size": round((peak - before + single) / double, 3),
        "certificate": result.certificate.max_relative_difference,
    }  # fmt: skip


def plot(rows: list[dict[str, object]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    depths, seconds = zip(
        *((int(r["network"]), r["seconds"]) for r in rows if str(r["network"]).isdigit()), strict=True
    )
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    axes.plot(depths, seconds, "o-")
    axes.plot([0, depths[-1]], [0, seconds[-1]], ":", color="grey", label="proportional to depth")
    axes.set(
        xlabel="layers", ylabel="seconds, certificate included", title="Compacting post-activation ResNets"
    )
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/compaction_cost.json"))
    parser.add_argument("--plot", type=Path, default=Path("benchmarks/compaction_depth.png"))
    parser.add_argument("--only", default=",".join([*map(str, DEPTHS), *LARGE]))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print("ROW " + json.dumps(one(options.child)))
        return
    rows = []
    for name in options.only.split(","):
        done = subprocess.run(
            [sys.executable, __file__, "--child", name], stdout=subprocess.PIPE, text=True, check=True
        )
        rows.append(
            json.loads(next(line for line in done.stdout.splitlines() if line.startswith("ROW "))[4:])
        )
        print(rows[-1], flush=True)
    from rotated_relu.core.environment import device_name

    found = {
        "command": "python benchmarks/compaction_cost.py", "torch": torch.__version__, "rows": rows,
        "machine": f"{device_name(torch.device('cpu'))}, {platform.machine()}, {os.cpu_count()} cores, "
                   f"{torch.get_num_threads()} threads",
    }  # fmt: skip
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    if any(str(r["network"]).isdigit() for r in rows):
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
