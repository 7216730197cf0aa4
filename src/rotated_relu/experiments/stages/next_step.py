"""Which verb brings a run further: what ``next:`` says, verb after verb, until the page of the run is complete."""

from __future__ import annotations

from ...core.run_directory import Run
from ..run_networks import RunNetworks
from .evaluate import kept_accuracies


def next_verb(loaded: RunNetworks) -> str | None:
    """The verb with its arguments; None if nothing is left to do, or the run may only be read."""
    run, newest = loaded.run, loaded.newest()
    if not run.is_writable():
        return None
    small = newest != "trained"
    lacks = [
        (not small and loaded.config.model.rotated, "prune {run}"),
        (newest == "compact" and not run.has("shrinking"), "finetune {run} --epochs 3"),
        (small and not (run.has("onnx") or run.has("openvino")), "export {run}"),
        (not run.has("measure"), "measure {run}"),
        ("test" not in kept_accuracies(run).get(newest, {}), "evaluate {run} --split test"),
        (not _page_is_new(run), "report {run}"),
    ]
    return next((verb.format(run=run.path) for lacking, verb in lacks if lacking), None)


def _page_is_new(run: Run) -> bool:
    """Whether there is a page, and nothing that it tells of has been written since."""
    if not run.has("report"):
        return False
    told = (run.file(name) for name in ("measure", "evaluation") if run.has(name))
    written = run.file("report").stat().st_mtime_ns
    return all(path.stat().st_mtime_ns <= written for path in told)
