"""Rules of norms, softmax, reductions, pools and resampling: who mixes entries along which dimension.

Where entries along a dimension are averaged, maximised or normalised together, leaving out channels that are 0 would
change the count or the maximum: that dimension is fixed. The others pass.
"""

from __future__ import annotations

from torch.fx import Node

from .. import ops
from ..capture import op_name
from .elementwise import elementwise, same_shape
from .rule_context import NotCovered, RuleContext, argument, integers, tensor


def batch_norm(context: RuleContext, node: Node) -> None:
    """Channels are independent of each other; weight, bias and statistics go with them."""
    same_shape(context, node)
    for state in node.args[1:5]:
        if isinstance(state, Node):
            context.same(state, 0, node, 1)


def instance_norm(context: RuleContext, node: Node) -> None:
    """As batch norm along channels; the statistics are over space, whose size stays."""
    same_shape(context, node)
    # Statistics over fewer positions are other statistics.
    for dim in range(2, context.rank(node)):
        context.fix(node, dim)
    for state in node.all_input_nodes:
        if state is not node.args[0]:
            context.same(state, 0, node, 1)


def joint_norm(context: RuleContext, node: Node) -> None:
    """Layer norm, RMS norm, group norm: statistics over the channels, so all of them stay."""
    x, rank = tensor(node, 0), context.rank(node)
    # Layer norms say how many of the last dimensions they take; a group norm takes all but the batch.
    over = len(integers(node.args[1])) if op_name(node) in ops.LAYER_NORMS else rank - 1
    same_shape(context, node)
    for dim in range(rank - over, rank):
        context.fix(node, dim)
    for state in node.all_input_nodes:
        # One weight per normalised entry: it is as wide as they are, and they stay.
        if state is not x:
            context.fix_all(state)


def softmax(context: RuleContext, node: Node) -> None:
    """Also for cumulative sums: along ``dim`` every entry depends on others."""
    elementwise(context, node)
    # exp(0) = 1 takes part in the sum, and a cumulative sum goes through zeros: neither may be left out.
    context.fix(node, int(argument(node, 1, "dim")))


def reduction(context: RuleContext, node: Node) -> None:
    """The reduced dimensions stay (a mean divides by their size); a reduction of everything is not covered."""
    x = tensor(node, 0)
    dims = argument(node, 2 if op_name(node) == "linalg_vector_norm" else 1, "dim")
    # sum(x) over all dimensions mixes channels with space: no dimension passes.
    if dims is None or isinstance(dims, bool):
        raise NotCovered
    rank = context.rank(x)
    gone = {dim % rank for dim in integers(dims)}
    keep = context.rank(node) == rank
    position = 0
    for dim in range(rank):
        if dim in gone:
            context.fix(x, dim)
        else:
            context.same(x, dim, node, dim if keep else position)
        position += keep or dim not in gone


def spatial(context: RuleContext, node: Node) -> None:
    """Pools and upsampling: batch and channels pass; what happens along space keeps its size."""
    x = tensor(node, 0)
    # The name says how many dimensions are space: the 2 of max_pool2d, wherever it stands.
    digits = [digit for digit in op_name(node).removesuffix("d") if digit.isdigit()]
    lead = context.rank(node) - int(digits[-1])
    for dim in range(context.rank(node)):
        if dim < lead:
            context.same(x, dim, node, dim)
        else:
            context.fix(x, dim)
            context.fix(node, dim)
