r"""A loss that lets a small network learn from the outputs of the large one it was made from.

Source: Hinton, Vinyals and Dean, *Distilling the Knowledge in a Neural Network*, 2015, section 2; the factor
:math:`T^2` keeps the size of the gradients when the temperature changes, as they advise.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from ..core.arguments import checked
from ..core.errors import ShapeError, SlopeError
from ..core.modules import first_line


@checked()
def distillation_loss(
    scores: Tensor,
    teacher_scores: Tensor,
    targets: Tensor,
    weight: float = 0.9,
    temperature: float = 4.0,
    *,
    label_smoothing: float = 0.0,
) -> Tensor:
    r"""Cross entropy with the labels, and with what the teacher says.

    .. math:: (1 - w) \, \mathrm{CE}(s, y) + w \, T^2 \, \mathrm{KL}(\mathrm{softmax}(t / T) \| \mathrm{softmax}(s / T))

    Args:
        scores: The network's scores before softmax, shape (batch, classes, ...).
        teacher_scores: The teacher's, of the same shape; no gradient flows into them.
        targets: Class indices, shape (batch, ...), as of ``torch.nn.functional.cross_entropy``.
        weight: w, the part of the teacher, 0 to 1.
        temperature: T, above 0; larger ones let the teacher's small probabilities speak.
        label_smoothing: Of the cross entropy with the labels.

    Returns:
        The mean over all positions, a scalar.

    Raises:
        ShapeError: If the two scores have different shapes, or the targets do not belong to them.
        SlopeError: If weight or temperature is out of range.
    """
    if scores.shape != teacher_scores.shape:
        raise ShapeError(
            f"the teacher's scores have shape {tuple(teacher_scores.shape)}, the network's {tuple(scores.shape)}; "
            "distillation compares them entry by entry"
        )
    if not 0 <= weight <= 1:
        raise SlopeError(f"weight must be between 0 (labels alone) and 1 (teacher alone), got {weight}")
    if not (temperature > 0 and math.isfinite(temperature)):
        raise SlopeError(f"temperature must be a positive number, got {temperature}")
    if targets.shape not in (scores.shape, scores.shape[:1] + scores.shape[2:]) or not scores.dim():
        raise ShapeError(
            f"targets of shape {tuple(targets.shape)} do not belong to scores of shape {tuple(scores.shape)}: one "
            "class index is needed where the scores have a vector"
        )
    try:
        return _both(scores, teacher_scores, targets, weight, temperature, label_smoothing)
    except (RuntimeError, IndexError) as error:  # of a dtype, a class that there is not, two devices
        raise ShapeError(f"the loss cannot be computed: {first_line(error)}") from error


def _both(
    scores: Tensor,
    teacher_scores: Tensor,
    targets: Tensor,
    weight: float,
    temperature: float,
    label_smoothing: float,
) -> Tensor:
    labels = F.cross_entropy(scores, targets, label_smoothing=label_smoothing)
    likely = F.log_softmax(scores / temperature, dim=1)
    wanted = F.log_softmax(teacher_scores.detach() / temperature, dim=1)
    # Summed over the classes, averaged over everything else.
    divergence = F.kl_div(likely, wanted, reduction="none", log_target=True).sum(dim=1).mean()
    return (1 - weight) * labels + weight * temperature**2 * divergence
