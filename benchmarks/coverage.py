"""Does compaction work on your architecture? One row per model of torchvision and timm, or of other packages.

    python benchmarks/coverage.py [--only resnet50,timm:swin_tiny_patch4_window7_224] [--out benchmarks/coverage.json]
    python benchmarks/coverage.py --third-party    networks of other packages (third_party.py), those installed
    python benchmarks/coverage.py --table          print the table of the file as Markdown

For each model, with random weights: slopes into every activation, half of the slopes killed at random, everything
irrelevant removed, the result compared in float64 with the masked original. ``ideal`` is what would remain if every
irrelevant weight went; ``achieved / ideal`` compares the two savings. Each model runs in a process of its own; rows are
written as they come, and a run that was stopped goes on where it was.

Networks of other packages are built as they are shipped; with them the comparison is also made here, without the
certificate, on inputs of its own, and the small network is saved, loaded into a fresh one, and exported to ONNX.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import torch

from rotated_relu.core.errors import NothingRotatedWarning
from rotated_relu.core.run_directory import write_json
from rotated_relu.experiments.report.markdown import markdown_table

MODELS = Path(__file__).with_name("coverage_models.json")
SIZES = (96, 128, 160, 224, 256, 288, 384)
DETECTION = ("fcn_resnet50", "deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large",
             "retinanet_resnet50_fpn_backbone", "fasterrcnn_mobilenet_v3_large_fpn_backbone")  # fmt: skip


def build(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    library, _, model = name.rpartition(":")
    if library == "timm":
        import timm

        return timm.create_model(model, pretrained=False)
    from torchvision import models

    if model.endswith("_backbone"):
        detector = models.get_model(model.removesuffix("_backbone"), weights=None, weights_backbone=None)
        return detector.backbone
    options = {"weights_backbone": None} if model in DETECTION else {}
    return models.get_model(model, weights=None, **options)


def as_if_trained(net: torch.nn.Module) -> None:
    """Batch-norm statistics and affine parameters away from 0 and 1; nothing wholly zero, as after training."""
    generator = torch.Generator().manual_seed(2)
    for module in net.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            if module.affine:
                module.weight.data.uniform_(0.5, 1.5, generator=generator)
                module.bias.data.normal_(generator=generator)
            if module.running_mean is not None:
                module.running_mean.normal_(generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
    for parameter in net.parameters():
        if not parameter.detach().all():  # zeros and identity matrices are starts, not what training leaves
            parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)


def inputs_for(net: torch.nn.Module, smallest: int) -> torch.Tensor:
    """The smallest square image that the network takes; fixed-size networks take only their own."""
    net.eval()
    config = getattr(net, "default_cfg", None) or {}
    channels, *own = config.get("input_size") or (3, 224, 224)
    sizes = (
        [size for size in SIZES if smallest <= size < own[0]] + [own[0]] + [s for s in SIZES if s > own[0]]
    )
    for size in sizes:
        image = torch.randn(1, channels, size, size, generator=torch.Generator().manual_seed(3))
        try:
            with torch.no_grad():
                net(image)
        except Exception as error:
            last = error
            continue
        return image
    raise last


def row(name: str, rate: float = 0.5, smallest: int = 96, threshold: float = 0.1) -> dict[str, object]:
    import rotated_relu as rr
    from rotated_relu.core.counting import count_macs, count_parameters

    foreign = third_party().get(name)
    if foreign is not None:
        torch.manual_seed(0)
        net, inputs = foreign()
        net.eval()
        found: dict[str, object] = {"model": name}
    else:
        net = build(name)
        inputs = inputs_for(net, smallest)
        found = {"model": name, "image": inputs.shape[-1]}
    as_if_trained(net)
    start = time.perf_counter()
    with warnings.catch_warnings():
        # A network without a gate is refused with the words that rotate has for it.
        warnings.simplefilter("error", NothingRotatedWarning)
        net = rr.rotate(net, inputs, init="published")
    found["seconds_rotate"] = round(time.perf_counter() - start, 2)
    generator = torch.Generator().manual_seed(1)
    slopes = rr.slopes(net)
    for slope in slopes.values():
        dead = torch.rand(slope.numel(), generator=generator) < rate
        slope.data = torch.where(dead, 0.01, slope.data.sign() * slope.data.abs().clamp(min=0.2))
    found |= {"activations": len(slopes), "slopes": sum(s.numel() for s in slopes.values())}
    found["parameters"] = count_parameters(net)
    found["macs"] = sum(count_macs(net, inputs).values())
    start = time.perf_counter()
    result = rr.compact(net, inputs, threshold)
    found["seconds_compact"] = round(time.perf_counter() - start, 2)
    found["certificate"] = result.certificate.max_relative_difference
    found["parameters_left"] = count_parameters(result.model)
    found["macs_left"] = sum(count_macs(result.model, inputs).values())
    work = result.plan.work
    found["macs_graph"] = sum(every for every, _ in work.values())
    found["macs_ideal"] = sum(ideal for _, ideal in work.values())
    if "--debug" in sys.argv:
        print_layers(net, result.model, inputs, work)
    saved_ideal = 1 - found["macs_ideal"] / found["macs_graph"]
    found["achieved_over_ideal"] = (
        (1 - found["macs_left"] / found["macs"]) / saved_ideal if saved_ideal else 1.0
    )
    held: Counter[str] = Counter()
    for entry in result.plan.held:
        held[entry.reason] += entry.channels
    found["held"] = dict(held.most_common(8))
    found["held_channels"] = sum(held.values())
    found["unhandled"] = result.plan.unhandled
    found["adapters"] = sum(1 for layer in result.plan.layers if layer.read or layer.write)
    found["keys_survive"] = set(result.model.state_dict()) == set(net.state_dict())
    if foreign is not None:
        found["difference"] = difference(net, result.model, inputs, threshold)
        found["loaded"] = difference_when_loaded(result, foreign()[0].eval(), inputs)
        found["onnx"] = exported(result.model, inputs)
    return found


def called(net: torch.nn.Module, inputs: object) -> list[torch.Tensor]:
    """All tensors that a network returns for positional arguments in a tuple, or keyword arguments in a dict."""
    from torch.utils._pytree import tree_leaves

    copied = copy.deepcopy(inputs)
    with torch.no_grad():
        output = net(**copied) if isinstance(copied, dict) else net(*copied)
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]


def largest(ones: list[torch.Tensor], others: list[torch.Tensor]) -> float:
    """Largest difference over the tensors, each relative to its own largest finite value."""
    if [one.shape for one in ones] != [other.shape for other in others]:
        return float("inf")
    found = 0.0
    for one, other in zip(ones, others, strict=True):
        if not one.is_floating_point() or not one.numel():
            continue
        scale = float(one[one.isfinite()].abs().max()) if one.isfinite().any() else 0.0
        gap = (one - other).nan_to_num().abs().max()
        found = max(found, float(gap) / (scale or 1.0))
    return found


def difference(net: torch.nn.Module, small: torch.nn.Module, inputs: object, threshold: float) -> float:
    """Masked against compacted network on fresh inputs, without the library's own certificate.

    In float64; in float32 where the network itself casts to that, and does not run in another precision.
    """
    try:
        return difference_in(net, small, inputs, threshold, torch.float64)
    except RuntimeError as error:
        if "should be the same" not in str(error) and "same dtype" not in str(error):
            raise
    return difference_in(net, small, inputs, threshold, torch.float32)


def difference_in(
    net: torch.nn.Module, small: torch.nn.Module, inputs: object, threshold: float, dtype: torch.dtype
) -> float:
    """:func:`difference` in one precision."""
    from torch.utils._pytree import tree_map

    import rotated_relu as rr

    masked = copy.deepcopy(net).to(dtype).eval()
    for slope in rr.slopes(masked).values():
        slope.data[slope.data.abs() < threshold] = 0.0
    generator = torch.Generator().manual_seed(11)

    def fresh(value: object) -> object:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        return torch.rand(value.shape, generator=generator, dtype=torch.float64).to(dtype)

    other = tree_map(fresh, inputs)
    return largest(called(masked, other), called(copy.deepcopy(small).to(dtype).eval(), other))


def difference_when_loaded(result, fresh: torch.nn.Module, inputs: object) -> float:  # type: ignore[no-untyped-def]
    """Of the compacted network and what a fresh one becomes that loads its file."""
    import rotated_relu as rr

    with tempfile.TemporaryDirectory() as folder:
        path = rr.save(result, Path(folder) / "small.safetensors")
        return largest(called(result.model.eval(), inputs), called(rr.load(path, fresh).eval(), inputs))


def exported(small: torch.nn.Module, inputs: object) -> str:
    """``ok``, or why there is no ONNX file."""
    import rotated_relu as rr

    with tempfile.TemporaryDirectory() as folder:
        try:
            rr.export_onnx(small, inputs, Path(folder) / "small.onnx")
        except rr.RotatedReLUError as error:
            return f"{type(error).__name__}: {error}"[:300]
    return "ok"


def third_party() -> dict[str, object]:
    """Builders of networks of other packages."""
    spec = importlib.util.spec_from_file_location("third_party", Path(__file__).with_name("third_party.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return dict(module.NETWORKS)


def installed(name: str) -> bool:
    """Whether the package of a network is there; says so where it is not."""
    modules = {"smp": "segmentation_models_pytorch"}
    package = name.split(":")[0]
    there = importlib.util.find_spec(modules.get(package, package.replace("-", "_"))) is not None
    if not there:
        print(f"skipped: {name} ({package} is not installed)", flush=True)
    return there


def print_layers(net, small, inputs, work) -> None:  # type: ignore[no-untyped-def]
    from rotated_relu.core.counting import count_macs

    left, before = count_macs(small, inputs), count_macs(net, inputs)
    for path, (_, ideal) in sorted(work.items(), key=lambda item: item[1][1] - left.get(item[0], 0))[:25]:
        counts = (before.get(path, 0), left.get(path, 0), ideal)
        print(f"{path:60s} before {counts[0]:>12,} left {counts[1]:>12,} ideal {counts[2]:>12,}")


def child(name: str, smallest: int) -> None:
    try:
        found = row(name, smallest=smallest)
    except Exception as error:
        import rotated_relu as rr

        ours = isinstance(error, (rr.RotatedReLUError, rr.RotatedReLUWarning))
        kind = "refused" if ours else "failed"
        found = {"model": name, kind: f"{type(error).__name__}: {error}"[:600]}
        if "--debug" in sys.argv:
            raise
    print("ROW " + json.dumps(found))


def run(name: str, smallest: int, limit: float) -> dict[str, object]:
    command = [sys.executable, __file__, "--child", name, "--smallest", str(smallest)]
    start = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"model": name, "failed": f"not done after {limit:.0f} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("ROW ")]
    found = (
        json.loads(lines[-1][4:]) if lines else {"model": name, "failed": (done.stderr or "killed")[-600:]}
    )
    return {**found, "seconds": round(time.perf_counter() - start, 1)}


def models() -> list[str]:
    from torchvision import models as vision

    names = [*vision.list_models(module=vision), *DETECTION]
    return [*names, *(f"timm:{name}" for name in json.loads(MODELS.read_text()))]


def summary(rows: list[dict[str, object]]) -> dict[str, object]:
    good = [r for r in rows if "certificate" in r]
    ratios = [float(r["achieved_over_ideal"]) for r in good]
    return {
        "models": len(rows),
        "families": len({family(r["model"]) for r in rows}),
        "exact": sum(max(float(r["certificate"]), float(r.get("difference", 0.0))) <= 1e-9 for r in good),
        "fewer_macs": sum(r["macs_left"] < r["macs"] for r in good),
        "refused": {r["model"]: r["refused"] for r in rows if "refused" in r},
        "failed": {r["model"]: r["failed"] for r in rows if "failed" in r},
        "worst_difference": max((float(r["difference"]) for r in good if "difference" in r), default=None),
        "worst_certificate": max((float(r["certificate"]) for r in good), default=None),
        "median_achieved_over_ideal": statistics.median(ratios) if ratios else None,
    }


def family(name: str) -> str:
    """timm's module of the architecture; torchvision's own name elsewhere."""
    library, _, model = name.rpartition(":")
    if library != "timm":
        return library or "torchvision"
    import timm.models

    return str(timm.models.model_entrypoint(model).__module__).rpartition(".")[2]


HEAD = ("model", "image", "activations", "slopes", "parameters", "left", "MACs", "left", "ideal", "achieved / ideal",
        "seconds", "certificate", "dead channels held, and by what")  # fmt: skip


FOREIGN_HEAD = ("model", "activations", "slopes", "parameters", "left", "MACs", "left", "ideal", "achieved / ideal",
                "difference", "save and load", "ONNX", "dead channels held, and by what")  # fmt: skip


def table(found: dict[str, object]) -> str:
    """The rows as Markdown; those of other packages with what was checked beside the certificate."""
    foreign = any("onnx" in r for r in found["rows"])
    head = FOREIGN_HEAD if foreign else HEAD
    rows = []
    for r in sorted(found["rows"], key=lambda r: r["model"]):
        if "certificate" not in r:
            rows.append(
                (r["model"], *[""] * (len(head) - 2), f"refused: {r.get('refused', r.get('failed'))}")
            )
            continue
        cells = (r["model"], *(() if foreign else (r["image"],)), *counted(r))
        if foreign:
            cells += (f"{r['difference']:.1e}", f"{r['loaded']:.1e}", cell(r["onnx"]), held(r))
        else:
            cells += (f"{r['seconds_compact']:.1f}", f"{r['certificate']:.1e}", held(r))
        rows.append(cells)
    return markdown_table(head, rows)


def counted(r: dict[str, object]) -> tuple[object, ...]:
    """Activations and costs of a row."""
    return (
        r["activations"], r["slopes"],
        f"{r['parameters'] / 1e6:.2f} M", f"{r['parameters_left'] / r['parameters']:.1%}",
        f"{r['macs'] / 1e6:.1f} M", f"{r['macs_left'] / r['macs']:.1%}",
        f"{r['macs_ideal'] / r['macs_graph']:.1%}", f"{r['achieved_over_ideal']:.3f}",
    )  # fmt: skip


def held(r: dict[str, object]) -> str:
    """What keeps dead channels, the two largest first."""
    first = "; ".join(f"{count}: {cell(reason)}" for reason, count in list(r["held"].items())[:2])
    more = len(r["held"]) - 2
    return first + (f"; and {more} more" if more > 0 else "")


def cell(text: object) -> str:
    """Text that does not end a cell of a table."""
    return str(text).replace("|", "/")


def main() -> None:
    # This file has the name of a package that others import.
    sys.path[:] = [place for place in sys.path if Path(place).resolve() != Path(__file__).resolve().parent]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="names, separated by commas; timm's begin with timm:")
    parser.add_argument(
        "--out", type=Path, help="default: benchmarks/coverage.json, or third_party.json beside it"
    )
    parser.add_argument(
        "--third-party", action="store_true", help="networks of other packages, where installed"
    )
    parser.add_argument("--smallest", type=int, default=96, help="smallest image to try, pixels")
    parser.add_argument("--limit", type=float, default=1200.0, help="seconds per model")
    parser.add_argument("--again", action="store_true", help="repeat models that are in the file already")
    parser.add_argument("--table", action="store_true", help="print the file as Markdown and stop")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.smallest)
        return
    if options.out is None:
        options.out = Path(
            "benchmarks/third_party.json" if options.third_party else "benchmarks/coverage.json"
        )
    found = json.loads(options.out.read_text()) if options.out.exists() else {"rows": []}
    if options.table:
        print(table(found))
        return
    names = options.only.split(",") if options.only else models()
    if options.third_party:
        names = [name for name in third_party() if not options.only or name in names]
        names = [name for name in names if installed(name)]
    for name in names:
        if not options.again and any(r["model"] == name for r in found["rows"]):
            continue
        new = run(name, options.smallest, options.limit)
        found["rows"] = [r for r in found["rows"] if r["model"] != name] + [new]
        found |= {
            "command": "python benchmarks/coverage.py" + (" --third-party" if options.third_party else ""),
            "torch": torch.__version__,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "summary": summary(found["rows"]),
        }
        write_json(options.out, found)
        print({k: v for k, v in new.items() if k != "unhandled"}, flush=True)


if __name__ == "__main__":
    main()
