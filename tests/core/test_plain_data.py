"""Dataclasses from plain data of unknown origin."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from rotated_relu.core.plain_data import build


@dataclass
class Part:
    name: str
    sizes: list[int] | None = None


@dataclass
class Whole:
    ratio: float
    parts: list[Part] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


def test_nested_fields():
    whole = build(Whole, {"ratio": 1, "parts": [{"name": "a", "sizes": [1, 2]}], "counts": {"x": 3}})
    assert whole == Whole(1.0, [Part("a", [1, 2])], {"x": 3})
    assert type(whole.ratio) is float


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "Whole must be a table of fields, got None"),
        ({}, "Whole lacks ratio"),
        ({"ratio": "1"}, "Whole.ratio must be float, got '1'"),
        ({"ratio": True}, "Whole.ratio must be float, got True"),
        ({"ratio": 1.0, "extra": 2}, "Whole has no field 'extra'"),
        ({"ratio": 1.0, "parts": {}}, "Whole.parts must be"),
        ({"ratio": 1.0, "parts": [{"name": 3}]}, "Whole.parts.name must be str, got 3"),
        ({"ratio": 1.0, "parts": [{"name": "a", "sizes": ["1"]}]}, "Whole.parts.sizes must be"),
        ({"ratio": 1.0, "counts": {"x": 1.5}}, "Whole.counts must be int, got 1.5"),
    ],
)
def test_anything_else_is_named(data, message):
    with pytest.raises(TypeError) as error:
        build(Whole, data)
    assert message in str(error.value)
