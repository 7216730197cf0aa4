"""What is timed to find the time of one operation: a program with copies of it, and one without.

An operation alone is not what a network pays for: a graph of one convolution also moves its input and output between
the engine's own memory layout and the plain one, and starts a call. So a program with several copies of an operation
side by side is timed against a *bare* one, with everything around them and none of them; the difference is divided.

Around an operation on images stand a *producer*, a thin 1x1 convolution whose result is in the engine's layout, and a
*tail*, a pool that reads one entry per channel and so costs a start and nothing else. Operations with weights share
one producer: every copy has weights of its own, so that none is optimised away and the caches see as many weights as a
network has. Operations without weights have a producer each, since equal ones on equal inputs would be merged; what is
added is a tensor of its own for each copy, since engines write the sum over it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ...pruning.latency.geometry import LayerGeometry

THIN = 16  # channels that producers read
CONVOLUTIONS = ("conv", "transposed")
FUSABLE = (
    "batch_norm",
    "activation",
    "add",
    "add_constant",
)  # alone only if no convolution stands before them
ON_IMAGES = (*CONVOLUTIONS, "shortcut", "max_pool", "average_pool", "upsample", "mean")  # whatever their size
SHARED = (*CONVOLUTIONS, "shortcut", "linear")  # copies read one tensor
FEW = 100e6  # multiply-accumulates of a call, above which one copy is measured well enough
MANY = 10e6


@dataclass(frozen=True)
class Probe:
    """Copies of one operation.

    Attributes:
        geometry: What is computed.
        inputs: Channels that it reads.
        outputs: Channels that it writes.
        batch_size: Examples.
        copies: How many.
        bare: Whether they are left out, and all around them is there.
    """

    geometry: LayerGeometry
    inputs: int
    outputs: int
    batch_size: int
    copies: int
    bare: bool = False

    @property
    def on_images(self) -> bool:
        """Whether producers and tails stand around it."""
        return self.geometry.kind in ON_IMAGES or (len(self.geometry.size) > 1 and not self.on_heads)

    @property
    def on_heads(self) -> bool:
        """Whether its sizes are those of heads and tokens."""
        return self.geometry.kind in ("attention", "matmul")

    @property
    def shares_input(self) -> bool:
        """Whether all copies read one tensor."""
        return self.geometry.kind in SHARED

    @property
    def read(self) -> int:
        """Channels of the first tensor that it reads; what is concatenated with them are :attr:`joined`."""
        return self.outputs - self.joined if self.geometry.kind == "concat" else self.inputs

    @property
    def joined(self) -> int:
        """Channels of the second tensor of a concatenation."""
        return max(1, self.outputs // 2)

    @property
    def per_channel(self) -> tuple[int, ...]:
        """Shape of one number per output channel that its result can be multiplied by."""
        return (self.outputs, *(1,) * len(self.geometry.size)) if self.on_images else (self.outputs,)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of what it reads, batch first."""
        geometry = self.geometry
        if self.on_heads:
            return (self.batch_size * geometry.size[0], geometry.size[1], self.inputs)
        if self.on_images:
            return (self.batch_size, self.read, *geometry.size)
        return (self.batch_size, *geometry.size, self.read)

    @property
    def result_size(self) -> tuple[int, ...]:
        """Height and width of what an operation on images writes."""
        geometry = self.geometry
        if geometry.kind == "mean":
            return (1,) * len(geometry.size)
        if geometry.kind == "upsample":
            return tuple(2 * size for size in geometry.size)
        if not geometry.kernel:
            return geometry.size
        return tuple(map(self._moved, *self._windows()))

    def _windows(self) -> list[tuple[int, ...]]:
        geometry = self.geometry
        ones = (1,) * len(geometry.size)
        padding = geometry.padding or (0,) * len(geometry.size)
        return [geometry.size, geometry.kernel, geometry.stride or ones, padding, geometry.dilation or ones]

    def _moved(self, size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
        window = dilation * (kernel - 1) + 1
        if self.geometry.kind == "transposed":
            return (size - 1) * stride - 2 * padding + window
        return (size + 2 * padding - window) // stride + 1


def multiplications(geometry: LayerGeometry, inputs: int, outputs: int, batch_size: int) -> float:
    """Roughly how many multiply-accumulates, or moved entries, a call of an operation is."""
    probe = Probe(geometry, inputs, outputs, batch_size, 1)
    if geometry.kind in CONVOLUTIONS:
        read = geometry.group[0] if geometry.group else inputs
        positions = geometry.size if geometry.kind == "transposed" else probe.result_size
        return float(batch_size * prod(positions) * prod(geometry.kernel) * read * outputs)
    if geometry.kind == "linear":
        return float(batch_size * prod(geometry.size) * inputs * outputs)
    if geometry.kind == "attention":
        return float(batch_size * prod(geometry.size) * (inputs + outputs))
    if geometry.kind == "matmul":
        return float(batch_size * prod(geometry.size) * inputs * outputs)
    return float(batch_size * prod(geometry.size) * outputs)


def copies_for(geometry: LayerGeometry, inputs: int, outputs: int, batch_size: int) -> int:
    """How many copies make a difference that is well above the time of a call's start."""
    count = multiplications(geometry, inputs, outputs, batch_size)
    return 1 if count > FEW else 2 if count > MANY else 6
