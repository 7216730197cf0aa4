"""Numbers with their units."""

import pytest

from rotated_relu.core.formatting import count, decimal, kibibytes, milliseconds, percent, plural, share


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (percent(91.234), "91.23 %"),
        (share(0.4567), "45.7 %"),
        (count(1234567), "1,234,567"),
        (decimal(1234.5), "1,234"),
        (decimal(0.01234), "0.0123"),
        (milliseconds(12.345), "12.3 ms"),
        (kibibytes(2048), "2 KiB"),
        (plural(1, "epoch"), "1 epoch"),
        (plural(0, "epoch"), "0 epochs"),
        (plural(1200, "epoch"), "1,200 epochs"),
    ],
)
def test_numbers_have_their_units(made, expected):
    assert made == expected


@pytest.mark.parametrize("function", [percent, share, count, milliseconds, kibibytes])
def test_no_number_is_nothing(function):
    assert function(None) == ""
