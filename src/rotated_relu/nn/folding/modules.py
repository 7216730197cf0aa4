r"""The two halves of the fast form: gates that leave their slope out, and consumers that put it on their weight.

.. math:: \mathrm{conv}(a \cdot g(x), W) = \mathrm{conv}(g(x), W a),

with a along the input channels of W. The same function, so the same gradients of x, a and W; holds for slopes of any
sign, and with zero padding, since a * 0 = 0. The product is formed in every forward pass, so the parameters
stay the slope and the weight.

Two kinds of gate:

- *Folded*: a fixed set of consumers, found beforehand, takes the slope; the gate returns g(x) alone.
- *Fused*: somebody else reads too (a residual addition). The gate returns a * g(x) and hangs g(x) on it; a consumer
  that receives this very tensor, unchanged, uses g(x) and W a. Then only g(x) is kept for the backward pass.

All classes are subclasses of what they stand in for and hold no parameters or buffers of their own: the state dict,
``isinstance``, copies and pickles are as before.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..activation import Rotated, RotatedReLU, check_channels
from .scale import scale_channels


class Pass:
    """Knows whether the network's own forward pass is running; hooks of its root keep it informed.

    A part of the network that is called on its own must compute what its name says: gates and consumers outside
    a pass are plain. Activation checkpointing recomputes parts during the backward pass; those belong to a pass.
    Under ``torch.export`` everything is plain, so that whoever captures the network sees its plain form.
    """

    def __init__(self) -> None:
        self.inside = False

    def enter(self, module: nn.Module, inputs: Any) -> None:
        """Forward pre-hook of the root."""
        self.inside = not torch.compiler.is_exporting()

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Forward hook of the root; called after an exception as well."""
        self.inside = False

    def running(self) -> bool:
        """Whether slopes are on the consumers' weights now."""
        if self.inside or torch.compiler.is_compiling():
            return self.inside
        return torch._C._current_graph_task_id() != -1  # recomputation within a backward pass


class Folded:
    """Mixin of a gate whose consumers all take the slope."""

    _pass: Pass

    def forward(self, x: Tensor) -> Tensor:
        """``gate(x)`` within a pass of the network, else ``slope * gate(x)``."""
        if self._pass.running():
            with self.hidden():  # type: ignore[attr-defined]
                gated: Tensor = self.gate(x)  # type: ignore[attr-defined]
                return gated
        return super().forward(x)  # type: ignore[misc,no-any-return]


class Unscaled(NamedTuple):
    """What hangs on the output y of a fused gate: y is ``slope * gated`` along ``dim`` as long as its version stays."""

    gated: Tensor
    slope: Tensor
    dim: int
    version: int


class Fused:
    """Mixin of a gate with other consumers: one tensor kept, ``gate(x)``."""

    def forward(self, x: Tensor) -> Tensor:
        """``slope * gate(x)``; under ``torch.compile`` the plain expression, which the compiler fuses."""
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return super().forward(x)  # type: ignore[misc,no-any-return]
        gate: Rotated = self  # type: ignore[assignment]
        with gate.hidden():
            gated: Tensor = gate.gate(x)
            check_channels(gated, gate.slope, gate.channel_dim)
            dim = gate.channel_dim % gated.dim()
            y = scale_channels(gated, gate.slope, dim)
        y._unscaled = Unscaled(gated, gate.slope, dim, y._version)  # type: ignore[attr-defined]
        return y


