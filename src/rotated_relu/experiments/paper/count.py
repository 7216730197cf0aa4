"""The paper's own count of memory and FLOPs, from a list of layers and a list of surviving filters.

The paper counts the weights of convolutions and linear layers only (no biases, no batch norm, no slopes):

- memory = sum of k*k * alive_in * alive_out, in weights;
- FLOPs = 2 * MACs, MACs = memory of the layer * its output positions,

where alive_in and alive_out are the counts of the activations before and after the layer, across residual
additions. One exception is needed to meet the published figures. In a pre-activation network the sum of the
residual branch and the shortcut carries no slope, so a convolution that writes into it has to compute *every*
channel: its FLOPs use the full output width, while the memory figure still uses alive_out. (WRN-40-4 on
CIFAR-10 would save 70.2 % of the FLOPs without that exception; published are 52.6 %.) Such layers are marked
``writes_stream``.

This is the count to compare with published tables. What was physically removed is counted by ``measure``.

Source: N. Nayak, S. Kalyani, TMLR 2024, tables of savings, and the alive lists published with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ...core.errors import ShapeError


@dataclass(frozen=True)
class PaperLayer:
    """One convolution or linear layer, as plain data.

    Attributes:
        name: For messages and tables.
        kernel_area: Kernel height times width (1 for a linear layer).
        positions: Output height times width (1 for a linear layer after pooling).
        inputs: Full number of input channels or features.
        outputs: Full number of output channels or features.
        before: Indices into the alive list of the activations that this layer reads (several after a
            concatenation); empty if it reads the network's input or another layer directly, then all inputs
            are counted.
        after: Index of the activation that it feeds; None if there is none, then all outputs are counted.
        groups: Groups of a convolution.
        writes_stream: Whether it writes into a pre-activation residual stream (see the module's docstring).
    """

    name: str
    kernel_area: int
    positions: int
    inputs: int
    outputs: int
    before: tuple[int, ...]
    after: int | None
    groups: int = 1
    writes_stream: bool = False


@dataclass(frozen=True)
class PaperCount:
    """Memory in weights and FLOPs (2 * MACs, one example), of all filters and of those alive."""

    full_weights: int
    alive_weights: int
    full_flops: int
    alive_flops: int

    @property
    def memory_saved(self) -> float:
        """Fraction of the weights saved, 0 to 1."""
        return 1 - self.alive_weights / self.full_weights

    @property
    def flops_saved(self) -> float:
        """Fraction of the FLOPs saved, 0 to 1."""
        return 1 - self.alive_flops / self.full_flops

    def to_dict(self) -> dict[str, float]:
        """All figures as plain data, fractions included."""
        return {**asdict(self), "memory_saved": self.memory_saved, "flops_saved": self.flops_saved}


def paper_count(layers: Sequence[PaperLayer], alive: Sequence[int], widths: Sequence[int]) -> PaperCount:
    """Count memory and FLOPs the way the paper does.

    Args:
        layers: Convolutions and linear layers.
        alive: Surviving filters per activation, indexed by the layers' ``before`` and ``after``.
        widths: All filters per activation, same length.

    Raises:
        ShapeError: If the lists differ in length, an alive count is outside [0, width], or an index does not
            exist.
    """
    check_alive(alive, widths)
    full_weights = alive_weights = full_flops = alive_flops = 0
    for layer in layers:
        try:
            kept_in, kept_out = alive_in(layer, alive, widths), alive_out(layer, alive, widths)
        except IndexError as error:
            raise ShapeError(
                f"layer {layer.name} refers to activations {layer.before} and {layer.after}, but the alive "
                f"list has {len(alive)} entries"
            ) from error
        full = _weights(layer, layer.inputs, layer.outputs)
        kept = _weights(layer, kept_in, kept_out)
        computed = _weights(layer, kept_in, layer.outputs) if layer.writes_stream else kept
        full_weights += full
        alive_weights += kept
        full_flops += 2 * layer.positions * full
        alive_flops += 2 * layer.positions * computed
    return PaperCount(full_weights, alive_weights, full_flops, alive_flops)


def check_alive(alive: Sequence[int], widths: Sequence[int]) -> None:
    """Raise :class:`ShapeError` unless 0 <= alive <= width for every activation."""
    if len(alive) != len(widths):
        raise ShapeError(f"the alive list has {len(alive)} entries, the network {len(widths)} activations")
    for index, (kept, width) in enumerate(zip(alive, widths, strict=True)):
        if not 0 <= kept <= width:
            raise ShapeError(
                f"entry {index} of the alive list is {kept}, but the activation has {width} filters"
            )


def alive_in(layer: PaperLayer, alive: Sequence[int], widths: Sequence[int]) -> int:
    """Input channels of a layer that are alive, going by the activations before it."""
    if not layer.before:
        return layer.inputs
    # A flattened feature map gives each channel several features, hence the ratio.
    total = sum(widths[index] for index in layer.before)
    return layer.inputs * sum(alive[index] for index in layer.before) // total


def alive_out(layer: PaperLayer, alive: Sequence[int], widths: Sequence[int]) -> int:
    """Filters of a layer that are alive, going by the activation after it."""
    if layer.after is None:
        return layer.outputs
    return layer.outputs * alive[layer.after] // widths[layer.after]


def _weights(layer: PaperLayer, inputs: int, outputs: int) -> int:
    if layer.groups > 1 and layer.groups == layer.inputs == layer.outputs:  # depthwise: one input per output
        return layer.kernel_area * min(inputs, outputs)
    return layer.kernel_area * inputs * outputs // layer.groups
