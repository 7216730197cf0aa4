"""Probes as torch modules, for engines that run modules: norms, slopes and activations as a network has them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.errors import LatencyError
from ...core.modules import Call
from ...pruning.latency.geometry import LayerGeometry
from ...pruning.removal.adapters import narrow
from .probe import CONVOLUTIONS, Probe


def module_of(probe: Probe) -> tuple[nn.Module, Call]:
    """A module with the copies of a probe in eval mode, and inputs for it.

    Raises:
        LatencyError: If operations of this kind cannot be measured.
    """
    inputs = Call(*_inputs(probe))
    if probe.bare:
        return nn.ReLU().eval(), Call(torch.zeros(probe.batch_size, 1))
    copies = [_Copy(probe) for _ in range(probe.copies)]
    return _Copies(copies).eval(), inputs


class _Copies(nn.Module):
    """All copies on the same inputs; nothing of theirs is merged, since torch runs what it is told."""

    def __init__(self, copies: list[_Copy]) -> None:
        super().__init__()
        self.copies = nn.ModuleList(copies)

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        """The results of all copies."""
        return [copy(*inputs) for copy in self.copies]


class _Copy(nn.Module):
    """One operation with what is behind it, in the order in which a network has it."""

    def __init__(self, probe: Probe) -> None:
        super().__init__()
        geometry = probe.geometry
        self.addition = geometry.addition
        self.operation = _operation(probe)
        self.norm = _norm(probe) if geometry.norm and geometry.kind != "add_constant" else None
        self.activation = _activation(geometry.activation) if geometry.kind != "activation" else None
        self.slopes = nn.Parameter(torch.ones(probe.per_channel)) if geometry.slopes else None

    def forward(self, *inputs: Tensor) -> Tensor:
        """See the class."""
        x: Tensor = self.operation(*(inputs[:-1] if self.addition else inputs))
        x = x if self.norm is None else self.norm(x)
        x = x + inputs[-1] if self.addition else x
        x = x if self.activation is None else self.activation(x)
        return x if self.slopes is None else x * self.slopes


class _Constant(nn.Module):
    """Adds one number per channel, as what is left of a branch does: its norm makes it, of the zeros of a layer."""

    def __init__(self, probe: Probe) -> None:
        super().__init__()
        self.branch = _constant_branch(probe) if probe.geometry.norm else None
        self.constant = nn.Parameter(torch.rand(probe.per_channel))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x + (self.constant if self.branch is None else self.branch(x))


def _constant_branch(probe: Probe) -> nn.Module:
    """What compaction leaves of a layer that reads nothing and its norm: one channel of zeros, and a constant."""
    ones = (1,) * len(probe.geometry.size)
    layer = LayerGeometry("linear")
    if probe.on_images:
        layer = LayerGeometry("conv", probe.geometry.size, ones, ones, (0,) * len(ones), ones, norm=True)
    norm = _norm(probe)
    narrow(norm, 1, [-1] * probe.outputs, None, width=probe.outputs)
    gone = _operation(replace(probe, geometry=layer, inputs=0, outputs=1))
    assert isinstance(gone, nn.Module)
    return nn.Sequential(gone, norm)


def _inputs(probe: Probe) -> list[Tensor]:
    kind, batch, size = probe.geometry.kind, probe.batch_size, probe.geometry.size
    shapes = [probe.input_shape]
    if kind == "attention":
        heads, length, keys = size
        shapes = [
            (batch, heads, length, probe.inputs),
            (batch, heads, keys, probe.inputs),
            (batch, heads, keys, probe.outputs),
        ]
    if kind == "matmul":
        shapes.append((batch * size[0], probe.inputs, probe.outputs))
    if kind == "mul" and probe.on_images:
        shapes.append((batch, probe.outputs, *(1,) * len(size)))
    elif kind in ("add", "mul", "concat"):
        width = probe.joined if kind == "concat" else probe.outputs
        shapes.append((batch, width, *size) if probe.on_images else (batch, *size, width))
    if probe.geometry.addition:
        shapes.append(
            (batch, probe.outputs, *probe.result_size) if probe.on_images else (batch, *size, probe.outputs)
        )
    return [torch.rand(shape) for shape in shapes]


def _norm(probe: Probe) -> nn.Module:
    if not probe.on_images:
        return nn.BatchNorm1d(probe.outputs)
    return (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[len(probe.geometry.size) - 1](probe.outputs)


def _operation(probe: Probe) -> Callable[..., Tensor]:
    geometry = probe.geometry
    if geometry.kind in CONVOLUTIONS:
        return _gone(_convolution(probe), 1, probe)
    if geometry.kind == "linear":
        return _gone(nn.Linear(max(1, probe.inputs), probe.outputs), -1, probe)
    if geometry.kind == "batch_norm":
        return _norm(probe)
    if geometry.kind == "layer_norm":
        return nn.LayerNorm(probe.outputs if not probe.on_images else geometry.size[-1])
    if geometry.kind == "group_norm":
        return nn.GroupNorm(1, probe.outputs)
    if geometry.kind == "activation":
        return _activation(geometry.activation) or nn.Identity()
    if geometry.kind in ("max_pool", "average_pool"):
        return _pool(geometry)
    if geometry.kind == "add_constant":
        return _Constant(probe)
    if geometry.kind == "shortcut":
        steps = tuple(slice(None, None, step) for step in geometry.stride)
        zeros = (*(0,) * (2 * len(steps)), 0, probe.outputs - probe.inputs)  # below 0 it cuts off
        return lambda x: F.pad(x[(slice(None), slice(None), *steps)], zeros)
    if geometry.kind not in FUNCTIONS:
        raise LatencyError(f"operations of the kind {geometry.kind} cannot be measured yet: {geometry}")
    return FUNCTIONS[geometry.kind]


def _convolution(probe: Probe) -> nn.Module:
    geometry, rank = probe.geometry, len(probe.geometry.size)
    kinds: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    if geometry.kind == "transposed":
        kinds = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    return kinds[rank - 1](  # type: ignore[no-any-return]
        max(1, probe.inputs),
        probe.outputs,
        geometry.kernel,
        stride=geometry.stride,
        padding=geometry.padding,
        dilation=geometry.dilation,
        groups=probe.outputs // geometry.group[1] if geometry.group else 1,
        bias=not geometry.norm,
    )


def _gone(layer: nn.Module, dim: int, probe: Probe) -> nn.Module:
    """A layer of which nothing is left if it reads nothing: what compaction makes of it, zeros of its width."""
    if probe.inputs == 0:
        narrow(layer, dim, None, None, width=probe.outputs, void_width=probe.outputs)
    return layer


def _pool(geometry: LayerGeometry) -> nn.Module:
    rank = len(geometry.size)
    pools: Any = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
    if geometry.kind == "average_pool":
        pools = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
    pool: nn.Module = pools[rank - 1](geometry.kernel, geometry.stride, geometry.padding)
    return pool


def _activation(name: str) -> Callable[[Tensor], Tensor] | None:
    """An activation by the name of its ATen operation; None for no name."""
    if not name:
        return None
    found = getattr(F, name, None)
    if found is None:
        raise LatencyError(f"the activation {name} cannot be measured yet")
    return found  # type: ignore[no-any-return]


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "mean": lambda x: x.flatten(2).mean(2),
    "upsample": lambda x: F.interpolate(x, scale_factor=2),
    "attention": F.scaled_dot_product_attention,
    "matmul": torch.matmul,
    "softmax": lambda x: x.softmax(-1),
    "add": torch.add,
    "mul": torch.mul,
    "concat": lambda x, other: torch.cat([x, other], 1 if x.dim() > 3 else -1),
}
