"""The rule of :mod:`.narrow_channels` for additions, where the layouts of two branches must become one.

    P1 x + P2 y     needs one order of channels. An operand that a convolution alone has written is rewritten into it
                    for nothing; any other one is *selected* into it, by a 1x1 convolution or a gather.

So an addition takes one of three ways: the sum of the bases if both orders are the same; the order of the operand that
cannot be rewritten, at its full width (*wide*); or the order of the channels that are read (*narrow*), if what that
saves is worth the selection.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .channel_demand import TOUCH
from .channel_view import ChannelView
from .narrowing import Narrowing, nonempty
from .patterns import Ids, Mask, Node, width


def addition(state: Narrowing, node: Node, _: bool) -> ChannelView | None:
    """An addition computes what is read, in the order that costs least."""
    views = [state.view(value) for value in node.inputs]
    known = [view.live | view.constants for view in views]
    live = state.demand.wants(node.outputs[0]) & (known[0] | known[1])
    if all(view.plain for view in views) and live.all():
        return None
    if views[0].same_order(views[1]):
        return _sum_of_bases(state, node, views)
    free = [state.is_free(value) for value in node.inputs]
    order = nonempty(live)
    if sum(free) == 1:
        moves, stays = views[free.index(True)], views[free.index(False)]
        if _stays_wide(state, node, moves, stays, order):
            return _wide(state, node, moves, stays, live)
    return _narrow(state, node, views, free, order)


def _sum_of_bases(state: Narrowing, node: Node, views: list[ChannelView]) -> ChannelView:
    one, other = views
    base = state.editor.node("Add", [one.base, other.base], one.base_channels, node.outputs[0])
    return replace(one, base=base, shift=one.shift + other.shift)


def _narrow(
    state: Narrowing, node: Node, views: list[ChannelView], free: list[bool], order: Ids
) -> ChannelView:
    """Only the channels that are read, one after the other."""
    channels = views[0].channels
    if not state.selector.by_convolution(len(order)) and len(order) < channels:
        order = np.append(order, -1)  # a gather from the sum may need a channel of zeros
    bases = [
        state.rewritten(view, order) if own else state.selector.selected(view, order).base
        for view, own in zip(views, free, strict=True)
    ]
    base = state.editor.node("Add", bases, width(bases[0]) or 0, node.outputs[0])
    state.selector.note_filled(base, int((order >= 0).sum()))
    return ChannelView.placed(base, channels, order)


def _stays_wide(state: Narrowing, node: Node, moves: ChannelView, stays: ChannelView, order: Ids) -> bool:
    """Whether the sum keeps the order of the operand that cannot be rewritten for nothing."""
    if not stays.injective or stays.constants.any():
        return False
    if not stays.live[order].all() and not stays.in_place:
        return False  # the sum has channels for which that operand has no place
    channels, size = stays.base_channels, state.selector.rounded(len(order))
    if size >= channels:
        return True
    # Per channel: its consumers, the rows of the convolution that is rewritten, two operands read and a sum written.
    price = state.demand.price_of(node.outputs[0]) + state.fan_in(moves) + 3 * TOUCH
    return not state.selector.pays(price, channels, size)


def _wide(state: Narrowing, node: Node, moves: ChannelView, stays: ChannelView, live: Mask) -> ChannelView:
    """The convolution writes in the other operand's order; positive scales move behind the addition."""
    if stays.in_place and not stays.live[live].all():
        stays = state.view(state.selector.whole(stays))
    if not stays.positive:
        # Behind the addition come ReLUs, which negative scales do not commute with.
        stays = state.selector.unscaled(stays)
    used = stays.live
    order = np.full(stays.base_channels, -1)
    order[stays.index[used]] = np.flatnonzero(used)
    # a y + x = a (y + x / a)
    factor = np.where(used, stays.scale, 1.0)
    divided = replace(moves, scale=moves.scale / factor, shift=moves.shift / factor)
    moved = state.rewritten(divided, order, fill=False)
    base = state.editor.node("Add", [moved, stays.base], len(order), node.outputs[0])
    state.selector.pass_zero(stays.base, base)
    return ChannelView(base, np.where(live, stays.index, -1), stays.scale, np.zeros(len(live)))
