"""The rule of a layer's call: it reads some channels and writes others, and may read or write any subset.

So nothing connects its input channels with its output channels, except the groups of a grouped convolution (a whole
group goes or stays) and the calls of a layer that is called several times (its weight has one width).
"""

from __future__ import annotations

from ..capture import describe
from ..layers import Call, Layer
from .rule_context import RuleContext


def layer_call(context: RuleContext, layer: Layer, call: Call) -> None:
    """Pass the batch, keep the size of space, and end both groups along channels."""
    if layer.kind == "recurrent":
        _recurrent_call(context, layer, call)
        return
    source, result, rank = call.source, call.result, context.rank(call.result)
    for dim in range(rank):
        if dim == layer.channel_dim % rank:
            continue
        # Batch and tokens are treated one by one; along space the kernel mixes neighbours.
        if dim == 0 or not layer.spatial:
            context.same(source, dim, result, dim)
        else:
            for key in (source, result):
                context.groups.fix(context.channels(key, dim), describe(call.operation), call.operation)
    _join_calls(context, layer, call)
    # A packed convolution gathers what each group reads, as an ordinary one does.
    if layer.kind == "grouped" and not layer.packed:
        _tie_groups(context, layer, call)
    # Its parameters are cut to the width that it writes; what it reads may be wider.
    if layer.kind == "norm":
        for state in call.operation.args[1:5]:
            if context.has(state):
                context.merge(context.channels(state, 0), context.channels(result, 1))  # type: ignore[arg-type]


def _recurrent_call(context: RuleContext, layer: Layer, call: Call) -> None:
    """Time and batch stay, and so do all initial states; only the features that it reads may go.

    Its results are a tuple, whose parts (``getitem``) keep their width.
    """
    states = [node for node in call.operation.all_input_nodes if node not in call.operation.args[2]]  # type: ignore[operator]
    for node in states:
        for dim in range(context.rank(node) - (node is call.source)):
            context.fix(node, dim)
    first = layer.calls[0].source
    context.merge(context.channels(first, -1), context.channels(call.source, -1))


def _join_calls(context: RuleContext, layer: Layer, call: Call) -> None:
    """All calls of a layer read and write the same channels; those of a linear layer may differ in rank."""
    first, axis = layer.calls[0], layer.channel_dim
    if call is not first:
        context.merge(context.channels(first.source, axis), context.channels(call.source, axis))
        context.merge(context.channels(first.result, axis), context.channels(call.result, axis))


def _tie_groups(context: RuleContext, layer: Layer, call: Call) -> None:
    """A channel goes with its group: tie all inputs and outputs of a group together."""
    read = context.channels(call.source, 1).reshape(layer.groups, -1)
    written = context.channels(call.result, 1).reshape(layer.groups, -1)
    # Groups have to stay equal in size: within one, either all channels go or none.
    for block in (read, written):
        context.merge(block[:, :-1].reshape(-1), block[:, 1:].reshape(-1))
    context.merge(read[:, 0], written[:, 0])
