"""The table: operation -> handler.

An operation that is not in :data:`PATTERNS`, or whose handler does not cover its arguments, gets
:func:`.algebra.everything`: sound, less sharp, and reported by :func:`rotated_relu.graph.liveness.analyse`.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

from torch.fx import Node

from .. import ops
from ..capture import op_name
from . import elementwise, products, reductions
from .algebra import Pattern


def as_itself(*args: Any, **kwargs: Any) -> Any:
    """Marks operations that run unchanged on patterns; :func:`apply` calls the node's own target."""
    raise AssertionError("a marker, never called")  # pragma: no cover


def _each(names: Iterable[str], handler: Pattern) -> dict[str, Pattern]:
    return dict.fromkeys(names, handler)


# Linear in each tensor argument, with non-negative coefficients.
_LINEAR = (
    ops.CONVOLUTIONS
    | ops.TRANSPOSED_CONVOLUTIONS
    | ops.LINEAR
    | ops.PRODUCTS
    | ops.ADDED_PRODUCTS
    | ops.BILINEAR
    | ops.AVERAGE_POOLS
    | ops.MEANS
    | (ops.UPSAMPLING - {"upsample_bicubic2d"})
    | set("convolution mv dot einsum _adaptive_avg_pool2d cumsum".split())
)
# A rearrangement of entries.
_MOVING = (
    ops.PERMUTATIONS
    | ops.SPLITS
    | ops.CONCATENATIONS
    | ops.MOVES
    | set(
        (
            "reshape flatten unflatten squeeze unsqueeze select slice narrow expand expand_as stack repeat "
            "repeat_interleave tile pixel_shuffle pixel_unshuffle channel_shuffle tril triu unfold im2col "
            "col2im rot90 view_as reshape_as broadcast_to diagonal slice_scatter select_scatter ravel"
        ).split()
    )
)

PATTERNS: dict[str, Pattern] = {
    **_each(_LINEAR | _MOVING, as_itself),
    "getitem": operator.getitem,
    "view": products.view,
    "_unsafe_view": products.view,
    # one entry to one entry
    **_each(ops.ZERO_TO_ZERO, elementwise.zero_to_zero),
    **_each(ops.ZERO_TO_OTHER, elementwise.zero_to_other),
    "prelu": elementwise.prelu,
    "hardtanh": elementwise.hardtanh,
    "clamp": elementwise.clamp,
    "clip": elementwise.clamp,
    "clamp_min": elementwise.clamp_min,
    "clamp_max": elementwise.clamp_max,
    "threshold": elementwise.threshold,
    "pow": elementwise.power,
    **_each(ops.SUMS, elementwise.add),
    **_each(ops.MULTIPLICATIONS, elementwise.mul),
    **_each(ops.DIVISIONS, elementwise.div),
    **_each(ops.COMPARISONS, elementwise.compare),
    "where": elementwise.where,
    "masked_fill": elementwise.masked_fill,
    "addcmul": elementwise.addcmul,
    # reductions, pools, borders
    **_each(["amax", "amin", "std", "var"], reductions.reduce),
    "linalg_vector_norm": reductions.vector_norm,
    "logsumexp": reductions.logsumexp,
    **_each([*ops.SOFTMAX, "_softmax", "_log_softmax"], reductions.softmax),
    "max_pool1d": reductions.max_pool1d,
    "max_pool2d": reductions.max_pool2d,
    "max_pool3d": reductions.max_pool3d,
    "max_pool2d_with_indices": reductions.max_pool2d_with_indices,
    **_each(ops.ADAPTIVE_MAX_POOLS, reductions.adaptive_max_pool),
    "upsample_bicubic2d": reductions.bicubic,
    **_each(ops.PADS, reductions.pad),
    **_each(ops.REFLECTION_PADS, reductions.reflection_pad),
    **_each(ops.REPLICATION_PADS, reductions.replication_pad),
    # norms
    **_each(
        [*ops.BATCH_NORM, "cudnn_batch_norm", "_native_batch_norm_legit_no_training"], reductions.batch_norm
    ),
    "layer_norm": reductions.layer_norm,
    "native_layer_norm": reductions.layer_norm,
    "group_norm": reductions.group_norm,
    "instance_norm": reductions.instance_norm,
    "rms_norm": reductions.rms_norm,
    "_weight_norm": reductions.weight_norm,
    # attention, recurrence, look-ups
    **_each(ops.ATTENTION, products.attention),
    "lstm": products.lstm,
    "gru": products.gru,
    "rnn_tanh": products.rnn_tanh,
    "rnn_relu": products.rnn_relu,
    "embedding": products.embedding,
    "index": products.index,
    "gather": products.gather,
    "index_select": products.index_select,
    "take_along_dim": products.take_along_dim,
}


def apply(node: Node, args: Any, kwargs: Any) -> Any:
    """Run the handler of a node on patterns.

    Raises:
        NotImplementedError: If the operation has no handler for these arguments.
    """
    handler = PATTERNS.get(op_name(node))
    if handler is None:
        raise NotImplementedError(op_name(node))
    if handler is as_itself:
        target: Any = node.target
        return target(*args, **kwargs)
    return handler(*args, **kwargs)
