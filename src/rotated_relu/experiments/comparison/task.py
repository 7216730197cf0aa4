"""What all methods of a comparison share: settings, directory, images."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import DataError, RunError
from ...core.run_directory import Run, read_json, write_json
from ...training import Config, evaluate_model, load_data
from ...training.brought import bring, parse
from ...training.brought.trust import trust
from ...training.data.splits import ImageData
from ...training.data.storage import StreamedSplit
from ...training.images import resolved
from ...training.precision import with_precision
from ..shrinking.original import check_outputs, refuse_guessing
from .prune import macs
from .settings import Settings

FOLDERS = ("trainings", "tuning", "points")
# What may not change between two calls: files made with other values of the rest have other names.
FIXED = ("base", "weights", "finetune_epochs", "finetune_lr", "strengths", "tune_epochs")


class Task:
    """A comparison's settings and images, in a directory.

    Arguments and errors are those of :class:`~rotated_relu.experiments.comparison.run.Comparison`.
    """

    def __init__(
        self, settings: Settings, path: str | Path, say: Callable[[str], None], device: str, progress: str
    ) -> None:
        self.say, self.device, self.progress = say, device, progress
        run = Run.create(path)
        if run.has("config"):
            raise RunError(f"{run.path} holds a run; choose another directory for a comparison")
        self.path = run.path
        self.settings = self._with_precision(settings)
        for folder in FOLDERS:
            Run.create(self.path / folder)
        self._remember()

    def _with_precision(self, settings: Settings) -> Settings:
        """All networks train in one arithmetic, on whichever machine the comparison goes on."""
        path = self.path / "settings.json"
        base = read_json(path, dict[str, Any]).get("base") if path.is_file() else None
        known = Config.from_dict(base).precision if base else None
        return replace(settings, base=with_precision(settings.base, self.device, known))

    def _remember(self) -> None:
        """Keep the settings, and refuse a directory whose networks were made with other ones."""
        path, mine = self.path / "settings.json", self.settings.to_dict()
        if path.is_file():
            found = read_json(path, dict[str, Any])
            # Settings may have the names, and folders the relative paths, of an earlier version.
            found["base"] = resolved(Config.from_dict(found.get("base"))).identity()
            different = [name for name in FIXED if found.get(name) != json.loads(json.dumps(mine[name]))]
            if different:
                raise RunError(
                    f"{self.path} holds a comparison with other settings ({', '.join(different)}); choose another "
                    "directory, or repeat the first settings to go on with it"
                )
        write_json(path, mine)

    @cached_property
    def images(self) -> ImageData:
        """What all networks train on.

        Raises:
            DataError: If the images cannot be found or read, or are streamed.
        """
        images = load_data(self.settings.base)
        if isinstance(images.train, StreamedSplit):
            raise DataError(
                "a comparison reads its images in any order; choose another data.storage than 'stream'"
            )
        return images

    @cached_property
    def brought(self) -> nn.Module:
        """The trained network that all methods begin with, in eval mode; do not change it.

        Raises:
            FileFormatError, PlanError, RotationError, UnknownNameError: If it cannot be built and filled.
            RunError: If it does no better than guessing, or tells fewer classes apart than the images have.
        """
        weights, model = self.settings.weights, self.settings.base.model
        assert weights is not None
        architecture = parse(model.name, model.options)
        trust(architecture.name)
        net = bring(architecture, weights.place, self.images.num_classes, renames=weights.renames)
        outputs = check_outputs(net, self.images)
        told = self.settings.base.data.normalisation == "given"
        refuse_guessing(self.validated(net), self.images, outputs, told=told)
        return net

    @cached_property
    def example_inputs(self) -> Tensor:
        """One validation image."""
        return self.images.validation.normalised(torch.arange(1))

    def validated(self, net: nn.Module) -> float:
        """Accuracy on the validation images, in percent."""
        return evaluate_model(net, self.images.validation)

    def macs(self, net: nn.Module) -> int:
        """Multiply-accumulates for one image."""
        return macs(net, self.example_inputs)
