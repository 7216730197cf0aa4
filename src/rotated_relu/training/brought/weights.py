"""A trained network from its name and its weights, and the preprocessing that belongs to them where that is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from ...core.errors import FileFormatError, RotationError, UnknownNameError
from ...core.extras import needs
from ...core.preprocessing import INTERPOLATIONS, Preprocessing
from .architectures import TIMM, Architecture
from .state_dicts import SUFFIXES, fill, read_state_dict, renamed

PRETRAINED = "pretrained"


def bring(
    architecture: Architecture,
    weights: str,
    num_classes: int,
    *,
    renames: Mapping[str, str] | None = None,
) -> nn.Module:
    """Build a network and fill it.

    Args:
        architecture: See :func:`~rotated_relu.training.brought.architectures.parse`.
        weights: A file; or ``pretrained``, ``DEFAULT`` or another name of torchvision's weights, which are downloaded.
        num_classes: Of the images; a network with another number of outputs cannot be trained on them.
        renames: Module names in the file to those in the network.

    Returns:
        The network in eval mode, without slopes of ours.

    Raises:
        FileFormatError: If a file cannot be read, or a name is given where there are no weights by name.
        PlanError: If the weights do not fit the network.
        UnknownNameError: If torchvision has no weights of that name.
        RotationError: If the network cannot be built.
    """
    if _is_file(weights):
        return fill(architecture.build(num_classes), renamed(read_state_dict(weights), renames or {})).eval()
    sources: dict[str, Callable[[Architecture, str], nn.Module]] = {
        "torchvision": _torchvision,
        "timm": _timm,
    }
    if architecture.kind not in sources:
        raise FileFormatError(
            f"{weights}: there is no such file, and {architecture.name} has no published weights by name; "
            f"--weights takes a file ({', '.join(SUFFIXES)})"
        )
    return sources[architecture.kind](architecture, weights).eval()


def _is_file(weights: str) -> bool:
    return Path(weights).suffix in SUFFIXES or Path(weights).exists()


def known_preprocessing(architecture: Architecture, weights: str) -> Preprocessing | None:
    """What belongs to weights, told by their name: nothing is built, read or downloaded.

    Args:
        architecture: As for :func:`bring`.
        weights: Likewise.

    Returns:
        None where nobody says: a file of weights says nothing, but timm's networks know theirs.

    Raises:
        UnknownNameError: If torchvision has no weights of that name.
        RotationError: If timm has none.
    """
    if architecture.kind == "timm":
        return _preprocessing_of_timm(architecture.name.removeprefix(TIMM))
    if architecture.kind != "torchvision" or _is_file(weights):
        return None
    preset = _chosen(architecture, weights).transforms()
    return Preprocessing(
        tuple(preset.mean),
        tuple(preset.std),
        (preset.crop_size[0],) * 2,
        preset.resize_size[0],
        _interpolation(preset.interpolation.value),
    )


def _chosen(architecture: Architecture, weights: str) -> Any:
    """An entry of torchvision's list of weights."""
    needs("torchvision")
    from torchvision.models import get_model_weights

    known = get_model_weights(architecture.name)
    name = "DEFAULT" if weights == PRETRAINED else weights
    if name not in known.__members__:
        raise UnknownNameError(f"weights of {architecture.name}", name, known.__members__)
    return known[name]


def _torchvision(architecture: Architecture, weights: str) -> nn.Module:
    from torchvision.models import get_model

    net: nn.Module = get_model(
        architecture.name, weights=_chosen(architecture, weights), **architecture.options
    )
    return net


def _timm(architecture: Architecture, weights: str) -> nn.Module:
    if weights not in (PRETRAINED, "DEFAULT"):
        raise FileFormatError(
            f"{weights}: there is no such file; timm's own weights are called {PRETRAINED!r}"
        )
    needs("timm")
    import timm

    name = architecture.name.removeprefix(TIMM)
    net: nn.Module = timm.create_model(name, pretrained=True, **architecture.options)
    return net


def _preprocessing_of_timm(name: str) -> Preprocessing | None:
    needs("timm")
    from timm.models import get_pretrained_cfg

    try:
        found = get_pretrained_cfg(name)
    except RuntimeError as error:  # there is such a network, but not with weights of that tag
        raise RotationError(f"{TIMM}{name}: {error}") from error
    known = {} if found is None else asdict(found)
    config = {name: value for name, value in known.items() if value is not None}
    if "mean" not in config:
        return None
    height, width = config["input_size"][-2:]
    return Preprocessing(
        tuple(config["mean"]),
        tuple(config["std"]),
        (height, width),
        _resize_of_timm(config),
        _interpolation(config.get("interpolation", "bilinear")),
    )


def _resize_of_timm(config: Mapping[str, Any]) -> int | None:
    """Length of the shorter side before the middle is cut out, rounded down as timm does; None where it squeezes."""
    if config.get("crop_mode", "center") == "squash":
        return None
    size, share = int(min(config["input_size"][-2:])), float(config.get("crop_pct", 1.0))
    return max(
        size, math.floor(size / share)
    )  # three networks (VOLO) see a smaller picture within a black frame


def _interpolation(name: str) -> str:
    """``random`` of some training recipes is no way to look at a picture twice alike."""
    return name if name in INTERPOLATIONS else "bilinear"
