r"""The rotated activation :math:`a \cdot g(x)` and the published initialisation of its slopes.

Source: N. Nayak, S. Kalyani, "Rotate the ReLU to Sparsify Deep Networks Implicitly", TMLR 2024, Section 3.
"""

from __future__ import annotations

import copy
import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..core.arguments import checked
from ..core.errors import GateError, ShapeError

MIN_ANGLE, MAX_ANGLE = 35.0, 55.0  # degrees of the rotated arm to the x axis, each mode
MODE_VARIANCE = 3.0


@checked()
def rotated_slopes_(slope: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Fill ``slope`` in place with the published two-mode truncated Gaussian mixture and return it.

    With probability 1/2 each: mean +1 or mean -1, variance 3, truncated to the angles [35, 55] degrees (so that
    the absolute value lies in [tan 35, tan 55] = [0.7002, 1.4281]). Drawn by inverting the normal distribution
    function, so one uniform draw gives one slope.

    Args:
        slope: Tensor of any shape, filled in place without recording gradients.
        generator: Source of randomness; torch's default generator if None.

    Raises:
        ShapeError: If the tensor cannot hold slopes.
    """
    if slope.layout != torch.strided or not slope.is_floating_point():
        raise ShapeError(
            f"slopes are a dense tensor of floating-point numbers, got {slope.layout}, {slope.dtype}"
        )
    sigma = math.sqrt(MODE_VARIANCE)
    low, high = (math.tan(math.radians(angle)) for angle in (MIN_ANGLE, MAX_ANGLE))
    bounds = torch.special.ndtr(torch.tensor([(low - 1) / sigma, (high - 1) / sigma], dtype=torch.float64))
    with torch.no_grad():
        uniform = torch.rand(2, *slope.shape, dtype=torch.float64, device=slope.device, generator=generator)
        magnitude = 1 + sigma * torch.special.ndtri(bounds[0] + (bounds[1] - bounds[0]) * uniform[0])
        sign = torch.where(uniform[1] < 0.5, 1.0, -1.0)
        slope.copy_(sign * magnitude.clamp(low, high))
    return slope


def rotate_gate(gated: Tensor, slope: Tensor, channel_dim: int = 1) -> Tensor:
    """Multiply an activation's output by one slope per channel.

    Args:
        gated: Output of the gate, any shape with ``gated.shape[channel_dim] == slope.numel()``.
        slope: Shape (channels,).
        channel_dim: Dimension of ``gated`` that holds the channels; may be negative.

    Raises:
        ShapeError: If the channel count does not match, or ``gated`` has no such dimension.
    """
    check_channels(gated, slope, channel_dim)
    return spread(slope, gated, channel_dim) * gated


def check_channels(gated: Tensor, slope: Tensor, channel_dim: int) -> None:
    """Raise :class:`ShapeError` unless ``gated`` has one entry along ``channel_dim`` for each slope."""
    shape, (channels,) = (
        gated.shape,
        slope.shape,
    )  # read once: under torch.export each read goes through modes
    dims = len(shape)
    if not -dims <= channel_dim < dims or shape[channel_dim] != channels:
        raise ShapeError(
            f"rotated activation has {channels} slopes along dimension {channel_dim}, but its input has shape "
            f"{tuple(shape)}; build it with num_channels and channel_dim that match the layer before"
        )


def spread(slope: Tensor, like: Tensor, channel_dim: int) -> Tensor:
    """The slopes in the dtype of ``like``, shaped to multiply it along ``channel_dim``."""
    view = [1] * like.dim()
    view[channel_dim] = -1
    if slope.dtype != like.dtype:
        # Under autocast the slopes stay float32: without the cast the product, and all after it, would be too.
        slope = slope.to(like.dtype)
    return slope.view(view)


class Rotated(nn.Module):
    r"""Any gate with g(0) = 0, multiplied by one learnable slope per channel.

    .. math:: y_c = a_c \, g(x_c)

    Args:
        gate: Elementwise activation module with gate(0) = 0: ReLU, ReLU6, GELU, SiLU, Hardswish, Mish, LeakyReLU...
        num_channels: Number of channels, hence of slopes.
        channel_dim: Dimension of the input that holds the channels (1 for images, -1 for token features).

    Shape:
        - Input: any shape with ``num_channels`` entries along ``channel_dim``.
        - Output: same shape as the input.

    Attributes:
        slope: Parameter of shape ``(num_channels,)``, initialised as published (see :func:`rotated_slopes_`).
        gate: The gate.

    Raises:
        GateError: If gate(0) is not 0 (a dead channel would not be zero), if ``num_channels`` is not positive, or if a
            ``PReLU`` has parameters for another number of channels.
        ShapeError: In the forward pass, if the input does not have ``num_channels`` along ``channel_dim``.

    Source: Nayak and Kalyani, TMLR 2024 (ReLU, GELU, SiLU). Not ``torch.nn.RReLU``, which is a randomised leaky ReLU.

    Example::

        >>> act = Rotated(nn.GELU(), 3072, channel_dim=-1)
        >>> act(torch.randn(2, 197, 3072)).shape
        torch.Size([2, 197, 3072])
    """

    slope: nn.Parameter
    # Set where a module further out counts the calls of functions (see dispatch.py), and would count these too.
    hide_calls: bool = False

    @checked()
    def __init__(self, gate: nn.Module, num_channels: int, channel_dim: int = 1) -> None:
        super().__init__()
        if num_channels < 1:
            raise GateError(
                f"a rotated activation needs at least one channel, got num_channels={num_channels}"
            )
        check_gate(gate, num_channels)
        self.gate = gate
        self.channel_dim = channel_dim
        self.slope = nn.Parameter(torch.empty(num_channels))
        self.reset_parameters()

    @property
    def num_channels(self) -> int:
        """Number of slopes."""
        return self.slope.shape[0]

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the slopes again from the published distribution."""
        rotated_slopes_(self.slope, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``slope * gate(x)``, slopes along ``channel_dim``."""
        with self.hidden():
            return rotate_gate(self.gate(x), self.slope, self.channel_dim)

    def hidden(self) -> AbstractContextManager[object]:
        """A context in which nobody counts function calls, if ``hide_calls`` asks for it."""
        return torch._C.DisableTorchFunction() if self.hide_calls else nullcontext()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        """Take the parameters of a gate (a PReLU) from where a network without slopes has them, too."""
        for name in [name for name, _ in (*self.gate.named_parameters(), *self.gate.named_buffers())]:
            if prefix + name in state_dict and f"{prefix}gate.{name}" not in state_dict:
                state_dict[f"{prefix}gate.{name}"] = state_dict.pop(prefix + name)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        """Show width and channel dimension in ``print(model)``."""
        return f"{self.num_channels}, channel_dim={self.channel_dim}"


class RotatedReLU(Rotated):
    r"""Rotated ReLU, :math:`y_c = a_c \max(0, x_c)`: :class:`Rotated` with a ReLU gate.

    Args:
        num_channels: Number of channels, hence of slopes.
        channel_dim: Dimension of the input that holds the channels.

    Source: Nayak and Kalyani, TMLR 2024, equation 1.

    Example::

        >>> RotatedReLU(64)(torch.randn(8, 64, 32, 32)).shape
        torch.Size([8, 64, 32, 32])
    """

    def __init__(self, num_channels: int, channel_dim: int = 1) -> None:
        super().__init__(nn.ReLU(), num_channels, channel_dim)


def check_gate(gate: nn.Module, num_channels: int) -> None:
    """Raise :class:`GateError` unless gate(0) = 0, evaluated in eval mode on the gate's own device.

    A slope of zero makes a channel zero for any gate, but only a gate with g(0) = 0 keeps a channel dead when the
    filter before it has been removed. A gate whose parameters are on the meta device, which holds no values, is checked
    with parameters of 1.
    """
    width = _gate_width(gate, num_channels)
    trial = gate
    if any(parameter.is_meta for parameter in gate.parameters()):
        trial = copy.deepcopy(gate).to_empty(device="cpu")
        for parameter in trial.parameters():
            nn.init.ones_(parameter)
    # Named, since torch.device("meta") as a context would make it the default.
    reference = next(trial.parameters(), torch.zeros((), device="cpu"))
    was_training = trial.training
    trial.eval()
    try:
        with torch.no_grad():
            zeros = torch.zeros(1, width, dtype=reference.dtype, device=reference.device)
            value = float(trial(zeros).abs().max())
    except Exception as error:
        raise GateError(
            f"{gate} is not an elementwise activation: gate(zeros(1, {width})) failed: {error}"
        ) from error
    finally:
        trial.train(was_training)
    if not value == 0:
        raise GateError(
            f"{gate} cannot be rotated: gate(0) = {value:g}, but it must be 0; use ReLU, GELU, SiLU, ..."
        )


def _gate_width(gate: nn.Module, num_channels: int) -> int:
    """Channels of the input that a gate accepts: any, so 1, but for a PReLU with one parameter per channel."""
    width = gate.num_parameters if isinstance(gate, nn.PReLU) else 1
    if width not in (1, num_channels):
        raise GateError(
            f"{gate} has parameters for {width} channels, but there are {num_channels} slopes; build it with "
            f"num_parameters={num_channels}, or 1 for all channels"
        )
    return width
