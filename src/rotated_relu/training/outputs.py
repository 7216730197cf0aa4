"""The class scores among what a network returns: other people's networks return dictionaries and tuples as well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..core.errors import ShapeError

NAMES = ("logits", "scores", "out", "output")  # by which networks call them, the first that is there


def class_scores(output: Any) -> Tensor:
    """Scores of shape (batch, classes): the output itself, or a part of it.

    A dictionary (or an object with fields, as transformers return) gives its ``logits``, ``scores``, ``out`` or
    ``output``, else its only tensor; a tuple its first item.

    Raises:
        ShapeError: If there are none.
    """
    found = output
    if isinstance(found, Mapping):
        name = next((name for name in NAMES if name in found), None)
        found = _only(output) if name is None else found[name]
    elif isinstance(found, tuple | list) and found:
        found = found[0]
    elif not isinstance(found, Tensor):
        found = next((getattr(found, name) for name in NAMES if hasattr(found, name)), found)
    if not isinstance(found, Tensor) or found.dim() != 2:
        shape = (
            f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        )
        raise ShapeError(
            f"a classifier returns scores of shape (batch, classes), alone or as one of {', '.join(NAMES)}; got {shape}"
        )
    return found


def _only(output: Mapping[str, Any]) -> Any:
    tensors = [value for value in output.values() if isinstance(value, Tensor)]
    return tensors[0] if len(tensors) == 1 else output
