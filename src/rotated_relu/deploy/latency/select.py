"""Choose channels in one shot, with the times of an engine where time is what is to be saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from ...core.arguments import checked
from ...core.modules import Inputs
from ...pruning.importance import slope_scores
from ...pruning.latency.table import LatencyTable
from ...pruning.mask import Mask
from ...pruning.select import check_choice, choose_channels
from .anchoring import anchored
from .calibrate import calibrate


@checked("round_to", "batch_size")
def select_channels(
    net: nn.Module,
    example_inputs: Inputs,
    *,
    keep: float = 0.5,
    unit: str = "macs",
    scores: Mapping[str, Tensor] | None = None,
    round_to: int | None = None,
    table: LatencyTable | None = None,
    engine: str = "onnxruntime",
    batch_size: int | None = None,
    progress: str = "none",
    loss: Callable[[], Tensor | float] | None = None,
) -> Mask:
    """Choose in one shot which channels go, so that at most a share of the network's cost is left.

    Greedy by score per saved cost: what one channel of each activation saves is counted once, on the network as it is,
    and channels go in that order, lowest first, until the budget is met. The best channel of an activation is spared
    until it is the last one, and none goes without which the inputs no longer lead to the output.

    Milliseconds, and other units with ``round_to``, are saved in steps instead: channels go in blocks, whole branches
    included, and those of a residual stream together; a channel that would save nothing stays (see docs/latency.md).

    Args:
        net: A rotated network, in any mode and form; it is only read.
        example_inputs: As in :func:`rotated_relu.rotate`; multiply-accumulates are those of these inputs.
        keep: Share of the ``unit`` that may be left, above 0 and at most 1; for ``latency`` 1 over the speed-up.
        unit: ``macs``, ``parameters``, ``channels``, or ``latency``: milliseconds of a call.
        scores: Name of each slope to a score per channel, shape (channels,), as from
            :mod:`rotated_relu.pruning.importance`, *not* yet divided by a cost; ``|a|`` if None.
        round_to: Widths that are left are multiples of it, such as 8 or 16; None and 1 take the steps of the table
            for ``latency``, and single channels for all other units.
        table: Measured times, for ``latency``: from ``rr.calibrate`` or ``rr.LatencyTable.load``. Without one,
            ``rr.calibrate`` measures what its cache does not have, up to five minutes; then what is chosen is timed as
            a whole, in turn with the network, and chosen again where it takes another share than was asked for.
        engine: For ``latency`` without a table: ``onnxruntime``, ``openvino``, ``torch`` or ``torch.compile``.
        batch_size: For ``latency`` without a table: examples per call; as many as the example inputs have if None.
        progress: For ``latency`` without a table: ``none``, ``bar``, ``lines`` or ``auto``, as of ``rr.calibrate``.
        loss: Where channels go in steps: gives the loss of ``net`` on some images, always the same ones, as a number or
            a tensor of one. It is called without gradients, once for every block that could be left out, and what it
            says then counts instead of the scores, which are no measure of whole branches. A few hundred images that
            the network was trained on will do; the network's mode is yours, buffers are put back.

    Returns:
        The mask; nothing has been changed. ``rr.compact(net, example_inputs, mask=mask)`` removes the channels.

    Raises:
        SlopeError: If ``keep`` is out of range or less than can be had (says what can), there are no slopes, some are
            not finite, or the scores are not those of this network.
        UnknownNameError: If there is no such unit or engine.
        ArgumentError: If ``round_to`` is no positive integer, there is a table and the unit is not ``latency``, or a
            loss that is no number, or where channels do not go in steps.
        LatencyError: If the table lacks a layer of this network, or one cannot be measured.
        CaptureError: If the network cannot be captured.

    Example::

        >>> mask = rr.select_channels(net, images[:1], keep=0.6)
        >>> mask = rr.select_channels(net, images[:1], keep=1 / 2, unit="latency", engine="openvino", batch_size=64)
        >>> mask = rr.select_channels(net, images[:1], round_to=8, loss=lambda: F.cross_entropy(net(images), labels))
        >>> result = rr.compact(net, images[:1], mask=mask)

    Source: ours; the score per cost is that of a greedy knapsack.
    """
    if table is None and unit == "latency":
        check_choice(net, keep, unit, scores, round_to, loss)  # before minutes of measuring
        table = calibrate(net, example_inputs, engine=engine, batch_size=batch_size, progress=progress)
        if keep < 1:
            scores = slope_scores(net) if scores is None else scores
            return anchored(
                net, example_inputs, table, keep=keep, scores=scores, round_to=round_to, loss=loss
            )[1]
    return choose_channels(
        net, example_inputs, keep=keep, unit=unit, scores=scores, table=table, round_to=round_to, loss=loss
    )
