"""Rules of views and permutations: the same entries under another shape.

A shape (c, h, w) flattened to (c h w) holds channel i at positions i h w .. (i + 1) h w - 1: with channel i gone, those
positions go, as long as h and w stay. So where several dimensions become one, the first of them carries the channels.
Sizes that are written out stay; a -1 is computed from what is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from .rule_context import NotCovered, RuleContext, argument, integers, tensor


def permute(context: RuleContext, node: Node) -> None:
    """Also transpose, ``t``, movedim: torch itself says where each dimension went."""
    x = tensor(node, 0)
    # Sizes 2, 3, 4, ... name the dimensions: the operation moves them, and they tell which is where.
    probe = torch.empty([dim + 2 for dim in range(context.rank(x))], device="meta")
    target: Any = node.target
    permuted = target(probe, *node.args[1:], **node.kwargs)
    for dim, size in enumerate(permuted.shape):
        context.same(x, int(size) - 2, node, dim)


def squeeze(context: RuleContext, node: Node) -> None:
    """Also unsqueeze: dimensions of size 1 come and go, the others keep their order."""
    x = tensor(node, 0)
    kept = [dim for dim in range(context.rank(x)) if context.size(x, dim) != 1]
    found = [dim for dim in range(context.rank(node)) if context.size(node, dim) != 1]
    if len(node.args) < 2:
        context.fix_all(x)  # squeeze() without dim: a width that came down to 1 would vanish
    for dim, other in zip(kept, found, strict=True):
        context.same(x, dim, node, other)


def flatten(context: RuleContext, node: Node) -> None:
    """A run of dimensions becomes one."""
    x = tensor(node, 0)
    rank = context.rank(x)
    start = int(argument(node, 1, "start_dim", 0)) % rank
    end = int(argument(node, 2, "end_dim", -1)) % rank
    for dim in range(start):
        context.same(x, dim, node, dim)
    for dim in range(end + 1, rank):
        context.same(x, dim, node, dim - (end - start))
    # Flattening is what a view with -1 does: it takes whatever sizes are there.
    _join(context, x, list(range(start, end + 1)), node, start)


def unflatten(context: RuleContext, node: Node) -> None:
    """One dimension becomes several; it may shrink only if the size of the first of them is -1."""
    x = tensor(node, 0)
    axis = integers(node.args[1])[0] % context.rank(x)
    parts = integers(node.args[2])
    for dim in range(context.rank(x)):
        if dim != axis:
            context.same(x, dim, node, dim if dim < axis else dim + len(parts) - 1)
    dims = list(range(axis, axis + len(parts)))
    # Only a leading -1 grows and shrinks with the channels; behind another size it would mix them.
    if parts[0] == -1:
        _join(context, node, dims, x, axis)
        dims = dims[1:]
    else:
        context.fix(x, axis)
    for dim in dims:
        context.fix(node, dim)


def view(context: RuleContext, node: Node) -> None:
    """Runs of dimensions with equal products correspond; a size that is written out (not -1) is fixed."""
    x = tensor(node, 0)
    written = integers(node.args[1])
    for before, after in _runs(context.groups.sizes[x], context.groups.sizes[node]):
        free = [dim for dim in after if written[dim] == -1]
        # Three ways in which channels survive: one to one, several to one, one to several with the first one open.
        # All else (say 4 x 6 to 8 x 3) rearranges entries across both: nothing can go.
        if len(before) == 1 and len(after) == 1:
            context.same(x, before[0], node, after[0])
        elif len(after) == 1:
            _join(context, x, before, node, after[0])
        elif len(before) == 1 and free == after[:1]:
            _join(context, node, after, x, before[0])
        else:
            for key, dims in ((x, before), (node, after)):
                for dim in dims:
                    context.fix(key, dim)
        for dim in after:
            if written[dim] != -1:
                context.fix(node, dim)


def expand(context: RuleContext, node: Node) -> None:
    """Dimensions of size 1 are repeated; of the others, those with a size that is not -1 are fixed."""
    x = tensor(node, 0)
    sizes = integers(node.args[1])
    lead = len(sizes) - context.rank(x)
    for dim in range(context.rank(x)):
        if context.size(x, dim) == context.size(node, dim + lead):
            context.same(x, dim, node, dim + lead)
            # -1 means "as it is"; a number is compared with the size at run time.
            if sizes[dim + lead] != -1:
                context.fix(x, dim)


def _join(context: RuleContext, many: Node, dims: list[int], one: Node, dim: int) -> None:
    """Dimensions ``dims`` of one tensor are dimension ``dim`` of the other: the first carries the channels."""
    dims = [d for d in dims if context.size(many, d) != 1]
    if not dims:
        return
    inner = 1
    for other in dims[1:]:
        inner *= context.size(many, other)
        context.fix(many, other)
    context.merge(np.repeat(context.channels(many, dims[0]), inner), context.channels(one, dim))


def _runs(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Split two shapes of equal size into the finest runs of dimensions with equal products (ones dropped)."""
    if 0 in before:
        raise NotCovered  # every product is 0: nothing says which dimensions correspond
    left = [(dim, size) for dim, size in enumerate(before) if size != 1]
    right = [(dim, size) for dim, size in enumerate(after) if size != 1]
    runs = []
    while left or right:
        run_left, run_right = [left.pop(0)], [right.pop(0)]
        product_left, product_right = run_left[0][1], run_right[0][1]
        while product_left != product_right:
            if product_left < product_right:
                run_left.append(left.pop(0))
                product_left *= run_left[-1][1]
            else:
                run_right.append(right.pop(0))
                product_right *= run_right[-1][1]
        runs.append(([dim for dim, _ in run_left], [dim for dim, _ in run_right]))
    return runs
