"""Insert nodes and constants into an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from .patterns import Array, Node, Value


def add_initializer(graph: Any, name: str, values: Array) -> Value:
    """A new constant of a graph, under a name that must be free."""
    tensor = ir.tensor(np.ascontiguousarray(values), name=name)
    value = ir.Value(
        name=name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


class Editor:
    """Inserts nodes in front of the node that is being rewritten.

    Args:
        graph: The ``onnx_ir`` graph.
        prefix: Names of what is inserted begin with it.
    """

    def __init__(self, graph: Any, prefix: str) -> None:
        self.graph, self.prefix = graph, prefix
        self.before: Node = None
        self._count = 0

    @property
    def modified(self) -> bool:
        """Whether anything was inserted."""
        return self._count > 0

    def node(
        self,
        kind: str,
        inputs: list[Value],
        channels: int,
        like: Value,
        attributes: Mapping[str, Any] | None = None,
    ) -> Value:
        """Result of a new node, with ``channels`` along axis 1, in dtype and all other sizes like a value."""
        name = self._name()
        node = ir.node(kind, inputs, attributes=dict(attributes or {}), name=name)
        result: Value = node.outputs[0]
        result.name, result.dtype = name, like.dtype
        if like.shape is not None:
            sizes = list(like.shape)
            sizes[1] = channels
            result.shape = ir.Shape(sizes)
        self.graph.insert_before(self.before, [node])
        return result

    def constant(self, values: Any, dtype: Any, of: Value | None = None) -> Value:
        """A new constant; named after the one that it is made of, so that the file still says whose weights it has."""
        origin = "" if of is None else f"{str(of.name).partition(f'_{self.prefix}_')[0]}_"
        return add_initializer(self.graph, f"{origin}{self._name()}_value", np.asarray(values, dtype=dtype))

    def _name(self) -> str:
        self._count += 1
        return f"{self.prefix}_{self._count}"
