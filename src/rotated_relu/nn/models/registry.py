"""Models by name: ours, and torchvision's classification models with slopes put in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ...core.arguments import checked, kind_of, need_count
from ...core.errors import ArgumentError, RotatedReLUError, UnknownNameError
from ...core.extras import needs
from ...core.modules import first_line
from .demo import demo_resnet
from .fcnn import fcnn
from .preact import preact_resnet110, preact_resnet164
from .resnet import resnet20, resnet32, resnet44, resnet56, resnet110
from .vit import vit
from .wide import wrn_16_4, wrn_28_10, wrn_40_4

OWN: dict[str, Callable[..., nn.Module]] = {
    build.__name__: build
    for build in (
        demo_resnet,
        fcnn,
        preact_resnet110,
        preact_resnet164,
        resnet20,
        resnet32,
        resnet44,
        resnet56,
        resnet110,
        vit,
        wrn_16_4,
        wrn_28_10,
        wrn_40_4,
    )
}


def names() -> list[str]:
    """Names of all models that :func:`create` knows: ours first, then torchvision's."""
    return [*sorted(OWN), *sorted(set(_torchvision_names()) - OWN.keys())]


@checked()
def create(
    name: str,
    num_classes: int = 10,
    rotated: bool = True,
    *,
    example_inputs: torch.Tensor | None = None,
    **options: Any,
) -> nn.Module:
    """Build a model by name.

    Args:
        name: One of ours (``resnet20``, ``wrn_16_4``, ...) or a torchvision classification model.
        num_classes: Number of outputs.
        rotated: Put slopes on the activations.
        example_inputs: Needed to rotate torchvision's models, float (1, 3, H, W); 224 x 224 zeros if None.
        **options: Passed to the builder, for example ``dropout`` or ``in_channels``.

    Raises:
        UnknownNameError: If there is no such model.
        ArgumentError: If it cannot be built with these options.
    """
    need_count(num_classes, "num_classes")
    if name in OWN:
        with _building(name, options):
            return OWN[name](num_classes=num_classes, rotated=rotated, **options)
    needs("torchvision")
    if name not in _torchvision_names():
        raise UnknownNameError("model", name, names())
    from torchvision.models import get_model

    with _building(name, options):
        net: nn.Module = get_model(name, weights=None, num_classes=num_classes, **options)
    if not rotated:
        return net
    from ..rotate import rotate

    return rotate(
        net, torch.zeros(1, 3, 224, 224) if example_inputs is None else example_inputs, init="published"
    )


@contextlib.contextmanager
def _building(name: str, options: Mapping[str, Any]) -> Iterator[None]:
    """What a builder says about its options, as one error of ours."""
    try:
        yield
    except RotatedReLUError:
        raise
    except Exception as error:
        given = ", ".join(f"{key}={kind_of(value)}" for key, value in options.items()) or "no options"
        raise ArgumentError(f"{name} cannot be built with {given}: {first_line(error)}") from error


def _torchvision_names() -> list[str]:
    from torchvision import models

    return list(models.list_models(module=models))
