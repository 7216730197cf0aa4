"""Walk a captured graph, apply one rule per operation, and solve for the channel groups.

Requires: a captured graph, and the layers in it. Ensures: groups such that removing whole groups, none of them fixed,
keeps every operation valid. A rule that fails (a bug of ours, or of one that the user registered) costs sharpness and
nothing else: the operation keeps all widths, which is sound, and the failure is warned about and recorded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from torch import Tensor
from torch.fx import Node

from .. import ops
from ..capture import Graph, describe, module_paths, op_name
from ..channel_groups import ChannelGroups
from ..layers import Layer
from ..rule_failures import RuleFailures
from ..splits import Split
from .layers import layer_call
from .rule_context import NotCovered, RuleContext
from .table import RULES


def group_channels(
    graph: Graph,
    layers: Iterable[Layer],
    regions: Mapping[str, str],
    frozen: Collection[str] = (),
    splits: Mapping[Node, Split] | None = None,
    failures: RuleFailures | None = None,
) -> ChannelGroups:
    """Group the channels of a graph.

    Args:
        graph: The captured graph.
        layers: Convolutions and linear layers that may read and write subsets.
        regions: Call keys of parameter-free modules that stay at full width inside, to module names.
        frozen: Qualified names of modules whose ``forward`` needs every tensor at full width.
        splits: Splits whose parts may become smaller.
        failures: Where rules that failed are noted.
    """
    groups = ChannelGroups()
    for node in graph.nodes:
        value = node.meta.get("val")
        # Splits return tuples: their parts come as nodes of their own.
        if isinstance(value, Tensor):
            groups.add(node, value.shape)
    failures = RuleFailures() if failures is None else failures  # an empty one is false
    walk = _Walk(graph, groups, list(layers), regions, frozen, splits or {}, failures)
    for node in graph.nodes:
        walk.visit(node)
    for node in graph.outputs:
        if node in groups.sizes:
            walk.context.fix_all(node, "the network's output")
    groups.solve()
    return groups


def region_of(node: Node, regions: Collection[str]) -> str | None:
    """Key of the full-width region that a node belongs to, or None."""
    return next((key for key in (node.meta.get("nn_module_stack") or {}) if key in regions), None)


class _Walk:
    """Which rule a node gets."""

    def __init__(
        self,
        graph: Graph,
        groups: ChannelGroups,
        layers: list[Layer],
        regions: Mapping[str, str],
        frozen: Collection[str],
        splits: Mapping[Node, Split],
        failures: RuleFailures,
    ) -> None:
        self.graph, self.groups, self.regions, self.failures = graph, groups, regions, failures
        self.frozen = frozenset(frozen)
        self.calls = {call.result: (layer, call) for layer in layers for call in layer.calls}
        # What a layer computes between its input, its parameters and its result is its own business.
        self.inner = {node for layer in layers for node in layer.inner} - self.calls.keys()
        self.context = RuleContext(groups, splits)

    def visit(self, node: Node) -> None:
        """Merge or fix the channels of a node's result and arguments."""
        self.context.node = node
        if node.op == "placeholder":
            if node not in self.graph.states and node in self.groups.sizes:
                self.context.fix_all(node, "the network's input")
        elif region_of(node, self.regions) is not None:
            self.fix_inside(node)
        elif node not in self.inner:
            for path in self.frozen.intersection(module_paths(node)):
                self.fix_seen(node, path)
            if node in self.calls:
                layer_call(self.context, *self.calls[node])
            else:
                self.apply_rule(node)

    def apply_rule(self, node: Node) -> None:
        """The rule of a node's operation, or the default where there is none or it does not cover the arguments."""
        rule = RULES.get(op_name(node))
        if rule is None or not isinstance(node.meta.get("val"), Tensor):
            self.default(node)
            return
        try:
            rule(self.context, node)
        except NotCovered:
            self.default(node)
        except Exception as error:
            self.failures.note(node, "channel rule", error)
            self.default(node)

    def fix_seen(self, node: Node, path: str) -> None:
        """Fix what the forward of one module itself computes, hands to its children, or gets from them."""
        reason = f"{path or 'the model'}, whose forward does not run on narrower tensors"
        own = _child(node, path)
        source = [self.calls[node][1].source] if node in self.calls else []
        for key in [node, *node.all_input_nodes, *source]:
            if key in self.groups.sizes and key not in self.graph.states:
                others = node.users if key is node else [key]
                # What stays inside of one child is that child's business, whose code may take any width.
                if not own or any(_child(other, path) != own for other in others):
                    self.context.fix_all(key, reason, node)

    def fix_inside(self, node: Node) -> None:
        """Inside a region every tensor keeps its width; tensors that enter or leave it get adapters there.

        A node that leaves the region has two faces: its own channels, which outside consumers use, are free.
        """
        key = region_of(node, self.regions)
        leaves = any(region_of(user, self.regions) != key for user in node.users)
        if not leaves and node in self.groups.sizes:
            self.context.fix_all(node)

    def default(self, node: Node) -> None:
        """An operation without a rule keeps the width of all that it touches."""
        if not isinstance(node.meta.get("val"), Tensor) and op_name(node) in ops.SPLITS:
            return  # its getitem nodes carry the rule
        for key in [node, *node.all_input_nodes]:
            if key in self.groups.sizes:
                self.context.fix_all(key, describe(node), node)


def _child(node: Node, path: str) -> str:
    """Which child call of a module a node belongs to; '' for the module's own operations, "outside" elsewhere."""
    calls = list((node.meta.get("nn_module_stack") or {}).items())
    depth = next((i for i, (_, (name, _)) in enumerate(calls) if name == path), None)
    if depth is None:
        return "outside"
    return calls[depth + 1][0] if depth + 1 < len(calls) else ""
