"""Splits whose sizes a module keeps as an attribute: ``torch.split(x, self.sizes)``.

Sizes that are written into the code hold the width of what is split. But where the module that splits has exactly one
attribute with these very sizes, they were read from there, and another list can take its place as ``out_channels`` of
a convolution can. If the attribute serves something else too, the certificate notices, and the module keeps its width.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import accumulate

from torch import nn
from torch.fx import Node

from .capture import Graph, module_path, op_name


@dataclass(frozen=True)
class Split:
    """A call of ``torch.split`` with sizes from an attribute.

    Attributes:
        source: What is split.
        dim: Along which dimension of it.
        name: Qualified name of the module.
        attribute: Name of its attribute.
        sizes: Sizes of the parts.
    """

    source: Node
    dim: int
    name: str
    attribute: str
    sizes: tuple[int, ...]

    @property
    def ranges(self) -> list[slice]:
        """Where each part lies in what is split."""
        ends = list(accumulate(self.sizes))
        return [slice(end - size, end) for end, size in zip(ends, self.sizes, strict=True)]


def find_splits(graph: Graph, model: nn.Module) -> dict[Node, Split]:
    """All splits of a captured model whose sizes are an attribute; those of modules that split once per pass."""
    nodes = [node for node in graph.nodes if op_name(node) == "split_with_sizes" and node in graph.varying]
    calls = Counter(module_path(node) for node in nodes)
    modules = dict(model.named_modules())
    found = {}
    for node in nodes:
        path, (source, sizes) = module_path(node), node.args[:2]
        names = _attributes(modules.get(path), sizes)
        if calls[path] == 1 and len(names) == 1 and isinstance(source, Node):
            dim = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
            assert isinstance(dim, int)
            rank = source.meta["val"].dim()
            found[node] = Split(source, dim % rank, path, names[0], tuple(sizes))  # type: ignore[arg-type]
    return found


def _attributes(module: nn.Module | None, sizes: object) -> list[str]:
    """Names of a module's attributes that hold these sizes."""
    if module is None or not isinstance(sizes, (list, tuple)) or any(type(size) is not int for size in sizes):
        return []
    values = vars(module).items()
    return [name for name, value in values if type(value) in (list, tuple) and list(value) == list(sizes)]
