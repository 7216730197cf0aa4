"""The algebra of channel views: a tensor as rearranged, scaled or constant channels of another one.

Channel c of a view is ``scale[c] * base[index[c]]``, or the constant ``shift[c]`` where ``index[c]`` is -1. With P the
matrix of a view and W the weights of a layer (outputs x inputs):

    W (P x)       = (W P) x             the layer reads the base itself: :meth:`ChannelView.weights_on_base`
    W (P x + c)   = (W P) x + W c       without padding, constants go into the bias: :attr:`ChannelView.constant_values`
    a (P x)       = (diag(a) P) x       slopes go into the scales: :meth:`ChannelView.scaled`
    f(P x)        = P f(x)              f channel by channel, for scales of 1; for positive ones if f is homogeneous
    P (P' x)      = (P P') x            gathers and pads are bookkeeping: :meth:`ChannelView.gathered`, :meth:`.padded`

Nothing here touches a graph: views are plain numbers beside the value that they look at.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .patterns import Array, Ids, Mask, Value, width


@dataclass(frozen=True)
class ChannelView:
    """A tensor as channels of another one.

    Attributes:
        base: The value that is looked at.
        index: Per channel its position in the base; -1 for a constant channel.
        scale: Per channel the factor; without meaning where the index is -1.
        shift: Per channel the constant where the index is -1; without meaning elsewhere.
    """

    base: Value
    index: Ids
    scale: Array
    shift: Array

    @staticmethod
    def of(value: Value) -> ChannelView:
        """A value as it is."""
        channels = width(value)
        assert channels is not None
        return ChannelView.placed(value, channels, np.arange(channels))

    @staticmethod
    def placed(base: Value, channels: int, order: Ids, shift: Array | None = None) -> ChannelView:
        """A base that holds the channels of ``order`` one after the other; all others are constant.

        Args:
            base: The value; may be wider than the order, with channels that nobody looks at.
            channels: How many the view has.
            order: Channels of the view; -1 for a place that none of them takes.
            shift: The constants; zeros if None.
        """
        index = np.full(channels, -1)
        index[order[order >= 0]] = np.flatnonzero(order >= 0)
        return ChannelView(base, index, np.ones(channels), np.zeros(channels) if shift is None else shift)

    # --- what a view is like ----------------------------------------------------------------------------------------

    @property
    def channels(self) -> int:
        """How many channels the view has."""
        return len(self.index)

    @property
    def base_channels(self) -> int:
        """How many channels the base has."""
        return width(self.base) or 0

    @property
    def live(self) -> Mask:
        """Channels that are no constants."""
        result: Mask = self.index >= 0
        return result

    @property
    def constants(self) -> Mask:
        """Channels with a constant other than 0."""
        result: Mask = ~self.live & (self.shift != 0)
        return result

    @property
    def constant_values(self) -> Array:
        """The constants, 0 for live channels."""
        result: Array = np.where(self.live, 0.0, self.shift)
        return result

    @property
    def in_place(self) -> bool:
        """Whether every channel is zero or lies at its own position of a base of equal width."""
        own = np.arange(self.channels)
        if self.channels != width(self.base):
            return False
        return bool(((self.index == own) | (~self.live & (self.shift == 0))).all())

    @property
    def plain(self) -> bool:
        """Whether the tensor is the base."""
        return self.in_place and bool((self.scale == 1).all() and self.live.all())

    @property
    def injective(self) -> bool:
        """Whether no two channels come from the same one, so that the base may be scaled instead."""
        used = self.index[self.live]
        return len(np.unique(used)) == len(used)

    @property
    def positive(self) -> bool:
        """Whether all scales are, so that they commute with a ReLU."""
        return bool((self.scale[self.live] > 0).all())

    def same_order(self, other: ChannelView) -> bool:
        """Whether the sum of two views is a view of the sum of their bases."""
        return (
            width(self.base) == width(other.base)
            and np.array_equal(self.index, other.index)
            and np.array_equal(self.scale, other.scale)
        )

    # --- views of the same base -------------------------------------------------------------------------------------

    def on(self, base: Value) -> ChannelView:
        """The same view of another base."""
        return replace(self, base=base)

    def unscaled(self) -> ChannelView:
        """The same channels with scales of 1."""
        return replace(self, scale=np.ones(self.channels))

    def scaled(self, factors: Array) -> ChannelView:
        """Each channel times a factor; those with a factor of 0 become the constant 0."""
        index = np.where(factors == 0, -1, self.index)
        return ChannelView(self.base, index, self.scale * factors, self.shift * factors)

    def affine(self, factors: Array, offsets: Array) -> ChannelView:
        """Each channel times a factor, where the constants also take the offset: live channels still lack theirs."""
        shift = np.where(self.live, 0.0, self.shift * factors + offsets)
        return replace(self, scale=self.scale * factors, shift=shift)

    def gathered(self, index: Ids) -> ChannelView:
        """Some of the channels, in any order, repeated or not."""
        return ChannelView(self.base, self.index[index], self.scale[index], self.shift[index])

    def padded(self, before: int, after: int) -> ChannelView:
        """Channels of zeros in front and behind."""
        index = np.pad(self.index, (before, after), constant_values=-1)
        scale, shift = (np.pad(values, (before, after)) for values in (self.scale, self.shift))
        return ChannelView(self.base, index, scale, shift)

    def flattened(self, base: Value, pixels: int) -> ChannelView:
        """Every channel as its pixels one after the other, of a base that was flattened in the same way."""
        live = self.live.repeat(pixels)
        index = np.where(self.live, self.index * pixels, -1).repeat(pixels)
        index[live] += np.tile(np.arange(pixels), self.channels)[live]
        return ChannelView(base, index, self.scale.repeat(pixels), self.shift.repeat(pixels))

    # --- numbers for the base ---------------------------------------------------------------------------------------

    def over_base(self, values: Array) -> Array:
        """Values per channel, put at the channels of the base (0 where nobody is)."""
        result = np.zeros(self.base_channels)
        result[self.index[self.live]] = values[self.live]
        return result

    def weights_on_base(self, weight: Array) -> Array:
        """W P: weights (outputs, channels, ...) as they read the base; views that repeat a channel add up."""
        used = np.flatnonzero(self.live)
        factors = self.scale[used].reshape(1, -1, *[1] * (weight.ndim - 2))
        result = np.zeros((self.base_channels, len(weight), *weight.shape[2:]))
        np.add.at(result, self.index[used], (weight[:, used] * factors).swapaxes(0, 1))
        return result.swapaxes(0, 1)

    def selection(self, order: Ids, size: int) -> tuple[Array, Array]:
        """Matrix (size, base channels) and bias that compute the channels of ``order``; -1 asks for zeros."""
        matrix, bias = np.zeros((size, self.base_channels)), np.zeros(size)
        live = (order >= 0) & self.live[order]
        matrix[np.flatnonzero(live), self.index[order][live]] = self.scale[order][live]
        bias[: len(order)] = np.where((order >= 0) & ~live, self.shift[order], 0.0)
        return matrix, bias
