"""Tensors inside other values."""

import collections
import dataclasses
import types

import torch

from rotated_relu.core.nested import mapped, tensors_in

A, B, C = (torch.full((1,), float(value)) for value in (1, 2, 3))
Pair = collections.namedtuple("Pair", "left right")


@dataclasses.dataclass
class Output:
    first: object
    second: object = None


class ModelOutput(collections.OrderedDict):
    """A dict whose entries are attributes too."""

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        super().__setattr__(key, value)


def values(nested):
    return [float(tensor) for tensor in tensors_in(nested)]


def test_tensors_are_found_in_order_wherever_they_are():
    plain = types.SimpleNamespace(inside=B)
    assert values([A, None, (plain, {"x": C, "y": "text"})]) == [1, 2, 3]
    assert values(Output(Pair(A, B), Output(C))) == [1, 2, 3]
    assert values(ModelOutput(b=B, a=A)) == [2, 1]
    assert values({"nothing": None, "number": 3}) == []


def test_a_value_that_holds_itself_ends():
    nested = [A]
    nested.append(nested)
    assert values(nested) == [1]


def test_mapped_keeps_the_classes_and_changes_nothing_in_place():
    given = {"pair": Pair(A, 1), "out": Output([B], None), "space": types.SimpleNamespace(c=C), "text": "t"}
    found = mapped(lambda value: value * 10, given)
    assert values(found) == [10, 20, 30]
    assert values(given) == [1, 2, 3]
    assert type(found["pair"]) is Pair
    assert type(found["out"]) is Output
    assert found["text"] == "t"


def test_mapped_keeps_mappings_of_their_own_class():
    given = ModelOutput(a=A)
    found = mapped(lambda value: value * 10, given)
    assert type(found) is ModelOutput
    assert float(found["a"]) == float(found.a) == 10
    assert float(given["a"]) == 1
