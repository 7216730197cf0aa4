"""What there is of a small network at the end: files for engines, measurements, test accuracy, summary and page.

Requires: a run with ``compact.safetensors``. Ensures: each file is written once; the test images are read once per
network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...core.environment import environment
from ...core.messages import Say
from ...core.run_directory import Run, as_written, read_json, replacing, write_json
from ..report.collect import report_run
from ..run_networks import RunNetworks
from ..stages.evaluate import evaluate_run, keep_accuracy, kept_accuracies
from ..stages.export import export_run
from ..stages.measure import measure_run
from .classify import CLASSIFY
from .original import HELD_OUT
from .settings import record_of, settings_of
from .trainings import macs_share, teacher_of

BATCH_SIZES = (1, 64)
ROUNDS = 30


def timing(asked: Mapping[str, Any]) -> tuple[str, list[int]]:
    """Engine and batch sizes to measure in, the one that verdicts quote last: of a speed-up its own."""
    if asked["speedup"] is None:
        return "onnxruntime", list(BATCH_SIZES)
    return asked["engine"], sorted({1, asked["engine_batch_size"]})


def is_complete(run: Run, openvino: bool) -> bool:
    """Whether nothing is left to be exported, measured or told."""
    return run.has("summary") and (run.has("openvino") or not openvino)


def export(loaded: RunNetworks, openvino: bool, say: Say) -> None:
    """ONNX with a program that uses it, and OpenVINO's format where it is asked for."""
    run = loaded.run
    if not run.has("program"):
        with replacing(run.file("program")) as beside:
            beside.write_text(CLASSIFY, encoding="utf-8")
    wanted = {"onnx": "onnx", **({"openvino": "openvino"} if openvino else {})}
    for name, format in wanted.items():
        if not run.has(name):
            say(f"exporting the small network for {'OpenVINO' if format == 'openvino' else 'onnxruntime'}")
            export_run(loaded, "compact", format=format, say=say)


def measure(loaded: RunNetworks, say: Say) -> None:
    """Both networks in turn."""
    if not loaded.run.has("measure"):
        say("measuring both networks in turn")
        engine, sizes = timing(settings_of(loaded.run))
        measure_run(loaded, None, sizes, engines=[engine], repeats=ROUNDS, say=say)


def finish(loaded: RunNetworks, command: str | None, say: Say) -> dict[str, Any]:
    """Accuracies, page and summary, which is returned."""
    run = loaded.run
    if run.has("summary"):
        return _known_summary(run)
    say("reading the test images, once for each network, and writing the page")
    if "validation" not in kept_accuracies(run).get("compact", {}):
        keep_accuracy(loaded, "compact", loaded.network("compact"), "validation")
    for weights in ("trained", "compact"):
        if "test" not in kept_accuracies(run).get(weights, {}):
            evaluate_run(loaded, weights, "test")
    with as_written(*(run.file(name) for name in ("measure", "evaluation", "provenance"))):
        summary = _summary(loaded) | ({} if command is None else {"command": command})
    report_run(loaded, command=command)
    write_json(run.file("summary"), summary)
    return summary


def _known_summary(run: Run) -> dict[str, Any]:
    """What was written when it was finished.

    Raises:
        RunError: If it cannot be told any more.
    """
    known: dict[str, Any] = read_json(run.file("summary"), dict[str, Any])
    with as_written(run.file("summary")):
        verdict(known)
    return known


def _summary(loaded: RunNetworks) -> dict[str, Any]:
    from ...pruning.removal import read_plan

    run = loaded.run
    measured, accuracies = read_json(run.file("measure")), kept_accuracies(run)
    saved = measured["saved"]["compact"]
    speedups = {str(timed["batch_size"]): timed["speedup"]["compact"] for timed in measured["latency"]}
    quoted = measured["latency"][-1]
    _, certificate = read_plan(run.file("compact"))
    asked = settings_of(run)
    first = {"macs_kept_of_first_original": _of_the_first(loaded)} if run.has("teacher") else {}
    return {
        "original_test_accuracy": accuracies["trained"]["test"],
        "shrunk_test_accuracy": accuracies["compact"]["test"],
        "original_validation_accuracy": accuracies["trained"]["validation"],
        "shrunk_validation_accuracy": accuracies["compact"]["validation"],
        "validation_images": read_json(run.file("provenance")).get("validation", HELD_OUT),
        "macs_kept": 1 - saved["macs"],
        **first,
        "parameters_kept": 1 - saved["parameters"],
        "latency_speedup": quoted["speedup"]["compact"],
        "latency_batch_size": quoted["batch_size"],
        **_estimated(quoted.get("estimated_ms", {}), measured["reference"]),
        "latency_speedup_by_batch_size": speedups,
        "engine": measured["engine"],
        "certificate_max_relative_difference": certificate.max_relative_difference,
        "epochs": asked["epochs"],
        "seconds": round(record_of(run)["seconds"], 1),
        "settings": asked,
        "environment": environment(),
    }


def _estimated(times: Mapping[str, float], reference: str) -> dict[str, float]:
    """The speed-up by the run's latency table, where that is of the engine and batch size that is quoted."""
    known = reference in times and times.get("compact", 0) > 0
    return {"latency_speedup_estimated": times[reference] / times["compact"]} if known else {}


def _of_the_first(loaded: RunNetworks) -> float:
    """Share of the multiply-accumulates of the network that was brought before it was shrunk for the first time."""
    small = loaded.network("compact")
    return macs_share(small, teacher_of(loaded, small), loaded)


def verdict(summary: Mapping[str, Any]) -> str:
    """One line: what it cost and what it gained."""
    change = summary["shrunk_test_accuracy"] - summary["original_test_accuracy"]
    return (
        f"test accuracy {summary['original_test_accuracy']:.2f} % before, {summary['shrunk_test_accuracy']:.2f} % "
        f"after ({change:+.2f} points); {100 * summary['macs_kept']:.1f} % of the MACs and "
        f"{100 * summary['parameters_kept']:.1f} % of the parameters are left; {summary['latency_speedup']:.2f} times "
        f"as fast at batch {summary['latency_batch_size']} in {summary['engine']}"
    )
