"""Weights that are normed: ``w = g v / |v|``, a gain and a direction for each index along one dimension.

Both of torch's forms (``torch.nn.utils.weight_norm`` and its parametrization) are the operation ``_weight_norm`` in a
captured graph, on parameters of the module or of its ``parametrizations``.

With the norm over all dimensions but d, an index i along d depends on its own ``g[i]`` and ``v[i]`` alone: it can
go. Along the others every entry of v counts in a norm, so that they stay whole. (A gain that makes up for what a norm
loses, ``g' = g |v'| / |v|``, has more digits than a float32: no longer the same network in float64.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from .capture import op_name


@dataclass(frozen=True)
class WeightNorm:
    """How the weight of a layer is computed.

    Attributes:
        node: The operation that computes it.
        gain: Name of g within the module, such as ``weight_g``.
        direction: Name of v within the module.
        dim: Dimension d of the weight that has a gain for each index.
    """

    node: Node
    gain: str
    direction: str
    dim: int


def find_weight_norm(weight: object, layer: str, states: Mapping[Node, str]) -> WeightNorm | None:
    """The weight norm that computes a weight from parameters of one layer, or None.

    Args:
        weight: What the layer multiplies with.
        layer: Qualified name of the layer.
        states: Parameters and buffers, to their qualified names.
    """
    if not isinstance(weight, Node) or op_name(weight) != "_weight_norm":
        return None
    direction, gain = (states.get(value, "") for value in weight.args[:2] if isinstance(value, Node))
    dim: Any = weight.args[2] if len(weight.args) > 2 else 0
    own = direction.startswith(f"{layer}.") and gain.startswith(f"{layer}.")
    if not own or dim not in (0, 1):  # -1 is one norm over everything
        return None
    return WeightNorm(weight, gain.removeprefix(f"{layer}."), direction.removeprefix(f"{layer}."), dim)
