"""The network of a finished training, from the files of its run alone.

Requires: a run that was trained to the end.
Ensures: nothing is trained, and no image is read where their format is recorded (:mod:`rotated_relu.training.images`).
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.arguments import checked
from ..core.errors import ArgumentError, FileFormatError, RotatedReLUError, RunError
from ..core.run_directory import Run, replacing
from ..nn.rotate import rotate
from ..nn.slopes import slopes
from .brought.architectures import is_brought, parse
from .brought.trust import check_trusted
from .config import Config
from .data.format import ImageFormat
from .data.splits import ImageData
from .images import image_format
from .settings import ConfigError


@checked()
def build_model(config: Config, images: ImageData | ImageFormat) -> nn.Module:
    """The network that a configuration asks for, freshly initialised from its seed.

    Image channels, the input width of the fully connected network and the image size of the transformer follow the
    images.

    Raises:
        RunError: If code of somebody else would have to run for it that nobody of this process has named.
    """
    torch.manual_seed(config.seed)
    net = _brought(config, images) if is_brought(config.model.name) else _created(config, images)
    if config.model.slope_init == "ones":
        for slope in slopes(net).values():
            nn.init.ones_(slope)
    return net


def _brought(config: Config, images: ImageData | ImageFormat) -> nn.Module:
    """The network of somebody else, with slopes if they are asked for."""
    architecture = parse(config.model.name, config.model.options)
    check_trusted(architecture)
    net = architecture.build(images.num_classes)
    return rotate(net, torch.zeros(1, *images.image_shape)) if config.model.rotated else net


def _created(config: Config, images: ImageData | ImageFormat) -> nn.Module:
    """A network of ours or torchvision's."""
    from ..nn.models import create
    from ..nn.models.registry import OWN

    options: dict[str, Any] = dict(config.model.options)
    channels, height, width = images.image_shape
    name = config.model.name
    if name == "fcnn":
        options.setdefault("in_features", channels * height * width)
    elif name in OWN:
        options.setdefault("in_channels", channels)
    if name == "vit":
        options.setdefault("image_size", height)
    example = torch.zeros(1, channels, height, width)
    try:
        return create(name, images.num_classes, config.model.rotated, example_inputs=example, **options)
    except Exception as found:  # of the builder, about an option or the size of the images
        if isinstance(found, RotatedReLUError) and not isinstance(found, ArgumentError):
            raise
        error = found.__cause__ or found
        given = f" with the options {config.model.options}" if config.model.options else ""
        raise ConfigError(
            f"{name} cannot be built for images of {channels} x {height} x {width}{given}: "
            f"{type(error).__name__}: {error}"
        ) from error


def trained_network(run: Run, config: Config) -> nn.Module:
    """The trained network of a run, in eval mode.

    Raises:
        RunError: If the run has not been trained to the end, or its weights do not fit its settings.
    """
    return stored_network(run.need("weights"), run, config)


def stored_network(path: Path, run: Run, config: Config) -> nn.Module:
    """A network of a run from one of its files: whole, or compacted with its plan; in eval mode.

    Raises:
        RunError, PlanError: If the file does not fit the network of the run.
    """
    from ..pruning.removal.checkpoint import is_compacted, load

    net = build_model(config, image_format(run, config))
    with contextlib.suppress(FileFormatError):  # reading the weights says what is wrong with the file
        if is_compacted(path):
            return load(path, net).eval()
    return read_weights(net, path)


def write_weights(run: Run, net: nn.Module) -> None:
    """Write ``weights.safetensors``; from then on the run counts as trained."""
    write_tensors(run.file("weights"), {key: value.contiguous() for key, value in net.state_dict().items()})


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a file of safetensors, atomically.

    Raises:
        RunError: If it cannot be written: directory missing, no permission, disk full.
    """
    from safetensors.torch import save

    # Not by save_file, which words a full disk as an error of its own.
    with replacing(path) as beside:
        beside.write_bytes(save(tensors))


def read_weights(net: nn.Module, path: Path) -> nn.Module:
    """Fill ``net`` from a file of a run.

    Raises:
        RunError: If the file does not fit the network.
    """
    from safetensors.torch import load_file

    try:
        net.load_state_dict(load_file(path))
    except Exception as error:
        raise RunError(f"{path} does not hold the weights of this run's network: {error}") from error
    return net.eval()
