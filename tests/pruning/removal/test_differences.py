"""The scale on which outputs are compared: no mask sets it, and no rounding noise."""

import pytest
import torch

from rotated_relu.pruning.removal.differences import (
    common_size,
    constant_infinities,
    difference,
    mostly_finite,
)

INF, NAN = float("inf"), float("nan")
LOWEST = torch.finfo(torch.float64).min


def t(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("mask", [-1e9, 1e9, -1e30, LOWEST])
@pytest.mark.parametrize("masked", [1, 3])
def test_a_mask_does_not_hide_an_error_however_many_entries_it_has(mask, masked):
    expected = torch.cat([t(1.0, -2.0), torch.full((masked,), mask, dtype=torch.float64)])
    found = expected.clone()
    found[0] += 1.0
    absolute, relative = difference(expected, found)
    assert absolute == 1.0
    assert relative == 0.5  # of the largest common entry, 2


def test_a_masked_entry_is_compared_relative_to_itself():
    """Scores added to a mask of -1e9 carry its rounding, 1e-7."""
    _, relative = difference(t(1.0, -1e9), t(1.0, -1e9 + 1e-7))
    assert relative < 1e-15


def test_rounding_noise_beside_numbers_of_common_size_is_no_difference():
    """The logarithm of a probability that is 1 up to rounding: right in no digit."""
    _, relative = difference(t(-1e-16, -40.0), t(-3e-16, -40.0))
    assert relative < 1e-17


def test_small_outputs_are_compared_on_their_own_scale():
    _, relative = difference(t(1e-20, 2e-20), t(1e-20, 3e-20))
    assert relative == pytest.approx(0.5)


def test_the_common_size_is_the_largest_below_the_first_gap():
    assert common_size(t(0.1, 3.0, 1e9, 1e30)) == 3.0
    assert common_size(t(1e-17, 3.0, 1e9)) == 3.0
    assert common_size(t(1e-4, 1.0, 1e4)) == 1e4  # steps below a million are no gap
    assert common_size(t(0.0, 0.0)) == 0.0


def test_outputs_that_are_all_zero_are_compared_absolutely():
    assert difference(t(0.0, 0.0), t(0.0, 1e-3)) == (1e-3, 1e-3)


@pytest.mark.parametrize(
    ("one", "other"), [(NAN, 1.0), (1.0, NAN), (INF, 1.0), (INF, -INF), (1.0, INF), (NAN, INF)]
)
def test_nan_and_infinity_equal_only_themselves(one, other):
    assert difference(t(one, 2.0), t(other, 2.0))[1] == INF
    assert difference(t(one, 2.0), t(one, 2.0)) == (0.0, 0.0)


def test_integers_flags_and_complex_numbers():
    assert difference(torch.tensor([1, 4]), torch.tensor([1, 3])) == (1.0, 0.25)
    assert difference(torch.tensor([True]), torch.tensor([False])) == (1.0, 1.0)
    assert difference(torch.tensor([3 + 4j]), torch.tensor([3 + 2j])) == (2.0, 0.5)


def test_mostly_finite():
    assert mostly_finite(t(1.0, NAN))
    assert not mostly_finite(t(1.0, NAN, INF))
    assert not mostly_finite(t())
    assert mostly_finite(torch.tensor([1]))


def test_a_mask_of_infinities_does_not_count_and_an_overflow_does():
    mask = torch.tensor([[-INF, -INF, 1.0], [-INF, -INF, 2.0]])
    masked = constant_infinities([mask, mask + 1])
    assert masked.tolist() == [True, True, False]
    assert mostly_finite(mask, masked)
    overflow = torch.tensor([[INF, INF, 1.0], [2.0, INF, INF]])
    masked = constant_infinities([overflow])
    assert masked.tolist() == [False, True, False]
    assert not mostly_finite(torch.tensor([[INF, INF, INF]]), masked)
    everything = torch.full((2, 2), INF)
    assert not mostly_finite(everything, constant_infinities([everything]))
