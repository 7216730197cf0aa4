"""How a choice of channels is described."""

import pytest

from rotated_relu.core.criteria import Criterion


@pytest.mark.parametrize(
    ("criterion", "words", "by_slope"),
    [
        (Criterion("slope", threshold=0.03), "|slope| below 0.03", True),
        (Criterion("slope", threshold=0.0), "slopes that are exactly 0", True),
        (
            Criterion("slope", threshold=0.031, keep={"macs": 0.5, "parameters": 0.4}),
            "|slope| below 0.031, to keep 0.5 of the MACs and 0.4 of the parameters",
            True,
        ),
        (Criterion("taylor", "macs", 1.25e-9), "Taylor score per MAC below 1.25e-09", False),
        (Criterion("consumer", threshold=2.0), "|slope| times the consumers' norm below 2", False),
        (
            Criterion("slope", "macs", keep={"macs": 0.5}),
            "lowest |slope| per MAC, to keep 0.5 of the MACs",
            False,
        ),
        (Criterion("custom", threshold=0.1), "score 'custom' below 0.1", False),
        (Criterion(), "a mask that was given", False),
    ],
)
def test_in_words(criterion, words, by_slope):
    assert (criterion.describe(), criterion.by_slope) == (words, by_slope)
    assert Criterion(**criterion.to_dict()) == criterion
