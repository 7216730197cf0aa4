"""What the files of a run say, gathered for its page."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.criteria import Criterion
from ...core.run_directory import as_written, explained, read_json, read_metrics
from ..run_networks import RunNetworks, reference_key
from ..stages.evaluate import kept_accuracies

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ...pruning.removal import Plan
    from ..paper.paths import Block
    from .schema import AttackRow, PathsPart, PathsSide, ReportData

MADE_BY_VERBS = (
    "slopes",
    "threshold",
    "measure",
    "attack",
    "provenance",
)  # what a page shows, but for metrics
PATH_BINS = 60  # of the histogram of path lengths, at most
LABELS = {
    "relu": "ReLU",
    "original": "Original",
    "reference": "Reference",
    "rotated": "Rotated",
    "compact": "Compacted",
    "finetuned": "Compacted, fine-tuned",
}


def report_run(loaded: RunNetworks, reference: RunNetworks | None = None, command: str | None = None) -> Path:
    """Write the report of a run and return its path.

    Args:
        loaded: The run.
        reference: A run to compare with.
        command: What made it, if not ``train``.
    """
    from .build import build

    loaded.run.check_writable()
    # Their numbers are looked at where they are drawn.
    with as_written(*(loaded.run.file(name) for name in MADE_BY_VERBS if loaded.run.has(name))):
        return build(report_data(loaded, reference, command), loaded.run.file("report"))


def report_data(
    loaded: RunNetworks, reference: RunNetworks | None = None, command: str | None = None
) -> ReportData:
    """Gather what the files of a run say; see :class:`rotated_relu.experiments.report.ReportData`."""
    config = loaded.config
    own = loaded.trained_key
    data: ReportData = {
        "title": f"{config.model.name} on {Path(config.data.name).name}",
        "networks": _networks(loaded, reference),
        "compacted_from": own,
        "curves": _curves(loaded, reference),
        "made": _made(loaded, command),
        "run": str(loaded.run.path),
    }
    data["reference"] = data["networks"][0]["key"]
    data["final"] = data["networks"][-1]["key"]
    _add_slopes(data, loaded)
    _add_compaction(data, loaded)
    _add_measurements(data, loaded)
    _add_attack(data, loaded)
    _add_program(data, loaded)
    return data


def _networks(loaded: RunNetworks, reference: RunNetworks | None) -> list[Any]:
    """One row per network that there is, in the order of the method."""
    measured = _json(loaded, "measure").get("networks", {}) or _counted(loaded, reference)
    evaluated = kept_accuracies(loaded.run)
    rows = []
    if reference is not None:
        key = reference_key(reference, loaded)
        row = {"key": key, **measured.get(key, {}), **_last_validation(reference)}
        rows.append(row | _accuracies(kept_accuracies(reference.run).get("trained", {})))
    key = loaded.trained_key
    row = {"key": key, **measured.get(key, {}), **_last_validation(loaded)}
    rows.append(row | _accuracies(evaluated.get("trained", {})))
    if loaded.run.has("compact"):
        row = {"key": "compact", **measured.get("compact", {})}
        row["validation_accuracy"] = _json(loaded, "threshold").get("score")
        rows.append(row | _accuracies(evaluated.get("compact", {})))
    if loaded.run.has("finetuned"):
        rows.append(
            {"key": "finetuned", "same_cost_as": "compact", **_accuracies(evaluated.get("finetuned", {}))}
        )
    return [{"label": LABELS[row["key"]], **row} for row in rows]


def _counted(loaded: RunNetworks, reference: RunNetworks | None) -> dict[str, dict[str, int]]:
    """Costs of the run's networks as far as they can be counted; what has to be measured waits for ``measure``."""
    from ...core.counting import count_macs, count_parameters

    one = loaded.example_inputs()
    nets = {} if reference is None else {reference_key(reference, loaded): reference.network("trained")}
    nets[loaded.trained_key] = loaded.network("trained")
    if loaded.run.has("compact"):
        nets["compact"] = loaded.network("compact")
    return {
        key: {"parameters": count_parameters(net), "macs": sum(count_macs(net, one).values())}
        for key, net in nets.items()
    }


