"""Which widths are measured, by hand."""

import pytest

from rotated_relu.deploy.latency.widths import Range, Steps, actual_inputs, axes, axis, covers, fit_step
from rotated_relu.pruning.latency.geometry import LayerGeometry

CONV = LayerGeometry("conv", (8, 8), (3, 3))


@pytest.mark.parametrize(
    ("widest", "step", "fewest", "expected"),
    [
        (64, 16, 64, [16, 32, 48, 64]),
        (128, 16, 128, [16, 32, 48, 64, 96, 128]),
        (512, 16, 512, [16, 32, 64, 128, 256, 384, 512]),
        (60, 16, 60, [16, 32, 48, 60]),  # the last block is not whole
        (10, 16, 10, [10]),
        (16, 16, 3, [3, 16]),  # the channels of an image are a case of their own
        (3, 16, 3, [3]),
        (1, 1, 1, [1]),
    ],
)
def test_an_axis_has_the_ends_of_blocks(widest, step, fewest, expected):
    assert axis(widest, step, fewest) == expected
    assert axis(widest, step, fewest, corners=True) == sorted({expected[0], expected[-1]})


def test_inputs_that_follow_the_outputs_are_no_axis():
    wide = Range(64, 64, 64, 64)
    depthwise = LayerGeometry("conv", (8, 8), (3, 3), group=(1, 1))
    grouped = LayerGeometry("conv", (8, 8), (3, 3), group=(4, 6))
    assert axes(CONV, wide, Steps(16, 32)) == ([16, 32, 48, 64], [32, 64])
    assert axes(depthwise, wide, Steps(1, 16)) == ([64], [16, 32, 48, 64])
    # Whole groups of 6 that make up a block of 16: 18. 66 outputs are 11 groups, which read 44.
    assert axes(grouped, Range(44, 66, 44, 66), Steps(1, 16)) == ([44], [18, 36, 54, 66])
    assert [actual_inputs(grouped, 44, width) for width in (18, 66)] == [12, 44]
    assert [actual_inputs(depthwise, 64, 16), actual_inputs(CONV, 64, 16)] == [16, 64]


@pytest.mark.parametrize("step", [4, 8, 16, 32])
def test_the_block_of_a_staircase_is_found(step):
    widths = range(20, 65, 4)
    times = [0.3 + 0.02 * -(-width // step) + 0.0003 * (width % 3) for width in widths]
    assert fit_step(widths, times) == step


@pytest.mark.parametrize(
    ("measured", "wanted", "expected"),
    [
        ((3, 16, 32, 40), [16, 24], True),  # 24 is paid as 32
        ((3, 16, 32, 40), [16, 32, 48], False),  # does not reach as far
        ((3, 512), [3, 16, 32, 64], False),  # the corners alone
        ((16, 32, 64, 128, 256, 384, 512), [16, 32, 48, 64], True),
        ((16, 32), [3, 16], False),  # a width below a block is a case of its own
        ((10,), [10], True),
    ],
)
def test_widths_of_another_network_are_good_enough_or_not(measured, wanted, expected):
    assert covers(measured, wanted, 16) is expected


def test_ranges_join():
    assert Range(3, 16, 3, 16).joined(Range(64, 8, 64, 8)) == Range(64, 16, 3, 8)
