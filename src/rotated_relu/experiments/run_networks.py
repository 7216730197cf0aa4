"""The networks and images that a run directory stands for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ..core.errors import UnknownNameError
from ..core.run_directory import Run, read_json

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..training import Config
    from ..training.data.format import ImageFormat
    from ..training.data.splits import ImageData

WEIGHTS = ("trained", "compact", "finetuned")


@dataclass(frozen=True)
class RunNetworks:
    """A run with what it takes to build its networks; each part is read when first asked for.

    Attributes:
        run: The run directory.
    """

    run: Run

    @cached_property
    def config(self) -> Config:
        """How it was trained."""
        from ..training import Config

        return Config.from_dict(read_json(self.run.need("config")))

    @cached_property
    def images(self) -> ImageData:
        """What it was trained on."""
        from ..training import load_data

        # Nobody but the run named them: they may be someone else's choice.
        return load_data(self.config, offline=True)

    @property
    def trained_key(self) -> str:
        """What measurements and reports call the network before compaction: ``rotated``, ``relu`` or ``original``."""
        if self.run.has("shrinking"):
            return "original"
        return "rotated" if self.config.model.rotated else "relu"

    @cached_property
    def image_format(self) -> ImageFormat:
        """What its images look like, without reading one where the run says so."""
        from ..training.images import image_format

        return image_format(self.run, self.config)

    @property
    def metadata(self) -> dict[str, str]:
        """What files of its networks say of their input and output."""
        from ..core.preprocessing import as_metadata

        return as_metadata(self.image_format.preprocessing, self.image_format.class_names)

    def example_inputs(self, batch_size: int = 1) -> Tensor:
        """Inputs of the shape and range that the networks take, always the same: random pixels, no image is read."""
        return self.image_format.noise(batch_size)

    def validation_inputs(self, batch_size: int) -> Tensor:
        """The first validation images, normalised, repeated where there are fewer than ``batch_size``."""
        import torch

        split = self.images.validation
        return split.normalised(torch.arange(batch_size) % len(split))

    def network(self, weights: str) -> nn.Module:
        """A network of this run in eval mode: ``trained``, ``compact`` or ``finetuned``.

        Raises:
            RunError: If those weights have not been written yet; names the verb that does.
            UnknownNameError: If there is no such choice.
        """
        if weights not in WEIGHTS:
            raise UnknownNameError("weights", weights, WEIGHTS)
        return self._trained() if weights == "trained" else self._small(weights)

    def newest(self) -> str:
        """The furthest of ``trained``, ``compact``, ``finetuned`` that this run has got to."""
        return next((name for name in reversed(WEIGHTS[1:]) if self.run.has(name)), "trained")

    def newest_small(self) -> str:
        """``finetuned`` if there is one, else ``compact``.

        Raises:
            RunError: If the run has not been pruned.
        """
        newest = self.newest()
        if newest == "trained":
            self.run.need("compact")
        return newest

    def _trained(self) -> nn.Module:
        from ..training.trained import trained_network

        return trained_network(self.run, self.config)

    def _small(self, weights: str) -> nn.Module:
        from ..pruning.removal import load
        from ..training import build_model

        path = self.run.need(weights)
        return load(path, build_model(self.config, self.image_format)).eval()


def reference_key(reference: RunNetworks, loaded: RunNetworks) -> str:
    """What measurements and reports call the network of a run that another one is compared with."""
    key = reference.trained_key
    return "reference" if key == loaded.trained_key else key


def open_run(path: str) -> RunNetworks:
    """Open a run directory by the path that a person typed.

    Raises:
        RunError: If it is none; suggests those nearby.
    """
    return RunNetworks(Run.open(path))
