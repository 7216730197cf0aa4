"""The slopes of a rotated network: find them, check them, set small ones to zero."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..core.errors import (
    SlopeError,
)
from .activation import Rotated


def rotated_modules(net: nn.Module) -> dict[str, Rotated]:
    """All rotated activations by qualified name, in module order."""
    return {name: module for name, module in net.named_modules() if isinstance(module, Rotated)}


def slopes(net: nn.Module) -> dict[str, nn.Parameter]:
    """All slopes of a network, ``{qualified name: Parameter of shape (channels,)}``, in module order."""
    return {
        f"{name}.slope" if name else "slope": module.slope for name, module in rotated_modules(net).items()
    }


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


@torch.no_grad()
def apply_threshold(
    net: nn.Module, threshold: float, scores: Mapping[str, Tensor] | None = None
) -> dict[str, int]:
    """Set every slope with ``|a| < threshold`` to exactly 0, in place; given scores, those whose score is below.

    Args:
        net: A rotated network.
        threshold: zeta of the paper, in units of slope (or of the scores); 0 leaves all slopes as they are.
        scores: Name of each slope to a score per channel, shape (channels,); see ``pruning.importance``.

    Returns:
        ``{qualified name: number of slopes that are not zero}``.

    Raises:
        SlopeError: If there are no slopes, some are not finite, or the scores are not those of this network.
    """
    alive: dict[str, int] = {}
    found = check_slopes(net)
    if scores is not None:
        check_scores(found, scores)
    for name, slope in found.items():
        sizes = slope.abs() if scores is None else scores[name].to(slope.device)
        slope.masked_fill_(sizes < threshold, 0.0)
        alive[name] = int(torch.count_nonzero(slope))
    return alive


def check_scores(found: Mapping[str, nn.Parameter], scores: Mapping[str, Tensor]) -> None:
    """Raise :class:`SlopeError` unless every slope has one finite score per channel, not negative."""
    for name, slope in found.items():
        if name not in scores or scores[name].shape != slope.shape:
            got = tuple(scores[name].shape) if name in scores else "none"
            raise SlopeError(
                f"{name} needs one score per channel, shape {tuple(slope.shape)}, got {got}; score this network anew"
            )
        if not bool((scores[name].isfinite() & (scores[name] >= 0)).all()):
            raise SlopeError(f"{name}: scores must be finite and not negative; check the images and the loss")
