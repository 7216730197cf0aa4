"""Carry a plan out on the user's own modules: cut tensors, fix attributes, add adapters.

Requires: a model whose parameters have the shapes that the plan recorded. Ensures: the same object, same classes
(or subclasses), same state-dict keys, smaller tensors. Checks everything before it changes anything.

The plans that were carried out stay with the network, oldest first, as a plain attribute (through ``copy.deepcopy``,
but not in the state dict): one that is compacted twice is loaded by carrying out both plans on a fresh original.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from ...core.errors import PlanError
from .adapters import FullWidth, narrow
from .plan import Cut, LayerPlan, Plan, RegionPlan

_PLANS = "rotated_relu_plans"


class _Plans(tuple[Plan, ...]):
    """Plans are not changed once they have been carried out, so copies of a model share them."""

    __slots__ = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Plans:
        return self


def earlier_plans(model: nn.Module) -> list[Plan]:
    """Plans that were carried out on a model, oldest first; empty for an original."""
    # Copying a GraphModule keeps its meta, but none of its other attributes.
    home = model.meta if isinstance(model, fx.GraphModule) else model.__dict__
    return list(home.get(_PLANS, ()))


def _remember(model: nn.Module, plan: Plan) -> None:
    home = model.meta if isinstance(model, fx.GraphModule) else model.__dict__
    home[_PLANS] = _Plans([*earlier_plans(model), plan])


def named_states(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by qualified name: tied ones under each name, those that are not persistent too."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def check_fits(plan: Plan, model: nn.Module) -> None:
    """Raise unless the model is the one that the plan was made for.

    Raises:
        PlanError: Naming the first parameter or buffer that is missing, unexpected or of another shape, or the first
            layer that is missing or of another class.
    """
    difference = _other_state(plan, model) or _other_module(plan, model)
    if difference:
        raise PlanError(f"the plan is for another network: {difference}")


def _other_state(plan: Plan, model: nn.Module) -> str:
    """The first parameter or buffer that the plan and the model do not agree on, in words."""
    found = {name: list(value.shape) for name, value in named_states(model).items()}
    for name, shape in plan.states.items():
        if name not in found:
            return f"it has {name} {shape}, the model has no such tensor"
        if found[name] != shape:
            return f"{name} is {found[name]} in the model, {shape} in the plan"
    extra = next((name for name in found if name not in plan.states), None)
    return "" if extra is None else f"the model has {extra} {found[extra]}, the plan does not"


def _other_module(plan: Plan, model: nn.Module) -> str:
    """The first module or attribute that the plan and the model do not agree on, in words."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for layer in plan.layers:
        kinds = [kind.__name__ for kind in type(modules.get(layer.name)).__mro__]
        if layer.kind not in kinds:
            return f"{layer.name} is a {kinds[0]} in the model, a {layer.kind} in the plan"
    for region in plan.regions:
        if region.name not in modules:
            return f"the model has no module {region.name}"
    for split in plan.splits:
        sizes = getattr(modules.get(split.name), split.attribute, None)
        if not isinstance(sizes, (list, tuple)) or list(sizes) != split.before:
            return f"{split.name}.{split.attribute} is {sizes!r} in the model, {split.before} in the plan"
    return ""


def apply(plan: Plan, model: nn.Module) -> nn.Module:
    """Carry out a plan in place and return the model (a new object only if the root itself is a region).

    Raises:
        PlanError: If the plan does not fit; the model is unchanged then.
    """
    check_fits(plan, model)
    states = named_states(model)
    for cut in plan.cuts:
        # Shared parameters stay shared: every name gets the one new tensor.
        whole = states[cut.name]
        _cut(model, cut, [name for name, value in states.items() if value is whole])
    for layer in plan.layers:
        _finish_layer(model.get_submodule(layer.name), layer)
    # Lists stay lists and tuples tuples.
    for split in plan.splits:
        owner = model.get_submodule(split.name)
        setattr(owner, split.attribute, type(getattr(owner, split.attribute))(split.after))
    for region in plan.regions:
        _wrap(model, region)
    _remember(model, plan)
    return model


