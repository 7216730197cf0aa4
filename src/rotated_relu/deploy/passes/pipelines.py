"""Which passes run in which order; every pass states what it requires and ensures."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import Sequential
from onnx_ir.passes.common import (
    DeduplicateInitializersPass,
    IdentityEliminationPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
)

from ...core.graph_layout import GraphLayout
from ..onnx_model import KeptSlopes
from .constant_images import ConstantImages
from .fold_slopes import FoldSlopes
from .means_to_pools import MeansToPools
from .narrow_channels import NarrowChannels
from .slices_to_strides import SlicesToStrides
from .slope_notes import DropNotes, MarkSlopes, kept_slopes


def fold_slopes(model: ir.Model) -> tuple[int, tuple[KeptSlopes, ...]]:
    """Fold slopes into their consumers, as soon as torch has exported a graph, in place.

    Returns:
        How many activations lost their slopes, and those that keep them.
    """
    MarkSlopes()(model)
    before = kept_slopes(model)
    Sequential(FoldSlopes(), RemoveUnusedNodesPass())(model)
    kept = kept_slopes(model)
    # The marks stay for the layout, which folds more: but only in the protobuf, where nobody sees them.
    DropNotes(keep_marks=True)(model)
    return len(before) - len(kept), kept


def lay_out(model: ir.Model, layout: GraphLayout) -> tuple[KeptSlopes, ...]:
    """Give a graph whose slopes are folded its layout, in place.

    Returns:
        The activations that keep their slopes.
    """
    if layout.enabled:
        Sequential(
            NarrowChannels(layout),
            SlicesToStrides(),
            MeansToPools(),
            ConstantImages(),
            RemoveUnusedNodesPass(),
            IdentityEliminationPass(),
            DeduplicateInitializersPass(),
            RemoveUnusedOpsetsPass(),
        )(model)
    kept = kept_slopes(model)
    DropNotes(keep_marks=False)(model)
    return kept
