r"""How much each channel matters: scores by which slopes are sent to zero.

The paper ranks channels by :math:`|a|`. What a slope means depends on what reads it: :math:`a \to c\,a`,
:math:`W \to W / c` is the same network. Three scores, of which the second allows for the consumer's weights and the
third for all that is behind:

- ``slope``: :math:`|a_c|`, as published;
- ``consumer``: :math:`|a_c| \, \lVert W_{:,c} \rVert_2` over all convolutions and linear layers that read the channel;
- ``taylor``: the mean over batches of :math:`(a_c \, \partial L / \partial a_c)^2`, the first-order estimate of what
  removing the channel does to the loss, squared. Needs labelled images.

Divided by what goes with a channel (:func:`per_cost`), a score chooses what costs much for what it does. On ResNet-20
that is by far the best for the first-order score, and bad for the other two (``benchmarks/scores.json``).

Sources: Nayak and Kalyani, TMLR 2024 (``slope``); Molchanov et al., *Importance Estimation for Neural Network Pruning*,
CVPR 2019, equation 8 (``taylor``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..core.arguments import checked, kind_of
from ..core.errors import ArgumentError, SlopeError
from ..core.modules import Inputs, eval_mode, unwrap
from ..nn.folding import as_plain
from ..nn.folding.consumers import Fold, layers_behind
from ..nn.slopes import check_slopes, slopes

FREE = 1e-9  # cost of a channel that saves nothing: it comes last, and scores stay finite


class Scores(dict[str, Tensor]):
    """Name of a slope, as in ``slopes()`` -> float (channels,), higher matters more; and what the numbers are.

    Wherever scores are taken, a plain dictionary will do; results then call them ``custom``.

    Attributes:
        kind: One of ``rotated_relu.core.criteria.SCORES``, or a name of the caller's.
        per: Unit by whose saving they are divided; empty if they are not.
    """

    def __init__(self, values: Mapping[str, Tensor], kind: str, per: str = "") -> None:
        super().__init__(values)
        self.kind, self.per = kind, per


def slope_scores(net: nn.Module) -> Scores:
    """``|a|`` of every slope.

    Raises:
        SlopeError: If there are no slopes, or some are not finite.
    """
    return Scores({name: slope.detach().abs().clone() for name, slope in check_slopes(net).items()}, "slope")


def random_scores(net: nn.Module, seed: int = 0) -> Scores:
    """Numbers between 0 and 1 that are the same for the same names and widths: a choice that knows nothing.

    Raises:
        SlopeError: If there are no slopes, or some are not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    values = {
        name: torch.rand(slope.numel(), generator=generator) for name, slope in check_slopes(net).items()
    }
    return Scores(values, "random")


@checked()
def consumer_scores(net: nn.Module, example_inputs: Inputs) -> Scores:
    """``|a|`` times the norm of the weights that read the channel; ``|a|`` alone where no layer reads it directly.

    Args:
        net: A rotated network; it is only read.
        example_inputs: As in :func:`rotated_relu.rotate`.

    Raises:
        SlopeError: If there are no slopes, or some are not finite.
        CaptureError: If ``torch.export`` cannot capture the network.
    """
    scores = Scores(slope_scores(net), "consumer")
    plain = as_plain(unwrap(net))
    for gate, consumers in layers_behind(plain, example_inputs).items():
        name = f"{gate}.slope" if gate else "slope"
        if consumers:
            squares = sum(
                _squares(plain, layer, fold, len(scores[name])) for layer, fold in consumers.items()
            )
            scores[name] *= torch.as_tensor(squares).sqrt()
    return scores


@checked()
def taylor_scores(
    net: nn.Module, batches: Iterable[tuple[Any, Tensor]], loss: Callable[[Tensor, Tensor], Tensor]
) -> Scores:
    """Mean over ``batches`` of ``(a * dL/da) ** 2``, in eval mode; nothing of the network changes.

    Args:
        net: A rotated network.
        batches: Pairs of what ``net`` takes and the labels, on its device.
        loss: ``loss(outputs, labels)``, a scalar.

    Raises:
        SlopeError: If there are no slopes, some are not finite, or there is no batch.
        ArgumentError: If a batch is no pair, or the loss is no scalar that depends on the network.
    """
    parameters = list(check_slopes(net).values())
    wanted = [slope.requires_grad for slope in parameters]
    totals, count = [torch.zeros_like(slope) for slope in parameters], 0
    try:
        for slope in parameters:
            slope.requires_grad_(True)
        with eval_mode(net), torch.enable_grad():
            for batch in batches:
                images, labels = _pair(batch)
                value = _scalar(loss(net(images), labels))
                gradients = torch.autograd.grad(value, parameters, allow_unused=True)
                count += 1
                for total, slope, gradient in zip(totals, parameters, gradients, strict=True):
                    total += 0 if gradient is None else (slope.detach() * gradient).square()
    finally:
        for slope, was in zip(parameters, wanted, strict=True):
            slope.requires_grad_(was)
    if not count:
        raise SlopeError("the Taylor score needs at least one batch of labelled inputs, got none")
    return Scores({name: total / count for name, total in zip(slopes(net), totals, strict=True)}, "taylor")


def _pair(batch: Any) -> tuple[Any, Tensor]:
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise ArgumentError(f"batches must be pairs of inputs and labels, got {kind_of(batch)}")
    return batch[0], batch[1]


def _scalar(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
        raise ArgumentError(
            f"loss must return a scalar that depends on the network's outputs, got {kind_of(value)}"
        )
    return value


def per_cost(scores: Mapping[str, Tensor], saved: Mapping[str, float], unit: str = "macs") -> Scores:
    """Scores divided by what removing one channel saves.

    Args:
        scores: From one of the functions above.
        saved: The same names to what a channel costs, for example
            :meth:`~rotated_relu.pruning.estimate.CostEstimate.saved_per_channel`; channels that cost nothing come last.
        unit: What was counted.
    """
    divided = {name: values / max(saved[name], FREE) for name, values in scores.items()}
    return Scores(divided, getattr(scores, "kind", "custom"), unit)


def _squares(net: nn.Module, layer: str, fold: Fold, channels: int) -> Tensor:
    """Sum of squared weights by the channel that they multiply, shape (channels,)."""
    module = net.get_submodule(layer)
    weight = module.get_parameter("weight").detach()
    groups = getattr(module, "groups", 1)
    per_input = weight.square().flatten(2).sum(2) if weight.dim() > 2 else weight.square()
    per_input = per_input.view(groups, -1, per_input.shape[1]).sum(1).flatten()
    return per_input.view(channels, fold.repeat).sum(1)
