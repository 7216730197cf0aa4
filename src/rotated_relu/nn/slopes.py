"""The slopes of a rotated network: find them, check them."""

from __future__ import annotations

import torch
from torch import nn

from ..core.errors import SlopeError
from ..core.modules import check_network, unwrap
from .activation import Rotated


def rotated_modules(net: nn.Module) -> dict[str, Rotated]:
    """All rotated activations by qualified name, in module order."""
    check_network(net)
    return {name: module for name, module in net.named_modules() if isinstance(module, Rotated)}


def slopes(net: nn.Module) -> dict[str, nn.Parameter]:
    """All slopes of a network, ``{qualified name: Parameter of shape (channels,)}``, in module order.

    The names are those in the network itself, also where it is wrapped by ``torch.compile``, data parallelism or weight
    averaging: masks and scores fit it either way.

    Raises:
        ArgumentError: If it is no network.
    """
    found = rotated_modules(unwrap(net))
    return {f"{name}.slope" if name else "slope": module.slope for name, module in found.items()}


def check_slopes(net: nn.Module) -> dict[str, nn.Parameter]:
    """Return :func:`slopes`, having checked that there are some and that all are finite.

    Raises:
        SlopeError: Otherwise; names the first bad layer.
    """
    found = slopes(net)
    if not found:
        raise SlopeError(
            "the network has no slopes; put them in with rotated_relu.rotate(net, example_inputs) first"
        )
    for name, slope in found.items():
        bad = int((~torch.isfinite(slope)).sum())
        if bad:
            raise SlopeError(
                f"{name}: {bad} of {slope.numel()} slopes are NaN or infinite; restore a good checkpoint"
            )
    return found