def _accuracies(splits: dict[str, float]) -> dict[str, float]:
    return {f"{split}_accuracy": value for split, value in splits.items()}


def _last_validation(loaded: RunNetworks) -> dict[str, float]:
    rows = read_metrics(loaded.run.need("metrics"))
    with as_written(loaded.run.file("metrics")):
        return {"validation_accuracy": rows[-1]["validation_accuracy"]} if rows else {}


def _curves(loaded: RunNetworks, reference: RunNetworks | None) -> list[Any]:
    if loaded.run.has("shrinking"):
        # Not the original's training: from it to the small network.
        return [{"key": "compact", "label": "Shrinking", "rows": read_metrics(loaded.run.need("metrics"))}]
    runs = {} if reference is None else {reference_key(reference, loaded): reference}
    runs[loaded.trained_key] = loaded
    return [
        {"key": key, "label": LABELS[key], "rows": read_metrics(one.run.need("metrics"))}
        for key, one in runs.items()
    ]


def _made(loaded: RunNetworks, command: str | None) -> Any:
    config, run = loaded.config, loaded.run
    weights = run.need("weights")
    with explained(weights):
        finished = datetime.fromtimestamp(weights.stat().st_mtime, tz=timezone.utc)
    return {
        "command": command or _command(loaded),
        "date": finished.date().isoformat(),
        "seed": config.seed,
        "epochs": config.epochs,
        "dataset": _dataset(loaded),
        "environment": _json(loaded, "measure").get("environment", {}),
    }


def _command(loaded: RunNetworks) -> str:
    """What made a run whose page is made anew."""
    known = _json(loaded, "summary").get("command")
    return known or f"rotated-relu train --config {loaded.run.file('config')} --out NEW"


def _dataset(loaded: RunNetworks) -> dict[str, Any]:
    """Where the images come from; of what they look like the shape and the number of classes, which may be 1,000."""
    from ...training.images import FORMAT

    found = _json(loaded, "provenance")
    if FORMAT not in found:
        return found
    images = loaded.image_format
    _, height, width = images.image_shape
    seen = {"image": f"{height} x {width}, {images.kind}", "classes": images.num_classes}
    return {key: value for key, value in found.items() if key != FORMAT} | seen


def _add_slopes(data: ReportData, loaded: RunNetworks) -> None:
    if not loaded.config.model.rotated or not loaded.run.has("slopes"):
        return
    from ...pruning.removal.checkpoint import read_tensors

    slopes: dict[str, dict[str, list[float]]] = {"start": {}, "end": {}}
    path = loaded.run.file("slopes")
    with as_written(path):
        for key, values in read_tensors(path).items():
            when, _, name = key.partition("/")
            slopes[when][name] = values.tolist()
    data["slopes"] = slopes


def _add_compaction(data: ReportData, loaded: RunNetworks) -> None:
    """Threshold, filters alive, both counts, certificate, and what could not be removed."""
    if not loaded.run.has("compact"):
        return
    from dataclasses import asdict
    from typing import cast

    from ...pruning.removal import read_plan
    from ..paper.graph import paper_layers
    from .schema import HeldRow, ThresholdPart

    plan, certificate = read_plan(loaded.run.file("compact"))
    found = _json(loaded, "threshold")
    if found:
        data["threshold"] = cast(ThresholdPart, found)
    data["alive"] = [
        {"name": name.removesuffix(".slope"), "total": counts["total"], "alive": counts["alive"]}
        for name, counts in plan.slopes.items()
    ]
    data["held"] = [cast(HeldRow, asdict(held)) for held in plan.held]
    data["certificate"] = certificate.to_dict()
    with as_written(loaded.run.file("threshold")):
        data["criterion"] = _criterion(found, plan).to_dict()
    # What the mask leaves of each activation; a threshold would say so of slopes alone.
    alive = {name: counts["alive"] for name, counts in plan.slopes.items()}
    net, inputs = loaded.network("trained"), loaded.example_inputs()
    data["paper_count"] = paper_layers(net, inputs, alive=alive).count().to_dict()
    _add_paths(data, net, inputs, alive)


