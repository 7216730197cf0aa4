"""The notation of einsum."""

from rotated_relu.graph.einsum import dimension_names


def test_letters_name_dimensions():
    assert dimension_names("bi, io -> bo", [2, 2]) == [["b", "i"], ["i", "o"], ["b", "o"]]


def test_an_ellipsis_is_counted_from_its_end():
    assert dimension_names("...i,io->...o", [3, 2]) == [
        ["...2", "...1", "i"],
        ["i", "o"],
        ["...2", "...1", "o"],
    ]
    # The second operand has one dimension less before i: the one that is aligned with the last of the first.
    assert dimension_names("...i,...i->...", [3, 2]) == [
        ["...2", "...1", "i"],
        ["...1", "i"],
        ["...2", "...1"],
    ]


def test_without_an_arrow_letters_that_stand_once_come_in_order():
    assert dimension_names("ba,cb", [2, 2]) == [["b", "a"], ["c", "b"], ["a", "c"]]
    assert dimension_names("...b,ba", [3, 2])[-1] == ["...2", "...1", "a"]


def test_diagonals_and_other_numbers_of_operands_are_not_named():
    assert dimension_names("ii->i", [2]) is None
    assert dimension_names("bi,io->bo", [2]) is None
