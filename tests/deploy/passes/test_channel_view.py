"""The algebra of views, checked against the numbers that a view stands for."""

import numpy as np
import onnx_ir as ir
import pytest

from rotated_relu.deploy.passes.channel_view import ChannelView


def value(channels):
    """A value of a graph with two pixels per channel."""
    return ir.Value(
        name=f"x{channels}", shape=ir.Shape([1, channels, 2]), type=ir.TensorType(ir.DataType.FLOAT)
    )


def numbers(view, base):
    """What a view says its channels are, given those of the base."""
    return np.where(view.index < 0, view.shift, view.scale * base[view.index])


BASE = np.array([10.0, 20.0, 30.0])
# channel 0 is twice the base's channel 2, channel 1 is the constant 5, channel 2 is minus the base's channel 0
VIEW = ChannelView(value(3), np.array([2, -1, 0]), np.array([2.0, 0.0, -1.0]), np.array([0.0, 5.0, 0.0]))


def test_the_numbers_of_a_view():
    assert numbers(VIEW, BASE).tolist() == [60, 5, -10]
    assert VIEW.live.tolist() == [True, False, True]
    assert VIEW.constants.tolist() == [False, True, False]
    assert VIEW.constant_values.tolist() == [0, 5, 0]
    assert VIEW.injective
    assert not VIEW.positive
    assert not VIEW.in_place


def test_a_value_is_a_plain_view_of_itself():
    view = ChannelView.of(value(3))
    assert view.plain
    assert numbers(view, BASE).tolist() == BASE.tolist()


def test_a_zero_channel_is_in_place_but_not_plain():
    view = ChannelView.of(value(3)).scaled(np.array([1.0, 0.0, 1.0]))
    assert view.in_place
    assert not view.plain
    assert numbers(view, BASE).tolist() == [10, 0, 30]


def test_scaling_gathering_and_padding_are_those_of_the_numbers():
    factors = np.array([3.0, 2.0, 0.0])
    assert numbers(VIEW.scaled(factors), BASE).tolist() == [180, 10, 0]
    assert numbers(VIEW.gathered(np.array([2, 2, 1])), BASE).tolist() == [-10, -10, 5]
    assert numbers(VIEW.padded(1, 2), BASE).tolist() == [0, 60, 5, -10, 0, 0]


def test_a_repeated_channel_is_not_injective():
    assert not VIEW.gathered(np.array([2, 2])).injective


def test_an_affine_map_takes_constants_along_and_leaves_the_offset_of_live_channels():
    factors, offsets = np.array([2.0, 3.0, 4.0]), np.array([1.0, 1.0, 1.0])
    view = VIEW.affine(factors, offsets)
    # 2 * 60 and 4 * -10 without the offset, 3 * 5 + 1 with it
    assert numbers(view, BASE).tolist() == [120, 16, -40]


def test_weights_read_the_base_itself():
    weight = np.array([[1.0, 1.0, 1.0], [0.0, 2.0, 3.0]])
    on_base = VIEW.weights_on_base(weight) @ BASE + weight @ VIEW.constant_values
    # 60 + 5 - 10, and 2 * 5 - 3 * 10
    assert on_base.tolist() == (weight @ numbers(VIEW, BASE)).tolist() == [55, -20]


def test_weights_of_a_repeated_channel_add_up():
    view = ChannelView.of(value(3)).gathered(np.array([1, 1]))
    assert view.weights_on_base(np.array([[2.0, 3.0]])).tolist() == [[0, 5, 0]]


def test_a_selection_computes_an_order_of_channels():
    matrix, bias = VIEW.selection(np.array([2, -1, 1]), size=4)
    # minus 10, a zero that was asked for, the constant, a zero that fills up
    assert (matrix @ BASE + bias).tolist() == [-10, 0, 5, 0]


def test_placed_channels_are_found_again():
    view = ChannelView.placed(value(3), 4, np.array([3, -1, 0]), np.array([0.0, 7.0, 0.0, 0.0]))
    assert numbers(view, BASE).tolist() == [30, 7, 0, 10]


def test_flattening_lays_out_pixels_channel_by_channel():
    pixels = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])  # of the base
    view = VIEW.flattened(value(6), 2)
    assert numbers(view, pixels.reshape(-1)).tolist() == [10, 12, 5, 5, -1, -2]


def test_values_are_put_at_the_channels_of_the_base():
    assert VIEW.over_base(np.array([1.0, 2.0, 3.0])).tolist() == [3, 0, 1]


@pytest.mark.parametrize(
    ("other", "same"),
    [(VIEW, True), (VIEW.on(value(4)), False), (VIEW.unscaled(), False), (VIEW.gathered([0, 1, 1]), False)],
)
def test_two_views_in_the_same_order_may_be_added(other, same):
    assert VIEW.same_order(other) == same
