"""Weights that are normed: ``w = g v / |v|``, a gain and a direction for each index along one dimension.

Both of torch's forms (``torch.nn.utils.weight_norm`` and its parametrization) are the operation ``_weight_norm`` in a
captured graph, on parameters of the module or of its ``parametrizations``.

With the norm over all dimensions but d, an index i along d depends on its own ``g[i]`` and ``v[i]`` alone: it can go.
A part of v along the other dimensions can go too, if the gain makes up for what the norm loses. With v' what is left
of v, ``g' = g |v'| / |v|`` gives ``g' v' / |v'| = g v' / |v|``, the weight's own part (surgery does this).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
    dim = weight.args[2] if len(weight.args) > 2 else 0
    own = direction.startswith(f"{layer}.") and gain.startswith(f"{layer}.")
    if not own or not isinstance(dim, int) or dim < 0:  # -1: one norm over everything
        return None
    return WeightNorm(weight, gain.removeprefix(f"{layer}."), direction.removeprefix(f"{layer}."), dim)
