"""How channels are laid out in an exported graph, and which layouts are worth timing.

A layout is a decision that no rule can make, because processor, engine and batch size decide which one is fast:
:func:`.fastest.fastest_layout` times candidates, :mod:`.passes.narrow_channels` carries one out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..core.errors import UnknownNameError


@dataclass(frozen=True)
class GraphLayout:
    """What is open when a graph is narrowed.

    Attributes:
        name: What messages, tables and JSON call it.
        round_to: Widths are multiples of it, filled up with channels whose weights are 0.
        narrowing_bias: An addition or a norm becomes narrow if that saves more than ``1 / narrowing_bias`` of what the
            selection costs, by the count of multiply-accumulates; 0 never, ``inf`` always.
        convolution_limit: Widest tensor, in channels, from which a 1x1 convolution selects; above it a gather does.
        enabled: False leaves the graph as torch exported it.
    """

    name: str
    round_to: int = 1
    narrowing_bias: float = 1.0
    convolution_limit: int = 192
    enabled: bool = True

    def __str__(self) -> str:
        return self.name


EXACT_WIDTHS = GraphLayout("exact widths")
AS_EXPORTED = GraphLayout("as exported", enabled=False)
# The preferred come first: a later one has to be faster beyond doubt.
LAYOUTS = (
    EXACT_WIDTHS,
    GraphLayout("widths of 8", 8, 4),
    GraphLayout("widths of 16", 16, 4),
    GraphLayout("widths of 16, gathers above 64", 16, 4, 64),
    GraphLayout("narrowest streams", 1, math.inf, 1024),
    GraphLayout("widths of 16, streams as exported", 16, 0, 0),
    AS_EXPORTED,
)


def layout_named(name: str) -> GraphLayout:
    """The layout of :data:`LAYOUTS` with a name, as messages and JSON have it.

    Raises:
        UnknownNameError: If there is none.
    """
    for layout in LAYOUTS:
        if layout.name == name:
            return layout
    raise UnknownNameError("layout", name, [layout.name for layout in LAYOUTS])
