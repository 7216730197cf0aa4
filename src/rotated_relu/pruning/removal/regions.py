"""Parameter-free modules that stay at full width inside, with adapters around them.

A shortcut that pads channels (``F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))``) has widths written into its code, and
would fix the width of the whole residual stage. With the module's input widened to what it was, and its output narrowed
again, its own code runs as ever, and the stage is free. That works where one tensor goes in and one comes out, along
one narrow dimension, in one call.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from torch import nn
from torch.fx import Node

from ...graph.capture import Graph
from ...graph.layers import as_list
from .kept_groups import KeptGroups
from .layer_plans import positions
from .plan import RegionPlan


def worthwhile_regions(choice: KeptGroups, model: nn.Module, known: Collection[str]) -> dict[str, str]:
    """Modules whose code fixes channels that are dead: call key to qualified name, those ``known`` left out."""
    dead = {group for group in choice.groups.fixed if not choice.alive[group]}
    culprits = {choice.groups.fixed_by[group] for group in dead} - {None}
    found: dict[str, str] = {}
    for node in culprits:
        for key, (path, _) in reversed((node.meta.get("nn_module_stack") or {}).items()):
            # The smallest module around the culprit; one with parameters has layers that could be narrow themselves.
            if not path or _has_state(model.get_submodule(path)):
                break
            if key not in known and _one_way(choice.graph, key):
                found[key] = path
                break
    return found


def narrow_dims(choice: KeptGroups, key: str) -> set[int]:
    """Dimensions along which a region's input or output is narrow; its adapters work along one."""
    return {
        dim
        for node in _ends(choice.graph, key)
        for dim in range(choice.groups.rank(node))
        if not choice.kept(node, dim).all()
    }


def region_plans(choice: KeptGroups, regions: Mapping[str, str]) -> list[RegionPlan]:
    """What each region's adapters do."""
    plans = []
    for key, path in regions.items():
        source, leaves = _ends(choice.graph, key)
        for dim in narrow_dims(choice, key):
            kept, kept_out = choice.kept(source, dim), choice.kept(leaves, dim)
            widen = None if kept.all() else positions(kept, np.ones_like(kept))
            narrow = None if kept_out.all() else as_list(np.flatnonzero(kept_out))
            plans.append(RegionPlan(path, dim, widen, narrow, int(kept.sum())))
    return plans


def _has_state(module: nn.Module) -> bool:
    return any(True for _ in module.parameters()) or any(True for _ in module.buffers())


def _inside(graph: Graph, key: str) -> list[Node]:
    return [node for node in graph.nodes if key in (node.meta.get("nn_module_stack") or {})]


def _one_way(graph: Graph, key: str) -> bool:
    """One tensor in, one out, called once, so that adapters around the module are enough."""
    nodes = _inside(graph, key)
    inside = set(nodes)
    # Adapters sit at the module's own input and output: whatever else comes in or goes out escapes them.
    sources = {source for node in nodes for source in node.all_input_nodes if source not in inside}
    exits = [n for n in nodes if n in graph.outputs or any(user not in inside for user in n.users)]
    base = key.split("@")[0]  # the key of a module's second call is that of the first with "@1" behind
    again = any(
        other != key and other.split("@")[0] == base
        for node in graph.nodes
        for other in (node.meta.get("nn_module_stack") or {})
    )
    single = len(exits) == 1 and not any(user in inside for user in exits[0].users)
    return not again and single and len(sources & graph.varying) == 1 and sources <= graph.varying


def _ends(graph: Graph, key: str) -> tuple[Node, Node]:
    """The tensor that enters a region and the one that leaves it."""
    nodes = _inside(graph, key)
    inside = set(nodes)
    source = next(s for n in nodes for s in n.all_input_nodes if s not in inside and s in graph.varying)
    leaves = next(n for n in nodes if n in graph.outputs or any(user not in inside for user in n.users))
    return source, leaves
