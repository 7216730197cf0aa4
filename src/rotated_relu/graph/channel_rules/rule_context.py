"""What a rule works with: channels of the tensors around one operation, merged and fixed on its behalf."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch.fx import Node

from ..capture import describe
from ..channel_groups import ChannelGroups, Ids
from ..splits import Split


class NotCovered(Exception):
    """The rule does not cover these arguments: the operation keeps the width of all that it touches."""


class RuleContext:
    """Merges and fixes channels for one operation after the other.

    A tensor is named by the node that computes it: the operation's own node for the result, one of
    ``node.all_input_nodes`` (or ``node.args[0]``) for an argument.

    Attributes:
        node: The operation whose turn it is.
        mentioned: Tensors and dimensions that rules have named so far.
    """

    node: Node

    def __init__(self, groups: ChannelGroups, splits: Mapping[Node, Split]) -> None:
        self.groups, self.splits = groups, splits
        self.mentioned: set[tuple[Node, int]] = set()

    def has(self, tensor: Any) -> bool:
        """Whether this is a tensor with channels (and not a number, a list, a symbol)."""
        return tensor in self.groups.sizes

    def rank(self, tensor: Node) -> int:
        """Number of dimensions of a tensor."""
        return self.groups.rank(tensor)

    def size(self, tensor: Node, dim: int) -> int:
        """Size of one dimension of a tensor."""
        return self.groups.sizes[tensor][dim]

    def channels(self, tensor: Node, dim: int) -> Ids:
        """The channels along one dimension of a tensor, for :meth:`merge`."""
        self.mentioned.add((tensor, dim % self.rank(tensor)))
        return self.groups.channels(tensor, dim)

    def merge(self, one: Ids, other: Ids) -> None:
        """Declare channels pairwise the same."""
        self.groups.merge(one, other)

    def same(self, one: Node, dim: int, other: Node, other_dim: int) -> None:
        """Merge two dimensions position by position.

        Raises:
            NotCovered: If they differ in size.
        """
        a, b = self.channels(one, dim), self.channels(other, other_dim)
        if len(a) != len(b):
            raise NotCovered
        self.merge(a, b)

    def fix(self, tensor: Node, dim: int) -> None:
        """Let a dimension of a tensor keep its width; the operation is named as the reason."""
        self.groups.fix(self.channels(tensor, dim), describe(self.node), self.node)

    def fix_all(self, tensor: Node, reason: str = "", by: Node | None = None) -> None:
        """Let every dimension of a tensor keep its width; by default the operation is the reason."""
        if not reason:
            reason, by = describe(self.node), self.node
        for dim in range(self.rank(tensor)):
            self.groups.fix(self.channels(tensor, dim), reason, by)


Rule = Callable[[RuleContext, Node], None]


def tensor(node: Node, position: int) -> Node:
    """A positional argument that has to be a tensor."""
    source = node.args[position] if len(node.args) > position else None
    if not isinstance(source, Node):
        raise NotCovered
    return source


def argument(node: Node, position: int, name: str, default: Any = None) -> Any:
    """An argument that may be given by position or by name."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def integers(value: Any) -> list[int]:
    """A list of plain integers, or a single one as a list; sizes that are computed are not covered."""
    items = (
        [value] if isinstance(value, int) else list(value) if isinstance(value, (list, tuple)) else [value]
    )
    if any(not isinstance(item, int) for item in items):
        raise NotCovered
    return items
