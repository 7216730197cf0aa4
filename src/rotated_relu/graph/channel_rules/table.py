"""The table: operation -> rule. An operation that is not in it keeps the width of all that it touches."""

from __future__ import annotations

from collections.abc import Iterable

from .. import ops
from . import elementwise, parts, products, reductions, reshapes
from .rule_context import Rule


def _each(names: Iterable[str], rule: Rule) -> dict[str, Rule]:
    return dict.fromkeys(names, rule)


RULES: dict[str, Rule] = {
    # one entry to one entry
    **_each(ops.ELEMENTWISE, elementwise.elementwise),
    "expand_as": elementwise.elementwise,
    "type_as": elementwise.same_shape,  # of the other tensor only the type is read
    "prelu": elementwise.prelu,
    # norms, softmax, reductions, pools
    **_each(ops.BATCH_NORM, reductions.batch_norm),
    **_each(ops.LAYER_NORMS, reductions.joint_norm),
    "group_norm": reductions.joint_norm,
    "instance_norm": reductions.instance_norm,
    **_each(ops.SOFTMAX, reductions.softmax),
    "cumsum": reductions.softmax,
    **_each(ops.REDUCTIONS, reductions.reduction),
    **_each(ops.MAX_POOLS | ops.AVERAGE_POOLS | ops.UPSAMPLING, reductions.spatial),
    # products that are no layer's call
    **_each(ops.CONVOLUTIONS, products.convolution),
    **_each(ops.TRANSPOSED_CONVOLUTIONS, products.transposed_convolution),
    **_each(ops.LINEAR, products.linear),
    **_each(ops.PRODUCTS, products.matmul),
    **_each(ops.ADDED_PRODUCTS, products.added_matmul),
    **_each(ops.BILINEAR, products.bilinear),
    **_each(ops.ATTENTION, products.attention),
    "einsum": products.einsum,
    "embedding": products.lookup,
    "_weight_norm": products.weight_norm,
    # another shape
    **_each(ops.VIEWS, reshapes.view),
    **_each(ops.PERMUTATIONS, reshapes.permute),
    "squeeze": reshapes.squeeze,
    "unsqueeze": reshapes.squeeze,
    "flatten": reshapes.flatten,
    "unflatten": reshapes.unflatten,
    "expand": reshapes.expand,
    # together, apart, a border
    **_each(ops.CONCATENATIONS, parts.cat),
    "stack": parts.stack,
    "slice": parts.slice_,
    "select": parts.select,
    "getitem": parts.getitem,
    **_each(ops.PADS | ops.REFLECTION_PADS | ops.REPLICATION_PADS, parts.pad),
    **_each(ops.MOVES, parts.roll),
    "unfold": parts.unfold,
}