def _criterion(found: dict[str, Any], plan: Plan) -> Criterion:
    """How it came about which filters went; files of 0.1.0 only name the score."""
    if "criterion" in found or not found:
        return plan.criterion
    kind = found.get("score_kind", "slope")
    per = "" if kind == "slope" else "macs"
    return Criterion(kind, per, found["value"], found.get("budget") or {})


def _add_paths(data: ReportData, net: nn.Module, inputs: Tensor, alive: Mapping[str, int]) -> None:
    """Filter-path lengths in bins of equally many possible lengths; nothing for networks without residual blocks."""
    from ...core.errors import CaptureError
    from ..paper.paths import residual_blocks

    with contextlib.suppress(CaptureError):  # blocks within blocks: their paths are not counted
        blocks = residual_blocks(net, inputs, alive=alive)
        if blocks:
            data["paths"] = paths_part(blocks)


def paths_part(blocks: Sequence[Block]) -> PathsPart:
    """The path lengths of a report, from the residual blocks of a network."""
    from ..paper.paths import path_lengths

    filters = [block.filters for block in blocks]
    # All lengths are multiples of the greatest common divisor: a bin of any other width would make a comb.
    step = max(1, math.gcd(*filters))
    width = step * max(1, math.ceil(sum(filters) / (PATH_BINS * step)))
    before, after = (
        path_lengths(ways) for ways in ([[0, each] for each in filters], [each.ways for each in blocks])
    )
    sides: list[PathsSide] = [
        {"paths": side.paths, "mean": side.mean, "shares": side.shares(width)} for side in (before, after)
    ]
    return {"blocks": len(blocks), "width": width, "before": sides[0], "after": sides[1]}


def _add_attack(data: ReportData, loaded: RunNetworks) -> None:
    """Accuracy under attack; networks of other runs are told by their directory."""
    found = _json(loaded, "attack")
    if not found:
        return
    with as_written(loaded.run.file("attack")):
        rows = _attacked(found["networks"])
        data["attack"] = {"networks": rows, "settings": found["settings"], "library": found["library"]}


def _attacked(networks: Sequence[Mapping[str, Any]]) -> list[AttackRow]:
    own = networks[0]["run"]
    rows: list[AttackRow] = []
    for network in networks:
        kind, run = network["kind"], network["run"]
        rows.append(
            {
                "key": kind if run == own or kind == "relu" else "other",
                "label": LABELS[kind] if run == own else f"{LABELS[kind]} ({Path(run).name})",
                "clean": network["clean"],
                "fgsm": network["fgsm"],
                "pgd": network["pgd"],
                "lipschitz": network["lipschitz"],
            }
        )
    return rows


def _add_program(data: ReportData, loaded: RunNetworks) -> None:
    path = loaded.run.file("program")
    if loaded.run.has("program") and loaded.run.has("onnx"):
        with explained(path):
            data["program"] = {"command": f"python {path} PICTURE", "text": path.read_text(encoding="utf-8")}


def _add_measurements(data: ReportData, loaded: RunNetworks) -> None:
    measured = _json(loaded, "measure")
    if not measured:
        return
    with as_written(loaded.run.file("measure")):
        data["layer_weights"] = measured["layer_weights"]
        data["layer_macs"] = measured["layer_macs"]
        data["latency"] = measured["latency"]
        data["engine"] = measured["engine"]


def _json(loaded: RunNetworks, name: str) -> dict[str, Any]:
    """A file of the run, or nothing where it has not been written."""
    path = loaded.run.file(name)
    found: dict[str, Any] = read_json(path, dict[str, Any]) if loaded.run.has(name) else {}
    return found