@torch.no_grad()
def _cut(model: nn.Module, cut: Cut, names: list[str]) -> None:
    """Replace one parameter or buffer by its kept part, one new tensor of the same kind under all of its names."""
    path, _, leaf = cut.name.rpartition(".")
    value: Tensor = getattr(model.get_submodule(path), leaf)
    small = _same_layout(kept_part(value.detach(), cut), value)
    if isinstance(value, nn.Parameter):
        small = nn.Parameter(small, requires_grad=value.requires_grad)
    for name in names:
        path, _, leaf = name.rpartition(".")
        owner = model.get_submodule(path)
        setattr(owner, leaf, small)
        _tell_widths(owner, leaf, small)


def _tell_widths(owner: nn.Module, leaf: str, small: Tensor) -> None:
    """Attributes of a module whose parameter was cut as that of no layer (a shared weight, a table)."""
    if isinstance(owner, nn.modules.batchnorm._NormBase):
        owner.num_features = len(small)  # an instance norm checks its input against it
    elif leaf != "weight":
        return
    elif isinstance(owner, nn.Linear):
        owner.out_features, owner.in_features = small.shape
    elif isinstance(owner, nn.Bilinear):
        owner.out_features, owner.in1_features, owner.in2_features = small.shape
    elif isinstance(owner, nn.Embedding):
        owner.num_embeddings, owner.embedding_dim = small.shape
    elif isinstance(owner, nn.modules.conv._ConvNd) and owner.groups == 1:
        first, second = small.shape[:2]
        owner.in_channels, owner.out_channels = (first, second) if owner.transposed else (second, first)


def kept_part(value: Tensor, cut: Cut) -> Tensor:
    """The entries of a tensor that a cut keeps; works for anything of the parameter's shape, such as its momentum."""
    for dim, index in enumerate(cut.keep):
        if index is None:
            continue
        if index and isinstance(index[0], list):
            blocks = value.chunk(len(index), 0)
            value = torch.cat([_select(b, dim, own) for b, own in zip(blocks, index, strict=True)])
        else:
            value = _select(value, dim, index)
    return value


def _select(value: Tensor, dim: int, index: Any) -> Tensor:
    return value.index_select(dim, torch.tensor(index, dtype=torch.long, device=value.device))


def _same_layout(small: Tensor, like: Tensor) -> Tensor:
    """Keep channels-last weights channels-last."""
    if like.dim() == 4 and not like.is_contiguous() and like.is_contiguous(memory_format=torch.channels_last):
        return small.contiguous(memory_format=torch.channels_last)
    return small.contiguous()


def _finish_layer(module: nn.Module, plan: LayerPlan) -> None:
    """Attributes that the module prints and computes with, then its adapters."""
    before = {"in": plan.inputs[1], "out": plan.outputs[1]}
    for name, side in (
        ("in_channels", "in"), ("out_channels", "out"), ("in_features", "in"), ("out_features", "out"),
        ("num_features", "in"), ("input_size", "in"), ("nx", "in"), ("nf", "out"),
    ):  # fmt: skip
        if hasattr(module, name):
            setattr(module, name, before[side])
    for hook in module._forward_pre_hooks.values():
        if hasattr(hook, "compute_weight"):
            hook(module, None)  # the older weight norm keeps the weight that it computed last
    # Left alone otherwise: a linear layer has no such attribute.
    if plan.groups[0] != plan.groups[1]:
        module.groups = plan.groups[1]  # type: ignore[assignment]
    if plan.read is not None or plan.write is not None or plan.void:
        own_width = plan.inputs[1] if hasattr(module, "num_features") else plan.outputs[1]
        narrow(module, plan.dim, plan.read, plan.write, width=own_width, void_width=plan.void)


def _wrap(model: nn.Module, plan: RegionPlan) -> None:
    path, _, leaf = plan.name.rpartition(".")
    parent = model.get_submodule(path)
    module = parent.get_submodule(leaf)
    state = next(iter(model.parameters()), torch.empty(0))
    wrapped = FullWidth(module, plan.dim, plan.widen, plan.narrow, plan.width).to(state.device)
    wrapped.training = module.training
    parent._modules[leaf] = wrapped
