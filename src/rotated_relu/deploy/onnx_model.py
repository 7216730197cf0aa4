"""A network as a serialised ONNX model, and what became of its slopes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ..core.extras import needs


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


def with_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """A serialised model with text by key added to its ``metadata_props``.

    Raises:
        MissingPackageError: If there is text to add and onnx is not installed.
    """
    if not metadata:
        return content
    needs("onnx")
    import onnx

    model = onnx.load_from_string(content)
    known = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, {**known, **metadata})
    return bytes(model.SerializeToString())