class Consumer:
    """Mixin of a convolution or linear layer that multiplies its weight by the slopes of what it reads.

    Attributes:
        _source: The folded gate that it reads, or None.
        _repeat: Consecutive input channels that share one slope (more than 1 after flattening an image).
    """

    _pass: Pass
    _source: Rotated | None
    _repeat: int
    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """The layer's own forward pass, with slopes on the weight where ``x`` comes without them."""
        if self._source is not None:
            if self._pass.running():
                return self._with_weight(x, self._scaled(self._source.slope, self._repeat))
        elif not torch.compiler.is_compiling():
            found: Unscaled | None = getattr(x, "_unscaled", None)
            if found is not None and found.version == x._version and found.dim == self._channel_dim(x):
                return self._with_weight(found.gated, self._scaled(found.slope, 1))
        return super().forward(x)  # type: ignore[misc,no-any-return]

    def _scaled(self, slope: Tensor, repeat: int) -> Tensor:
        with torch._C.DisableTorchFunction():  # whoever counts the network's products must not count this one
            if repeat > 1:
                slope = slope.view(-1, 1).expand(-1, repeat).reshape(-1)
            return self.weight * self._factor(slope)

    def _with_weight(self, x: Tensor, weight: Tensor) -> Tensor:
        raise NotImplementedError

    def _channel_dim(self, x: Tensor) -> int | None:
        """Dimension of ``x`` that the layer sums over, or None if ``x`` has an unusual rank."""
        raise NotImplementedError

    def _factor(self, slope: Tensor) -> Tensor:
        """The slopes of all input channels, shaped to multiply the weight."""
        raise NotImplementedError


class _LinearReader(Consumer):
    bias: Any

    def _with_weight(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight, self.bias)

    def _channel_dim(self, x: Tensor) -> int | None:
        return x.dim() - 1

    def _factor(self, slope: Tensor) -> Tensor:
        return slope


class _ConvReader(Consumer):
    groups: int
    bias: Any

    def _with_weight(self, x: Tensor, weight: Tensor) -> Tensor:
        y: Tensor = self._conv_forward(x, weight, self.bias)  # type: ignore[attr-defined]
        return y

    def _channel_dim(self, x: Tensor) -> int | None:
        return 1 if x.dim() == self.weight.dim() else None

    def _factor(self, slope: Tensor) -> Tensor:
        """Weight shape is (outputs, inputs / groups, ...): each group of outputs reads its own inputs."""
        spatial = [1] * (self.weight.dim() - 2)
        if self.groups == 1:
            return slope.view(1, -1, *spatial)
        per_group = self.weight.shape[0] // self.groups
        rows = slope.view(self.groups, 1, -1).expand(-1, per_group, -1)
        return rows.reshape(self.weight.shape[0], -1, *spatial)


class FoldedRotated(Folded, Rotated):
    """Stands in for :class:`Rotated`."""


class FoldedRotatedReLU(Folded, RotatedReLU):
    """Stands in for :class:`RotatedReLU`."""


class FusedRotated(Fused, Rotated):
    """Stands in for :class:`Rotated`."""


class FusedRotatedReLU(Fused, RotatedReLU):
    """Stands in for :class:`RotatedReLU`."""


class ReaderLinear(_LinearReader, nn.Linear):
    """Stands in for ``nn.Linear``."""


class ReaderConv1d(_ConvReader, nn.Conv1d):
    """Stands in for ``nn.Conv1d``."""


class ReaderConv2d(_ConvReader, nn.Conv2d):
    """Stands in for ``nn.Conv2d``."""


class ReaderConv3d(_ConvReader, nn.Conv3d):
    """Stands in for ``nn.Conv3d``."""


# Exact types only: a subclass may compute something else.
FOLDED: dict[type[nn.Module], type[nn.Module]] = {Rotated: FoldedRotated, RotatedReLU: FoldedRotatedReLU}
FUSED: dict[type[nn.Module], type[nn.Module]] = {Rotated: FusedRotated, RotatedReLU: FusedRotatedReLU}
CONSUMERS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: ReaderLinear,
    nn.Conv1d: ReaderConv1d,
    nn.Conv2d: ReaderConv2d,
    nn.Conv3d: ReaderConv3d,
}
PLAIN = {fast: plain for table in (FOLDED, FUSED, CONSUMERS) for plain, fast in table.items()}
