"""Rules of operations that treat every entry alike, with broadcasting."""

from __future__ import annotations

from torch.fx import Node

from .rule_context import NotCovered, RuleContext, tensor


def elementwise(context: RuleContext, node: Node) -> None:
    """Dimensions are aligned from the last one; a size of 1 is broadcast, so it is no channel of the result."""
    rank = context.rank(node)
    for source in node.all_input_nodes:
        if not context.has(source):
            raise NotCovered
        own = context.rank(source)
        for dim in range(own):
            # A source of size 1 against a larger result has one entry for all channels: it belongs to none of them.
            if context.size(source, dim) == context.size(node, dim + rank - own):
                context.same(source, dim, node, dim + rank - own)


def same_shape(context: RuleContext, node: Node) -> None:
    """The result has the shape of the first argument, position by position."""
    x = tensor(node, 0)
    for dim in range(context.rank(node)):
        context.same(x, dim, node, dim)


def prelu(context: RuleContext, node: Node) -> None:
    """One slope for all channels, or one for each along dimension 1."""
    same_shape(context, node)
    weight = tensor(node, 1)
    # A single slope is shared by all channels, and stays whichever of them go.
    if context.size(weight, 0) > 1:
        context.same(weight, 0, node, 1)
