"""Find the call sites of activations in a captured graph: where, how wide, along which dimension.

A *call site* is one execution of a gate in the forward pass. A module that is called twice has two; ``F.relu`` has
one and no module at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.fx import Node

from ..graph.capture import Graph, module_path, module_paths, op_name
from .activation import Rotated

# ATen operation -> the gate module that computes it from the operation's other arguments.
GATES: dict[str, Callable[..., nn.Module]] = {
    "relu": lambda *a: nn.ReLU(),
    "relu6": lambda *a: nn.ReLU6(),
    "hardtanh": lambda low=-1.0, high=1.0: nn.Hardtanh(low, high),
    "gelu": lambda approximate="none": nn.GELU(approximate),
    "silu": lambda *a: nn.SiLU(),
    "hardswish": lambda *a: nn.Hardswish(),
    "mish": lambda *a: nn.Mish(),
    "leaky_relu": lambda slope=0.01: nn.LeakyReLU(slope),
    "elu": lambda alpha=1.0, *a: nn.ELU(alpha),
    "selu": lambda *a: nn.SELU(),
    "celu": lambda alpha=1.0: nn.CELU(alpha),
}

_CHANNELS_AT_1 = frozenset(
    ["conv1d", "conv2d", "conv3d", "batch_norm", "group_norm", "instance_norm", "conv_transpose2d"]
)
_CHANNELS_LAST = frozenset(["linear", "layer_norm", "rms_norm"])
_SAME_LAYOUT = frozenset(
    (
        "add sub mul div relu dropout clone contiguous cat max_pool2d avg_pool2d adaptive_avg_pool2d pad "
        "slice"
    ).split()
)


@dataclass(frozen=True)
class Site:
    """One call of a gate.

    Attributes:
        node: The gate's node in the captured graph.
        module: Qualified name of the gate module ('' if the gate is called as a function).
        owner: Qualified name of the module whose ``forward`` makes the call.
        channels: Number of channels at this site.
        channel_dim: Dimension that holds them, 1 or -1.
        gate: A fresh module that computes the same gate.
    """

    node: Node
    module: str
    owner: str
    channels: int
    channel_dim: int
    gate: nn.Module

    def __str__(self) -> str:
        name = (
            f"module {self.module}" if self.module else f"{op_name(self.node)} in {self.owner or 'the root'}"
        )
        return f"{name} ({self.channels} channels)"


def find_sites(graph: Graph, model: nn.Module) -> list[Site]:
    """All call sites of gates that carry no slopes yet, in execution order."""
    modules = dict(model.named_modules(remove_duplicate=False))
    sites = []
    for node in graph.nodes:
        if node in graph.varying and node.op == "call_function" and op_name(node) in GATES:
            paths = [path for path in module_paths(node) if path in modules]
            if not any(isinstance(modules[path], Rotated) for path in paths):
                sites.append(_site(node, modules))
    return sites


def _site(node: Node, modules: dict[str, nn.Module]) -> Site:
    path = module_path(node)
    stack = module_paths(node)
    is_module = bool(path) and _is_gate_module(modules.get(path))
    value: Tensor = node.meta["val"]
    dim = channel_dim(node)
    return Site(
        node=node,
        module=path if is_module else "",
        owner=(stack[-2] if len(stack) > 1 else "") if is_module else path,
        channels=int(value.shape[dim]),
        channel_dim=dim,
        gate=GATES[op_name(node)](*node.args[1:], **node.kwargs),
    )


def _is_gate_module(module: nn.Module | None) -> bool:
    """An activation module: no children, no parameters, and one tensor in."""
    return module is not None and not list(module.children()) and not list(module.parameters(recurse=False))


def channel_dim(node: Node) -> int:
    """Dimension of a gate's output that holds the channels: 1 after convolutions, -1 after linear layers.

    Walks back to the layer that wrote the tensor; falls back to the usual layout of the rank (1 for images).
    """
    seen: Any = node
    rank = len(node.meta["val"].shape)
    while isinstance(seen, Node) and seen.op == "call_function":
        name = op_name(seen)
        if name in _CHANNELS_AT_1:
            return 1
        if name in _CHANNELS_LAST:
            return -1
        if name not in _SAME_LAYOUT and name not in GATES:
            break
        sources = [source for source in seen.all_input_nodes if isinstance(source.meta.get("val"), Tensor)]
        seen = next((s for s in sources if len(s.meta["val"].shape) == rank), None)
    return -1 if rank == 3 else 1 if rank > 1 else -1
