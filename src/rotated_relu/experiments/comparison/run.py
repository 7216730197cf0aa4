"""Carry a comparison out, stage by stage, into one directory; whatever is there already is not done again.

The directory: ``trainings/`` and ``tuning/`` hold one run each per network, ``points/`` a JSON file per pruned network
and its fine-tuning. Everything is chosen on validation images; the test images are read once, after all else is done.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from ...core import messages
from ...core.counting import count_parameters
from ...core.errors import RunError
from ...core.messages import Say
from ...core.plain_data import typed
from ...core.progress import in_turn
from ...core.run_directory import as_written, read_json, write_json
from ...training import evaluate_model
from .epochs import second_part
from .fitting import trained_on
from .latency import check_engines, latencies
from .methods import DENSE, Method
from .points import Point, Points
from .settings import Settings
from .task import Task
from .trainings import Training, Trainings

REFERENCE = Method("reference", "ReLU", DENSE, "filter_l1")  # what it says of choosing is not used
SLACK = 0.04  # a network that saves so much more than its level is another level's


MEASURED = ("macs_saved", "parameters_saved", "validation")
LATER = ("test", "finetuned_validation", "finetuned_test")
TIMED = {"engine": str, "batch_size": int, "ms": float, "plain_ms": float, "speedup": float}


def own_part(point: Point) -> dict[str, Any]:
    """What the row of a point says of which point it is."""
    method = point.method
    return {
        "method": method.name,
        "label": method.label,
        "seed": point.seed,
        "keep": point.keep,
        "level": point.level,
    }


def check_row(row: dict[str, Any]) -> None:
    """Hold what is known about a point to the kinds that it is written with.

    Raises:
        KeyError, TypeError: If something is missing or of another kind.
    """
    reached = typed(bool, row["reached"], "reached")
    for name in (*(MEASURED if reached else ()), *(name for name in LATER if name in row)):
        typed(float, row[name], name)
    for timed in typed(list[dict[str, Any]], row.get("latency", []), "latency"):
        for name, kind in TIMED.items():
            typed(kind, timed[name], name)


class Comparison:
    """A comparison in a directory; call the stages in turn: train, prune, finetune, time, test.

    Args:
        settings: What to do.
        path: The directory; made if need be.
        say: Takes a line of progress.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``, for the trainings.
        progress: As in :func:`rotated_relu.training.fit`.

    Raises:
        RunError: If the directory cannot be written to, or holds a comparison with other settings.
        MissingPackageError: If a method needs Torch-Pruning and it is not installed.
    """

    def __init__(
        self,
        settings: Settings,
        path: str | Path,
        *,
        say: Say = messages.say,
        device: str = "auto",
        progress: str = "lines",
    ) -> None:
        for name, reason in settings.skipped.items():
            say(f"{name} is left out: {reason}")
        if settings.latency_repeats or settings.speedups:
            check_engines(settings.engines)
        self.task = Task(settings, path, say, device, progress)
        self.settings = self.task.settings
        self.trainings = Trainings(self.task)
        self.points = Points(self.trainings)

    def train(self) -> None:
        """Tune the strengths, then train every network in full."""
        self.trainings.train()

    def prune(self) -> None:
        """Validate the networks as trained; make every pruned network once and validate it."""
        self.trainings.evaluate("validation")
        wanted = [point for point in self.points if not self.file(point).is_file()]
        for point in in_turn("pruning", wanted, lambda point: f"pruning {point.title}"):
            write_json(self.file(point), self._pruned_row(point))

    def _pruned_row(self, point: Point) -> dict[str, Any]:
        small = self.points.pruned(point)
        failure = self.points.failure(point)
        row: dict[str, Any] = {**own_part(point), "reached": small is not None}
        if failure is not None:
            self.task.say(f"{point.title}: {failure}")
            row["failure"] = failure
        if small is None:
            return row
        whole = self.trainings.plain(point.seed)
        row["macs_saved"] = 1 - self.task.macs(small) / self.task.macs(whole)
        row["parameters_saved"] = 1 - count_parameters(small) / count_parameters(whole)
        # A training that kills on its own has saved more than a small level asks for: the same network again. Another
        # tool may only have steps that are as coarse.
        row["reached"] = (
            point.level == 0 or point.method.tool is not None or row["macs_saved"] < point.level + SLACK
        )
        row["validation"] = self.task.validated(small)
        self.task.say(
            f"{point.title}: {100 * row['macs_saved']:.1f} % of the MACs saved, validation {row['validation']:.2f} %"
        )
        return row

    def finetune(self) -> None:
        """Train the pruned networks of the chosen levels on, and the plain one as long; validate them again."""
        for seed in self._seeds_of("finetuned_validation"):
            self.task.say(f"training the plain network on, seed {seed}")
            accuracy = self.task.validated(self.reference(seed))
            self.trainings.note(Training(DENSE, seed), {"finetuned_validation": accuracy})
        wanted = self._trained_on_without(lambda row: "finetuned_validation" in row)
        for point in in_turn("fine-tuning", wanted, lambda point: f"fine-tuning {point.title}"):
            row = self.row(point)
            net = self.finetuned(point)
            row["finetune_epochs"] = second_part(self.settings, point.method, point.seed).epochs
            row["finetuned_validation"] = self.task.validated(net)
            write_json(self.file(point), row)
            self.task.say(
                f"{point.title}: validation {row['validation']:.2f} % -> {row['finetuned_validation']:.2f} %"
            )

    def _trained_on_without(self, has: Callable[[dict[str, Any]], bool]) -> list[Point]:
        """Points of the fine-tuned levels that something is still missing of."""
        rows = [(point, self.row(point)) for point in self.points]
        return [point for point, row in rows if self._trains_on(point, row) and not has(row)]

    def _seeds_of(self, missing: str) -> list[int]:
        """Whose plain network has yet to be trained on; none with weights: what was brought is what all are held to."""
        known = self.trainings.reference()
        seeds = [] if self.settings.weights else list(self.settings.seeds)
        return [seed for seed in seeds if missing not in known[seed]]

    def _trains_on(self, point: Point, row: dict[str, Any]) -> bool:
        """Level 0 only if its training has killed something: the rest is the trained network once more."""
        if not row["reached"]:
            return False
        if point.level == 0:
            return bool(row["macs_saved"] > 0)
        # A budget has a training for this size, which ends with it at level 0.
        own = [keep for keep in self.settings.keeps(point.method.training) if keep <= point.keep < 1]
        if any(abs(1 - keep - point.level) < SLACK for keep in own):
            return False
        return point.level in self.settings.finetuned_levels

    def finetuned(self, point: Point) -> nn.Module:
        """The fine-tuned network of a point, trained now if it has not been."""
        net = self._small(point)
        return self._trained_on(net, point.method, point.seed, self.file(point).with_suffix(""))

    def _small(self, point: Point) -> nn.Module:
        small = self.points.pruned(point)
        if small is None:
            raise RunError(
                f"{self.file(point)} tells of a network that is not there; delete it and run the same command again"
            )
        return small

    def reference(self, seed: int) -> nn.Module:
        """The plain network, trained for as many epochs as the pruned ones are in all; only where all are trained."""
        net = copy.deepcopy(self.trainings.plain(seed))
        return self._trained_on(net, REFERENCE, seed, self.task.path / "points" / f"reference-seed{seed}")

    def _trained_on(self, net: nn.Module, method: Method, seed: int, path: Path) -> nn.Module:
        config = second_part(self.settings, method, seed)
        return trained_on(self.task, net, config, path, teacher=self.trainings.plain(seed))

    def test(self) -> None:
        """Read the test images: every network, before and after fine-tuning, and those that were trained in full."""
        split = self.task.images.test
        self.trainings.evaluate("test")
        for seed in self._seeds_of("finetuned_test"):
            accuracy = evaluate_model(self.reference(seed), split)
            self.trainings.note(Training(DENSE, seed), {"finetuned_test": accuracy})
        for point in self.points:
            row = self.row(point)
            if row["reached"] and "test" not in row:
                small = self._small(point)
                row["test"] = evaluate_model(small, split)
                write_json(self.file(point), row)
            if "finetuned_validation" in row and "finetuned_test" not in row:
                row["finetuned_test"] = evaluate_model(self.finetuned(point), split)
                write_json(self.file(point), row)

    def time(self) -> None:
        """Measure each network that trained on in turn with the plain one, in every engine, at every batch size."""
        if not self.settings.latency_repeats:
            return
        wanted = {(engine, size) for engine in self.settings.engines for size in self.settings.batch_sizes}

        def timed(row: dict[str, Any]) -> bool:
            return wanted <= {(one["engine"], one["batch_size"]) for one in row.get("latency", [])}

        for point in in_turn(
            "timing", self._trained_on_without(timed), lambda point: f"timing {point.title}"
        ):
            row = self.row(point)
            small = self._small(point)
            row["latency"] = latencies(self.task, self.trainings.plain(point.seed), small)
            write_json(self.file(point), row)

    def file(self, point: Point) -> Path:
        """Where what is known about a point is kept."""
        return self.task.path / "points" / f"{point.name}.json"

    def row(self, point: Point) -> dict[str, Any]:
        """What is known about a point."""
        path = self.file(point)
        row: dict[str, Any] = read_json(path, dict[str, Any])
        with as_written(path):
            check_row(row)
        return row | own_part(point)

    def rows(self) -> list[dict[str, Any]]:
        """What is known about all points that have been reached."""
        return [row for row in self._all_rows() if row["reached"]]

    def failures(self) -> list[dict[str, Any]]:
        """Methods that were left out, and networks that a tool gave an error for, with the reason."""
        skipped = [{"method": name, "reason": reason} for name, reason in self.settings.skipped.items()]
        failed: dict[tuple[str, str], list[float]] = {}
        for row in self._all_rows():
            if "failure" in row:
                failed.setdefault((row["method"], row["failure"]), []).append(row["level"])
        return skipped + [
            {"method": method, "reason": reason, "levels": sorted(set(levels))}
            for (method, reason), levels in failed.items()
        ]

    def _all_rows(self) -> list[dict[str, Any]]:
        return [self.row(point) for point in self.points if self.file(point).is_file()]
