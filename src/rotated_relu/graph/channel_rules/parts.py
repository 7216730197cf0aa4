"""Rules of operations that put tensors together, take parts of them, or add a border.

Along the dimension that is cut or padded, positions are written into the code (``x[:, :8]``): that dimension stays.
The exceptions are concatenation, whose parts just follow each other, and splits whose sizes are an attribute
(:mod:`..splits`).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch.fx import Node

from .. import ops
from ..capture import describe, op_name
from .rule_context import NotCovered, RuleContext, argument, integers, tensor


def cat(context: RuleContext, node: Node) -> None:
    """The parts' channels follow each other along ``dim``; all other dimensions are common."""
    axis = int(argument(node, 1, "dim", 0)) % context.rank(node)
    # The offset is counted, not written in the code: if a part shrinks, the parts behind it move up.
    whole = context.channels(node, axis)
    offset = 0
    for source in _nodes(node.args[0]):
        if context.groups.sizes[source] == (0,):
            continue  # torch lets an empty vector join tensors of any rank
        _pass_all_but(context, source, node, {axis})
        size = context.size(source, axis)
        context.merge(context.channels(source, axis), whole[offset : offset + size])
        offset += size


def stack(context: RuleContext, node: Node) -> None:
    """A new dimension, one entry for each tensor."""
    axis = int(argument(node, 1, "dim", 0)) % context.rank(node)
    context.fix(node, axis)
    for source in _nodes(node.args[0]):
        for dim in range(context.rank(source)):
            context.same(source, dim, node, dim + (dim >= axis))


def slice_(context: RuleContext, node: Node) -> None:
    """A part from ``start`` to ``end``; ``x[:]`` takes everything whatever the width."""
    x = tensor(node, 0)
    axis = int(argument(node, 1, "dim", 0)) % context.rank(x)
    start, end = argument(node, 2, "start"), argument(node, 3, "end")
    # An end beyond any size is what ":" leaves behind; a number within reach is a width in the code.
    whole = start in (None, 0) and (end is None or end > 2**31) and argument(node, 4, "step", 1) == 1
    if whole:
        context.same(x, axis, node, axis)
        _pass_all_but(context, x, node, {axis})
    else:
        _fix_and_pass_others(context, x, node, {axis})


def select(context: RuleContext, node: Node) -> None:
    """One position; its dimension is gone from the result."""
    x = tensor(node, 0)
    axis = integers(node.args[1])[0] % context.rank(x)
    context.fix(x, axis)
    for dim in range(context.rank(node)):
        context.same(x, dim + (dim >= axis), node, dim)


def getitem(context: RuleContext, node: Node) -> None:
    """A part of a split; one of several results of another operation keeps its width on that one's account."""
    split = tensor(node, 0)
    if op_name(split) not in ops.SPLITS:
        context.fix_all(node, describe(split), split)
        return
    x = tensor(split, 0)
    unbind = op_name(split) == "unbind"
    axis = int(argument(split, 1 if unbind else 2, "dim", 0)) % context.rank(x)
    # Its sizes are an attribute, which surgery sets to what is left of each part.
    if split in context.splits:
        part = context.splits[split].ranges[integers(node.args[1])[0]]
        context.merge(context.channels(x, axis)[part], context.channels(node, axis))
        _pass_all_but(context, x, node, {axis})
        return
    context.groups.fix(context.channels(x, axis), describe(split), split)
    if unbind:
        for dim in range(context.rank(node)):
            context.same(x, dim + (dim >= axis), node, dim)
    else:
        context.fix(node, axis)
        _pass_all_but(context, x, node, {axis})


def pad(context: RuleContext, node: Node) -> None:
    """Amounts come in pairs, for the last dimension first; where both are 0 the dimension passes."""
    x, amounts = tensor(node, 0), integers(node.args[1])
    pairs = [amounts[start : start + 2] for start in range(0, len(amounts), 2)]
    # A border along channels shifts all of their positions, and its own size is written out.
    padded = {context.rank(x) - 1 - number for number, pair in enumerate(pairs) if any(pair)}
    _fix_and_pass_others(context, x, node, padded)


def roll(context: RuleContext, node: Node) -> None:
    """Also flip: positions along ``dims`` are exchanged."""
    x = tensor(node, 0)
    moved = integers(argument(node, 2, "dims") if op_name(node) == "roll" else node.args[1])
    _fix_and_pass_others(context, x, node, {dim % context.rank(x) for dim in moved})


def unfold(context: RuleContext, node: Node) -> None:
    """``Tensor.unfold(dim, size, step)``: windows along one dimension, their entries in a new last one."""
    x = tensor(node, 0)
    axis = integers(node.args[1])[0] % context.rank(x)
    _fix_and_pass_others(context, x, node, {axis})
    context.fix(node, context.rank(node) - 1)


def _nodes(value: Any) -> list[Node]:
    items = list(value)
    if any(not isinstance(item, Node) for item in items):
        raise NotCovered
    return items


def _pass_all_but(context: RuleContext, x: Node, node: Node, axes: Collection[int]) -> None:
    for dim in range(context.rank(x)):
        if dim not in axes:
            context.same(x, dim, node, dim)


def _fix_and_pass_others(context: RuleContext, x: Node, node: Node, axes: Collection[int]) -> None:
    _pass_all_but(context, x, node, axes)
    for dim in axes:
        context.fix(x, dim)
        context.fix(node, dim)
