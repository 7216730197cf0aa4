"""Take an optimizer along: the state of what was kept, under the compacted network's parameters.

Momentum and moments have the shape of their parameter (or, factored as in Adafactor, size 1 along some dimensions), and
are cut as the parameter was. So the next step on the compacted network is the original's step on the kept entries.

Requires: an optimizer of the original's parameters. Ensures: another one of the same class, with the same groups and
settings, for the compacted network's parameters; the given one is unchanged. Or an error, and nothing was made.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ...core.errors import ArgumentError, CompactionError
from .plan import Cut, Plan
from .surgery import kept_part


def check_optimizer(optimizer: Optimizer, net: nn.Module) -> dict[Tensor, str]:
    """Names of an optimizer's parameters in a network.

    Raises:
        CompactionError: If it holds a parameter that is not the network's, or state that cannot be cut along with its
            parameter (LBFGS keeps all parameters in one vector); the message names it.
    """
    if not isinstance(optimizer, Optimizer):
        raise ArgumentError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
    names: dict[Tensor, str] = {}
    for name, parameter in net.named_parameters():
        names[parameter] = name
    for number, group in enumerate(optimizer.param_groups):
        for position, parameter in enumerate(group["params"]):
            if parameter not in names:
                raise CompactionError(
                    f"parameter {position} of the optimizer's group {number}, {list(parameter.shape)}, is none of the "
                    "network's: pass the optimizer that trains this network"
                )
            for key, value in _tensors(optimizer.state.get(parameter, {})).items():
                if not _follows(value, parameter):
                    raise CompactionError(
                        f"{type(optimizer).__name__} keeps {key} of shape {list(value.shape)} for {names[parameter]} "
                        f"of shape {list(parameter.shape)}, which cannot be cut with it: make a new optimizer for the "
                        "compacted network"
                    )
    return names


def cut_optimizer(optimizer: Optimizer, net: nn.Module, small: nn.Module, plan: Plan) -> Optimizer:
    """The same optimizer for the compacted network.

    Args:
        optimizer: Of the original's parameters, in any order and grouping; it is not changed.
        net: The original.
        small: The compacted network.
        plan: What was cut.

    Raises:
        CompactionError: See :func:`check_optimizer`.
    """
    names = check_optimizer(optimizer, net)
    states = dict(small.named_parameters(remove_duplicate=False))
    whole = dict(net.named_parameters(remove_duplicate=False))
    cuts = {
        id(whole[cut.name]): cut for cut in plan.cuts if cut.name in whole
    }  # a tied one may go by another name
    replaced: dict[int, Any] = {}
    for parameter, name in names.items():
        replaced[id(parameter)] = states[name]
        for value in _tensors(optimizer.state.get(parameter, {})).values():
            replaced[id(value)] = _cut_state(value, parameter, cuts.get(id(parameter)))
    return copy.deepcopy(optimizer, replaced)  # a copy in which these take the place of the originals


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors of one parameter's state, those in lists included."""
    leaves, _ = torch.utils._pytree.tree_flatten_with_path(dict(state))
    return {torch.utils._pytree.keystr(path): leaf for path, leaf in leaves if isinstance(leaf, Tensor)}


def _follows(value: Tensor, parameter: Tensor) -> bool:
    """A number, or the parameter's shape with some dimensions reduced to 1."""
    if value.numel() == 1:
        return True
    return value.dim() == parameter.dim() and all(
        one in (1, other) for one, other in zip(value.shape, parameter.shape, strict=True)
    )


@torch.no_grad()
def _cut_state(value: Tensor, parameter: Tensor, cut: Cut | None) -> Tensor:
    if cut is None or value.dim() != parameter.dim():
        return value.clone()
    if value.shape != parameter.shape:
        keep = [index if size > 1 else None for index, size in zip(cut.keep, value.shape, strict=False)]
        cut = Cut(cut.name, list(value.shape), keep)
    return kept_part(value, cut).clone()
