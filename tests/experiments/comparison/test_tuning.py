"""The grid of a penalty's strength: as given, and on beyond the edge at which the best value lies."""

import pytest

from rotated_relu.experiments.comparison.tuning import tuned


def scores(table):
    return lambda strength: table[strength]


def test_a_best_value_inside_is_taken_at_once():
    found = tuned((2.0, 6.0, 18.0), scores({2.0: 70.0, 6.0: 80.0, 18.0: 60.0}))
    assert (found.chosen, found.is_inside, found.added) == (6.0, True, ())


def test_the_grid_goes_on_downwards_in_the_ratio_of_its_first_two_values():
    # 2 / (6 / 2) = 2 / 3, written with six digits; then 2 lies between 0.666667 and 6.
    found = tuned((2.0, 6.0, 18.0), scores({2.0: 80.0, 6.0: 70.0, 18.0: 60.0, 0.666667: 75.0}))
    assert (found.chosen, found.is_inside, found.added) == (2.0, True, (0.666667,))
    assert list(found.scores) == [0.666667, 2.0, 6.0, 18.0]


def test_the_grid_goes_on_upwards_until_it_gets_worse():
    table = {2.0: 50.0, 4.0: 60.0, 8.0: 70.0, 16.0: 80.0, 32.0: 75.0}
    found = tuned((2.0, 4.0), scores(table))
    assert (found.chosen, found.is_inside, found.added) == (16.0, True, (8.0, 16.0, 32.0))


def test_it_stops_after_so_many_values_and_says_that_the_best_is_at_the_edge():
    found = tuned((1.0, 2.0), lambda strength: strength, most=2)
    assert (found.chosen, found.is_inside, found.added) == (8.0, False, (4.0, 8.0))
    assert found.to_dict() == {
        "chosen": 8.0,
        "inside": False,
        "validation_accuracy": {"1": 1.0, "2": 2.0, "4": 4.0, "8": 8.0},
        "added": [4.0, 8.0],
    }
    assert str(found).endswith("still at the edge after 2 more values")


def test_of_equals_the_weakest_is_taken():
    assert tuned((1.0, 2.0, 4.0), lambda strength: 0.0 if strength < 1 else 50.0).chosen == 1.0


@pytest.mark.parametrize("grid", [(6.0, 2.0, 18.0), (18.0, 6.0, 2.0)])
def test_the_order_of_the_grid_does_not_matter(grid):
    assert tuned(grid, scores({2.0: 70.0, 6.0: 80.0, 18.0: 60.0})).chosen == 6.0
