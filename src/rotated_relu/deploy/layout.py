"""How channels are laid out in an exported graph, and which layouts are worth timing.

A layout is a decision that no rule can make, because processor, engine and batch size decide which one is fast:
:func:`.fastest.fastest_layout` times candidates, :mod:`.passes.narrow_channels` carries one out.
"""

from __future__ import annotations

import math

from ..core.graph_layout import GraphLayout

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
