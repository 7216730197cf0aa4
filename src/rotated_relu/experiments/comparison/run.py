"""Carry a comparison out, stage by stage, into one directory; whatever is there already is not done again.

The directory: ``trainings/`` and ``tuning/`` hold one run each per network, ``points/`` a JSON file per pruned network
and its fine-tuning. Everything is chosen on validation images; the test images are read once, after all else is done.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from torch import nn

from ...core import messages
from ...core.counting import count_parameters
from ...core.formatting import plural
from ...core.messages import Say
from ...core.run_directory import Run, read_json, write_json
from ...training import Config, evaluate_model, finetune
from ...training.trained import read_weights, write_weights
from ..stages.finetune import finetune_config
from .methods import training_config
from .points import Point, Points
from .prune import torch_pruning
from .settings import Settings
from .task import Task
from .trainings import Trainings

SLACK = 0.04  # a network that saves so much more than its level is another level's


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
        if any(method.is_coupled for method in settings.chosen):
            torch_pruning()
        self.settings = settings
        self.task = Task(settings, path, say, device, progress)
        self.trainings = Trainings(self.task)
        self.points = Points(self.trainings)

    def train(self) -> None:
        """Tune the strengths, then train every network in full."""
        self.trainings.train()

    def prune(self) -> None:
        """Validate the networks as trained; make every pruned network once and validate it."""
        self.trainings.evaluate("validation")
        for point in self.points:
            if not self.file(point).is_file():
                write_json(self.file(point), self._pruned_row(point))

    def _pruned_row(self, point: Point) -> dict[str, Any]:
        small = self.points.pruned(point)
        row: dict[str, Any] = {
            "method": point.method.name,
            "label": point.method.label,
            "seed": point.seed,
            "keep": point.keep,
            "level": point.level,
            "reached": small is not None,
        }
        if small is None:
            return row
        whole = self.trainings.plain(point.seed)
        row["macs_saved"] = 1 - self.task.macs(small) / self.task.macs(whole)
        row["parameters_saved"] = 1 - count_parameters(small) / count_parameters(whole)
        # A training that kills on its own has saved more than a small level asks for: the same network again.
        row["reached"] = point.level == 0 or row["macs_saved"] < point.level + SLACK
        row["validation"] = self.task.validated(small)
        self.task.say(
            f"{point.name}: {100 * row['macs_saved']:.1f} % of the MACs saved, validation {row['validation']:.2f} %"
        )
        return row

    def finetune(self) -> None:
        """Train the pruned networks of the chosen levels on, and validate them again."""
        for point in self.points:
            row = self.row(point)
            if not self._trains_on(point, row) or "finetuned_validation" in row:
                continue
            self.task.say(f"fine-tuning {point.name}, {plural(self.settings.finetune_epochs, 'epoch')}")
            net = self.finetuned(point)
            row["finetuned_validation"] = self.task.validated(net)
            write_json(self.file(point), row)
            self.task.say(
                f"{point.name}: validation {row['validation']:.2f} % -> {row['finetuned_validation']:.2f} %"
            )

    def _trains_on(self, point: Point, row: dict[str, Any]) -> bool:
        """Level 0 only if its training has killed something: the rest is the trained network once more."""
        if not row["reached"]:
            return False
        return row["macs_saved"] > 0 if point.level == 0 else point.level in self.settings.finetuned_levels

    def finetuned(self, point: Point) -> nn.Module:
        """The fine-tuned network of a point, trained now if it has not been."""
        task, net = self.task, self.points.pruned(point)
        assert net is not None
        run = Run(self.file(point).with_suffix(""))
        if run.has("weights"):
            return read_weights(net, run.file("weights"))
        finetune(
            net,
            self._finetune_config(point),
            task.images,
            run.path,
            progress=task.progress,
            device=task.device,
        )
        write_weights(run, net)
        return net

    def _finetune_config(self, point: Point) -> Config:
        """A cosine from a small learning rate, nothing penalized; slopes that stand in for plain activations stay 1."""
        base = training_config(
            dataclasses.replace(self.settings.base, seed=point.seed), point.method.training
        )
        stand_in = not base.model.rotated and not point.method.is_coupled
        lr = self.settings.finetune_lr * base.optimizer.lr
        return dataclasses.replace(
            finetune_config(base, self.settings.finetune_epochs, lr),
            model=dataclasses.replace(base.model, rotated=True) if stand_in else base.model,
            trains="weights" if stand_in else "all",
            penalized="slopes",
            compile=False,  # every network has another shape: compiling takes longer than it saves
        )

    def test(self) -> None:
        """Read the test images: every network, before and after fine-tuning, and those that were trained in full."""
        split = self.task.images.test
        self.trainings.evaluate("test")
        for point in self.points:
            row = self.row(point)
            if row["reached"] and "test" not in row:
                small = self.points.pruned(point)
                assert small is not None
                row["test"] = evaluate_model(small, split)
                write_json(self.file(point), row)
            if "finetuned_validation" in row and "finetuned_test" not in row:
                row["finetuned_test"] = evaluate_model(self.finetuned(point), split)
                write_json(self.file(point), row)

    def time(self) -> None:
        """Measure each network of the fine-tuned levels in onnxruntime, interleaved with the plain one.

        The plain one as torch exports it, the others, whatever the method, in the layout that runs fastest.
        """
        from ...deploy.conversion import raw_onnx
        from ...deploy.engines import graph_runner
        from ...deploy.fastest import fastest_layout
        from ...deploy.timing import compare_latency

        inputs = self.task.example_inputs
        for point in self.points:
            row = self.row(point)
            if not self.settings.latency_repeats or not self._trains_on(point, row) or "speedup" in row:
                continue
            small = self.points.pruned(point)
            assert small is not None
            plain = raw_onnx(self.trainings.plain(point.seed), inputs).content
            contents = {"plain": plain, "small": fastest_layout(small, inputs).content}
            runs = {
                name: graph_runner(content, inputs, engine="onnxruntime")
                for name, content in contents.items()
            }
            timed = compare_latency(runs, self.settings.latency_repeats)
            row["latency_ms"], row["plain_latency_ms"] = timed.medians_ms["small"], timed.medians_ms["plain"]
            row["speedup"] = timed.speedup("small", over="plain")
            write_json(self.file(point), row)

    def file(self, point: Point) -> Path:
        """Where what is known about a point is kept."""
        return self.task.path / "points" / f"{point.name}.json"

    def row(self, point: Point) -> dict[str, Any]:
        """What is known about a point."""
        row: dict[str, Any] = read_json(self.file(point))
        return row

    def rows(self) -> list[dict[str, Any]]:
        """What is known about all points that have been reached."""
        rows = [self.row(point) for point in self.points if self.file(point).is_file()]
        return [row for row in rows if row["reached"]]
