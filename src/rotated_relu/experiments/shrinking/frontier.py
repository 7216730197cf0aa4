"""Several budgets for one network: a run each, and one page with the whole curve.

The runs share what they have in common: the original is brought once, its test images are read once, and all networks
are measured side by side, so that it is exported and timed once. Each run is complete by itself nevertheless.

Requires: shrinkings that differ in their budget alone. Ensures: the same call goes on where it was stopped; a budget
more costs its own run and a new measurement.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...core import messages
from ...core.environment import environment
from ...core.errors import RunError
from ...core.messages import Say
from ...core.run_directory import Run, as_written, read_json, write_json
from ..report.frontier import build_frontier
from ..report.steadiness import unsteadiness
from ..run_networks import RunNetworks
from ..stages.evaluate import evaluate_run, kept_accuracies
from ..stages.measure import measure_networks
from . import delivery
from .pipeline import clocked, made_small, runs_in, with_original
from .settings import BUDGETS, Shrinking, differing, settings_of
from .trainings import check_reachable

ORIGINAL = "original"
Commands = Callable[[Sequence[Shrinking], Path], str]


def shrink_frontier(
    wanted: Sequence[Shrinking],
    out: Path,
    *,
    openvino: bool = False,
    device: str = "auto",
    progress: str = "none",
    commands: Commands | None = None,
    say: Say = messages.say,
) -> dict[str, Any]:
    """Shrink a network to several budgets, ``OUT/keep-0.5`` and so on; ``OUT/report.html`` has the whole curve.

    Budgets are shares of the multiply-accumulates or speed-ups (``OUT/speedup-2``), not both.

    Args:
        wanted: One per budget, alike otherwise.
        out: The directory; made if need be.
        openvino: As of :func:`~.pipeline.shrink_run`, like the others.
        device: Likewise.
        progress: Likewise.
        commands: Of some of the budgets and the directory that they go to, for the pages.
        say: Likewise.

    Returns:
        What ``OUT/summary.json`` holds: ``original_test_accuracy`` and the like, and ``runs``, the summary of each run
        with its ``run`` directory, largest first.

    Raises:
        RunError: If ``out`` is a run itself, or a folder in it holds another one.
        SlopeError: If one of the budgets cannot be met, before there is training for any.
    """
    place = Run.create(out)
    if place.has("config"):
        raise RunError(f"{out} holds one run; choose another directory for several budgets")
    ordered = sorted(
        {one.budget_name: one for one in wanted}.values(), key=lambda one: (one.speedup or 0, -one.keep)
    )
    _check_reachable(ordered, out, say, device)
    runs: dict[str, RunNetworks] = {}
    for number, one in enumerate(ordered, 1):
        place_of_one = out / one.budget_name
        say(f"budget {number} of {len(ordered)}: {one.budget_words}, in {place_of_one}")
        runs[one.budget_name] = _exported(one, place_of_one, openvino, device, progress, say)
    _measure(runs, place, say)
    _share_test_accuracy(list(runs.values()))
    summaries = [
        {"run": name, **delivery.finish(loaded, commands([one], loaded.run.path) if commands else None, say)}
        for one, (name, loaded) in zip(ordered, runs.items(), strict=True)
    ]
    command = commands(ordered, out) if commands else None
    with as_written(place.file("measure"), *(loaded.run.file("summary") for loaded in runs.values())):
        summary = _summary(summaries, runs, place)
        write_json(place.file("summary"), summary)
        build_frontier(
            {**summary, "title": _title(runs), "made": _made(summary, command)}, place.file("report")
        )
    return summary


def _check_reachable(ordered: Sequence[Shrinking], out: Path, say: Say, device: str) -> None:
    """Before the first training: nobody wants to hear after the second that the third budget cannot be met."""
    todo = [one for one in ordered if not Run(out / one.budget_name).has("compact")]
    if todo:
        place = out / todo[0].budget_name
        loaded = with_original(todo[0], place, say, _sibling(todo[0].located(), place), device)
        check_reachable(loaded, todo, say)


def _exported(one: Shrinking, out: Path, openvino: bool, device: str, progress: str, say: Say) -> RunNetworks:
    sibling = _sibling(one.located(), out)
    loaded = made_small(one, out, device=device, progress=progress, say=say, sibling=sibling)
    if not delivery.is_complete(loaded.run, openvino):
        with clocked(loaded.run):
            delivery.export(loaded, openvino, say)
    return loaded


def _sibling(wanted: Shrinking, out: Path) -> Run | None:
    """A run beside this one that began from the same original."""
    others = (run for run in runs_in(out.parent) if run.path != out)
    return next((run for run in others if set(differing(wanted, settings_of(run))) <= {*BUDGETS}), None)


# --- what they share -------------------------------------------------------------------------------------------------


def _measure(runs: Mapping[str, RunNetworks], place: Run, say: Say) -> None:
    """All networks in turn, the original once; each run gets its part of what was measured."""
    measured = place.file("measure")
    known = read_json(measured, dict[str, Any]) if place.has("measure") else {"networks": {}}
    with as_written(measured):
        is_complete = set(known["networks"]) == {ORIGINAL, *runs}
    if not is_complete:
        say(f"measuring the original and {len(runs)} small networks in turn")
        first = next(iter(runs.values()))
        nets = {ORIGINAL: first.network("trained")}
        nets |= {name: loaded.network("compact") for name, loaded in runs.items()}
        begun = time.monotonic()
        engine, sizes = delivery.timing(settings_of(first.run))
        known = measure_networks(nets, first.example_inputs, sizes, engine=engine, repeats=delivery.ROUNDS)
        known["seconds"] = round(time.monotonic() - begun, 1)
        write_json(measured, known)
    for name, loaded in runs.items():
        with as_written(measured):
            part = part_of(known, name)
        if not loaded.run.has("measure") or read_json(loaded.run.file("measure")) != part:
            # What was said of former timings goes first.
            loaded.run.discard("summary", "report")
            write_json(loaded.run.file("measure"), part)


def part_of(measured: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Of a measurement of several networks the original's and one other's, as of a run with these two."""

    def both(values: Mapping[str, Any]) -> dict[str, Any]:
        names = {ORIGINAL: ORIGINAL, name: "compact"}
        return {names[key]: value for key, value in values.items() if key in names}

    def timed(latency: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [
            {key: both(value) if isinstance(value, dict) else value for key, value in entry.items()}
            for entry in latency
        ]

    parts = {key: both(measured[key]) for key in ("networks", "saved", "layer_macs", "layer_weights")}
    engines = [{**engine, "latency": timed(engine["latency"])} for engine in measured["engines"]]
    whole = {key: value for key, value in measured.items() if key != "seconds"}
    return {**whole, **parts, "latency": engines[0]["latency"], "engines": engines}


def _share_test_accuracy(runs: Sequence[RunNetworks]) -> None:
    """The original reads the test images once, in whichever run."""
    known = next((found for loaded in runs if (found := _trained(loaded)).get("test") is not None), None)
    if known is None:
        evaluate_run(runs[0], "trained", "test")
        known = _trained(runs[0])
    for loaded in runs:
        if "test" not in _trained(loaded):
            kept = {**kept_accuracies(loaded.run), "trained": known}
            write_json(loaded.run.file("evaluation"), dict(sorted(kept.items())))


def _trained(loaded: RunNetworks) -> dict[str, float]:
    return kept_accuracies(loaded.run).get("trained", {})


# --- what is told ----------------------------------------------------------------------------------------------------


def _summary(summaries: list[dict[str, Any]], runs: Mapping[str, RunNetworks], place: Run) -> dict[str, Any]:
    measured = read_json(place.file("measure"))
    own = ("settings", "environment", "engine")
    alike = (
        "original_test_accuracy",
        "original_validation_accuracy",
        "latency_batch_size",
        "engine",
        "epochs",
    )
    medians = {str(timed["batch_size"]): timed["medians_ms"] for timed in measured["latency"]}
    rows = [
        {
            **{key: value for key, value in summary.items() if key not in own},
            **{name: summary["settings"][name] for name in BUDGETS},
            "latency_ms_by_batch_size": {size: times[summary["run"]] for size, times in medians.items()},
        }
        for summary in summaries
    ]
    return {
        **{key: summaries[0][key] for key in alike},
        "original_latency_ms_by_batch_size": {size: times[ORIGINAL] for size, times in medians.items()},
        "unsteadiness": unsteadiness(measured["latency"]),
        "original_macs": measured["networks"][ORIGINAL]["macs"],
        "original_parameters": measured["networks"][ORIGINAL]["parameters"],
        "runs": rows,
        "seconds": round(measured["seconds"] + sum(row["seconds"] for row in rows), 1),
        "settings": {key: value for key, value in summaries[0]["settings"].items() if key not in BUDGETS},
        "environment": environment(),
    }


def _title(runs: Mapping[str, RunNetworks]) -> str:
    config = next(iter(runs.values())).config
    return f"{config.model.name} on {Path(config.data.name).name}"


def _made(summary: Mapping[str, Any], command: str | None) -> dict[str, Any]:
    settings = summary["settings"]
    found = {"command": command, "epochs": settings["epochs"], "seed": settings["seed"]}
    found["minutes"] = round(summary["seconds"] / 60, 1)
    return {key: value for key, value in found.items() if value is not None} | {
        "environment": summary["environment"]
    }


def frontier_verdict(summary: Mapping[str, Any]) -> str:
    """One line about all of them."""
    points = ", ".join(
        f"{row['shrunk_test_accuracy']:.2f} % at {100 * row['macs_kept']:.0f} % of the MACs"
        for row in summary["runs"]
    )
    return f"test accuracy {summary['original_test_accuracy']:.2f} % before; {points}"
