"""A network as a serialised ONNX model, and what became of its slopes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class KeptSlopes:
    """Slopes of one activation that an exported graph still multiplies by.

    Attributes:
        name: Qualified name of the activation.
        reason: Why no weight could take them.
    """

    name: str
    reason: str


class OnnxModel(NamedTuple):
    """A serialised ONNX model.

    Attributes:
        content: The model, in protobuf's format.
        folded_slopes: Activations whose slopes went into the weights around them: they cost nothing.
        kept_slopes: Those that it still multiplies by.
    """

    content: bytes
    folded_slopes: int
    kept_slopes: tuple[KeptSlopes, ...]
