"""What is compared: how each method trains, and how it chooses what goes.

Every method uses the same network, data, split, epochs, augmentation and optimizer; the rotated ones start as the plain
network does (all slopes 1). The trainings of the paper's method and of ours differ from the plain one in nothing but
the slopes and what penalizes them.

Sources: Nayak and Kalyani, TMLR 2024; Liu et al., *Learning Efficient Convolutional Networks through Network Slimming*,
ICCV 2017; Li et al., *Pruning Filters for Efficient ConvNets*, ICLR 2017; Fang et al., *DepGraph*, CVPR 2023; Fang et
al., *Isomorphic Pruning for Vision Models*, ECCV 2024; the documentation of NVIDIA's Model Optimizer and of onnxsim.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from ...core.criteria import Unit
from ...core.errors import UnknownNameError
from ...training import BudgetConfig, Config

TUNED = ("rotated_l1", "slimming", "group_sparse")  # trainings whose penalty has a strength to be tuned
DENSE = "relu"  # the training that accuracies are compared with
DEPGRAPH = "depgraph"  # goes on from the plain network, on a schedule of its own
BUDGET_MS = "budget_latency"
BUDGETS: dict[str, Unit] = {"budget": "macs", BUDGET_MS: "latency"}  # training -> unit of what it may keep
OURS = tuple(BUDGETS)
# How a method chooses -> the package that does it; the other ranks are ours.
TOOLS = {
    "filter_l1": "torch_pruning",
    "group_l2": "torch_pruning",
    "fastnas": "modelopt",
    "onnx_l2": "onnxsim",
}
# Of a tool, by the names that are imported.
PACKAGES = {
    "torch_pruning": ("torch_pruning",),
    "modelopt": ("modelopt", "torchprofile"),
    "onnxsim": ("onnx", "onnxsim"),
}
SKIPPABLE = ("modelopt", "onnxsim")  # without them their methods are left out, and the result says so


@dataclass(frozen=True)
class Method:
    """One line of the comparison.

    Attributes:
        name: How files and options call it.
        label: How people call it.
        training: Which of the trainings it prunes; see :func:`training_config`.
        rank: How it chooses: ``slope``, ``taylor``, ``random`` or ``norm`` (batch norm scales) over single channels;
            ``filter_l1`` or ``group_l2`` over Torch-Pruning's groups; ``fastnas``, the search of NVIDIA's Model
            Optimizer; ``onnx_l2``, onnxsim's pruning of the exported graph.
        on: Another method, whose smallest compacted network is pruned further; None prunes the trained network.
        isomorphic: Torch-Pruning ranks groups of the same structure apart.
        round_to: Widths that the tool leaves are multiples of this; None leaves them as they come.
        steps: Over how many steps Torch-Pruning prunes, its scores taken anew before each; 1 prunes at once.
    """

    name: str
    label: str
    training: str
    rank: str
    on: str | None = None
    isomorphic: bool = False
    round_to: int | None = None
    steps: int = 1

    @property
    def tool(self) -> str | None:
        """The package that chooses, by the name that it is imported by; None if this one does."""
        return TOOLS.get(self.rank)

    @property
    def is_coupled(self) -> bool:
        """Whether Torch-Pruning prunes."""
        return self.tool == "torch_pruning"

    @property
    def has_stand_ins(self) -> bool:
        """Whether the pruned network has slopes of 1 that only stand in for plain activations."""
        return self.training in PLAIN and self.tool not in ("torch_pruning", "modelopt")


PLAIN = (DENSE, "slimming", "group_sparse", DEPGRAPH)  # trainings of networks without slopes

METHODS = {
    method.name: method
    for method in (
        Method("rotated", "Rotated ReLU", "rotated", "slope"),
        Method("rotated_taylor", "Rotated ReLU, Taylor score", "rotated", "taylor"),
        Method("rotated_l1", "Rotated ReLU + L1", "rotated_l1", "slope"),
        Method("budget", "Rotated ReLU + budget (ours)", "budget", "taylor"),
        Method(BUDGET_MS, "Rotated ReLU + budget of milliseconds (ours)", BUDGET_MS, "taylor"),
        Method("slimming", "Network Slimming", "slimming", "norm"),
        Method("filter_l1", "L1-norm filters (Torch-Pruning)", DENSE, "filter_l1"),
        Method("group_norm", "Group norm (Torch-Pruning)", DENSE, "group_l2"),
        Method(
            "group_isomorphic", "Group norm, isomorphic (Torch-Pruning)", DENSE, "group_l2", isomorphic=True
        ),
        Method("group_round8", "Group norm, widths of 8 (Torch-Pruning)", DENSE, "group_l2", round_to=8),
        Method("group_round16", "Group norm, widths of 16 (Torch-Pruning)", DENSE, "group_l2", round_to=16),
        Method("group_sparse", "Group norm, sparse training (Torch-Pruning)", "group_sparse", "group_l2"),
        Method(DEPGRAPH, "DepGraph's schedule (Torch-Pruning)", DEPGRAPH, "group_l2", steps=400),
        Method("fastnas", "FastNAS (NVIDIA Model Optimizer)", DENSE, "fastnas", round_to=8),
        Method("onnxsim", "L2 norm in the exported graph (onnxsim)", DENSE, "onnx_l2"),
        Method("random", "Random channels", DENSE, "random"),
        Method("budget_filter_l1", "Ours, then L1-norm filters", "budget", "filter_l1", on="budget"),
    )
}


# A budget of milliseconds is added where speed-ups are asked for.
DEFAULT_METHODS = tuple(name for name in METHODS if name != BUDGET_MS)


def chosen(names: Iterable[str]) -> list[Method]:
    """Methods by name, in the order of ``METHODS``.

    Raises:
        UnknownNameError: If there is none of that name.
    """
    wanted = set(names)
    for name in wanted:
        if name not in METHODS:
            raise UnknownNameError("method", name, METHODS)
    return [method for name, method in METHODS.items() if name in wanted]


def counts_time(training: str) -> bool:
    """Whether a training has a budget of milliseconds: in an engine, with a table of its own."""
    return BUDGETS.get(training) == "latency"


def training_config(
    base: Config, training: str, *, strength: float = 0.0, keep: float = 1.0, table: str | None = None
) -> Config:
    """The settings of one of the trainings.

    Args:
        base: The recipe's; its own penalties are dropped.
        training: ``relu``, ``rotated``, ``rotated_l1``, ``slimming``, ``group_sparse``, ``budget`` or
            ``budget_latency``.
        strength: Of the L1 of ``rotated_l1`` and ``slimming``: the total shrinkage (see ``total_shrinkage``). That of
            ``group_sparse`` is Torch-Pruning's own, see :mod:`.group_sparsity`.
        keep: Share of the multiply-accumulates that ``budget`` aims at, or of the milliseconds.
        table: File of the times that ``budget_latency`` counts by; not needed to keep all.
    """
    rotated = training not in PLAIN
    model = dataclasses.replace(base.model, rotated=rotated, slope_init="ones" if rotated else "published")
    optimizer = dataclasses.replace(base.optimizer, decay_slopes=base.optimizer.decay_slopes and not rotated)
    penalized = training in ("rotated_l1", "slimming")
    budget = BudgetConfig()
    if training in BUDGETS:
        budget = dataclasses.replace(base.budget, keep=keep, unit=BUDGETS[training], table=table)
    return dataclasses.replace(
        base,
        model=model,
        optimizer=optimizer,
        slope_l1=0.0,
        total_shrinkage=strength if penalized else 0.0,
        slope_l1_ramp=(0.0, 0.0),
        penalty_form="subgradient",
        penalized="norms" if training == "slimming" else "slopes",
        budget=budget,
    )
