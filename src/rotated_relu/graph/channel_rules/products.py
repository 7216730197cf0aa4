"""Rules of products with tensors that are no layer's own weight, and of table look-ups.

A sum over k, ``y[i, j] = sum_k a[i, k] b[k, j]``, loses nothing when terms that are 0 are left out: k of ``a`` and k
of ``b`` are the same channel, i and j pass. Unlike a layer (:mod:`.layers`), such a product has no adapters, so that
what it reads and writes is cut only where the whole group may go.
"""

from __future__ import annotations

from torch.fx import Node

from ..einsum import dimension_names
from .rule_context import NotCovered, RuleContext, argument, tensor


def convolution(context: RuleContext, node: Node) -> None:
    """``F.conv2d(x, weight)``: the weight (outputs, inputs, *kernel) follows input and result."""
    x, weight = tensor(node, 0), tensor(node, 1)
    rank = context.rank(node)
    # Without a batch, dimension 1 is space; with groups, inputs and weight do not match one to one.
    if context.rank(weight) != rank or int(argument(node, 6, "groups", 1)) != 1:
        raise NotCovered
    context.same(x, 0, node, 0)
    context.same(x, 1, weight, 1)
    context.same(weight, 0, node, 1)
    _keep_space(context, node, x, weight)
    _bias(context, node, 1)


def transposed_convolution(context: RuleContext, node: Node) -> None:
    """Its weight is (inputs, outputs, *kernel)."""
    x, weight = tensor(node, 0), tensor(node, 1)
    if context.rank(weight) != context.rank(node) or int(argument(node, 6, "groups", 1)) != 1:
        raise NotCovered
    context.same(x, 0, node, 0)
    context.same(x, 1, weight, 0)
    context.same(weight, 1, node, 1)
    _keep_space(context, node, x, weight)
    _bias(context, node, 1)


def _keep_space(context: RuleContext, node: Node, x: Node, weight: Node) -> None:
    for dim in range(2, context.rank(node)):
        # How far the kernel reaches, and so the size of the result, depends on these sizes.
        for key in (x, weight, node):
            context.fix(key, dim)


def _bias(context: RuleContext, node: Node, dim: int, position: int = 2) -> None:
    bias = argument(node, position, "bias")
    if isinstance(bias, Node):
        context.same(bias, 0, node, dim)


def linear(context: RuleContext, node: Node) -> None:
    """``x @ weight.T + bias`` over the last dimension."""
    x, weight = tensor(node, 0), tensor(node, 1)
    for dim in range(context.rank(node) - 1):
        context.same(x, dim, node, dim)
    context.same(x, -1, weight, 1)
    context.same(weight, 0, node, -1)
    _bias(context, node, -1)


def bilinear(context: RuleContext, node: Node) -> None:
    """``x W[o] y`` for each output o; the weight is (outputs, first inputs, second inputs)."""
    x, y, weight = (tensor(node, position) for position in range(3))
    for dim in range(context.rank(node) - 1):
        context.same(x, dim, node, dim)
        context.same(y, dim, node, dim)
    context.same(x, -1, weight, 1)
    context.same(y, -1, weight, 2)
    context.same(weight, 0, node, -1)
    _bias(context, node, -1, position=3)


def matmul(context: RuleContext, node: Node) -> None:
    """Matrices (.., m, k) and (.., k, n); products with vectors are not covered."""
    _product(context, node, tensor(node, 0), tensor(node, 1))


def added_matmul(context: RuleContext, node: Node) -> None:
    """``addmm(bias, a, b)``: the first argument is broadcast to the product."""
    bias = tensor(node, 0)
    _product(context, node, tensor(node, 1), tensor(node, 2))
    for dim in range(-1, -1 - context.rank(bias), -1):
        if context.size(bias, dim) == context.size(node, dim):
            context.same(bias, dim, node, dim)


def _product(context: RuleContext, node: Node, a: Node, b: Node) -> None:
    # A vector drops a dimension of the result, so that positions counted from the end mean something else.
    if context.rank(a) < 2 or context.rank(b) < 2:
        raise NotCovered
    context.same(a, -2, node, -2)
    context.same(b, -1, node, -1)
    context.same(a, -1, b, -2)
    for source in (a, b):
        # Batch dimensions are aligned from the end; one of size 1 is broadcast and belongs to no channel.
        for dim in range(-3, -1 - context.rank(source), -1):
            if context.size(source, dim) == context.size(node, dim):
                context.same(source, dim, node, dim)


def einsum(context: RuleContext, node: Node) -> None:
    """A letter is one dimension of all that it stands at: written, passed on, or summed over.

    Left out of a sum are entries that are 0 in some operand, so that all of the sum's terms are.
    """
    equation, operands = node.args[0], node.args[1]
    if not isinstance(equation, str) or not isinstance(operands, (list, tuple)):
        raise NotCovered
    tensors = [operand for operand in operands if isinstance(operand, Node)]
    names = dimension_names(equation, [context.rank(operand) for operand in tensors])
    if names is None or len(tensors) != len(operands):
        raise NotCovered
    first: dict[str, tuple[Node, int]] = {}
    for own, key in zip(names, (*tensors, node), strict=True):
        for dim, name in enumerate(own):
            context.same(*first.setdefault(name, (key, dim)), key, dim)


def attention(context: RuleContext, node: Node) -> None:
    """The value's width passes; the query's and key's sets the scale 1 / sqrt(width), so it stays."""
    q, k, v = (tensor(node, position) for position in range(3))
    mask = argument(node, 3, "attn_mask")
    for key in (mask, q, k):
        # A narrower query would be divided by the root of another width: other scores, though the same zeros.
        if isinstance(key, Node):
            context.fix_all(key)
    context.same(v, -1, node, -1)
    for dim in range(context.rank(node) - 1):
        context.fix(v, dim)
        context.fix(node, dim)


def lookup(context: RuleContext, node: Node) -> None:
    """``embedding(weight, index)``: rows are named by the index and stay, columns pass."""
    weight, index = tensor(node, 0), tensor(node, 1)
    context.fix(weight, 0)
    for dim in range(context.rank(index)):
        context.same(index, dim, node, dim)
    context.same(weight, 1, node, -1)


def weight_norm(context: RuleContext, node: Node) -> None:
    """``g v / |v|``, the norm over all dimensions of v but ``dim``: those would be missed, so they stay."""
    v, g = tensor(node, 0), tensor(node, 1)
    own = int(argument(node, 2, "dim", 0))  # -1 is one norm over everything
    for dim in range(context.rank(node)):
        context.same(v, dim, node, dim)
        # What the norm is taken over would be missed in it.
        if dim != own:
            context.fix(node, dim)
    if own >= 0:
        context.same(g, own, node, own)
