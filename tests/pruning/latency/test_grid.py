"""Times over widths: a staircase between measured points, by hand."""

import pytest

from rotated_relu.core.errors import LatencyError
from rotated_relu.pruning.latency.grid import LatencyGrid

# Blocks of 8 inputs and 16 outputs: 1 ms per block of inputs, 10 ms per block of outputs.
GRID = LatencyGrid((8, 24), (16, 32, 50), ((11.0, 21.0, 41.0), (13.0, 23.0, 43.0)), 8, 16)


@pytest.mark.parametrize(
    ("inputs", "outputs", "expected"),
    [
        (8, 16, 11.0),
        (1, 1, 11.0),  # one channel is paid as a whole block
        (24, 32, 23.0),
        (16, 16, 12.0),  # half way between 8 and 24 inputs
        (9, 17, 22.0),  # paid as 16 and 32
        (8, 33, 21.0 + 20.0 * 16 / 18),  # paid as 48, 16 of the 18 from 32 to 50
        (8, 49, 41.0),  # the end of its block would be 64, but 50 has been measured
        (24, 50, 43.0),
        (0, 16, 0.0),
        (8, 0, 0.0),
    ],
)
def test_a_width_is_paid_to_the_end_of_its_block(inputs, outputs, expected):
    assert GRID.at(inputs, outputs) == pytest.approx(expected, abs=1e-12)


def test_steps_are_the_ends_of_the_blocks():
    assert GRID.steps() == ([8, 16, 24], [16, 32, 48, 50])


def test_one_measured_width_is_the_time_of_all():
    grid = LatencyGrid((3,), (8,), ((0.5,),))
    assert [grid.at(1, 8), grid.at(3, 2), grid.at(0, 8)] == [0.5, 0.5, 0.0]
    assert grid.steps() == ([3], [8])


def test_beyond_the_largest_width_nothing_is_made_up():
    with pytest.raises(LatencyError, match="25 input channels are beyond the table, which ends at 24"):
        GRID.at(25, 16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((), (1,), ()), "inputs of a grid must be widths that ascend"),
        (((1,), (4, 4), ((1.0, 2.0),)), "outputs of a grid must be widths that ascend"),
        (((0, 4), (4,), ((1.0,), (2.0,))), "ascend from 1"),
        (((1, 2), (4,), ((1.0,),)), "a grid of 2 x 1 widths"),
        (((1,), (4,), ((float("nan"),),)), "finite"),
        (((1,), (4,), ((-1.0,),)), "0 or more"),
        (((1,), (4,), ((1.0,),), 0), "steps must be at least 1"),
    ],
)
def test_a_grid_that_is_none_is_refused(arguments, message):
    with pytest.raises(LatencyError, match=message):
        LatencyGrid(*arguments)
