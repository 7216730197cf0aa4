"""Put slopes into a network where a plan says.

Requires: a network of the structure that was recorded, and a plan for it. Ensures: every module that the plan makes is
there; nothing else of the network has changed. What cannot be built raises before the first change.
"""

from __future__ import annotations

import copy

from torch import nn

from ..core.errors import GateError, RotationError
from .activation import Rotated, RotatedReLU
from .call_sites import Site
from .dispatch import dispatch, is_dispatching, shield
from .placing import Plan, computes_gate, plain_gate


def install(plan: Plan, net: nn.Module, init: str) -> nn.Module:
    """Carry out a plan on a network of the recorded structure."""
    modules = dict(net.named_modules(remove_duplicate=False))
    swapped = {name: _swapped(site, modules[site.module], init) for name, site in plan.swaps.items()}
    made = {
        owner: {
            child: _rotated(_called_gate(site), site, init).train(modules[owner].training)
            for child, site in sites.items()
        }
        for owner, sites in plan.dispatched.items()
    }
    for name, module in swapped.items():
        parent, _, leaf = name.rpartition(".")
        modules[parent]._modules[leaf] = module
        _leave_fast_path(modules[parent])
    for owner, children in made.items():
        dispatch(modules[owner], plan.tables[owner], children, plan.methods[owner])
        _leave_fast_path(modules[owner])
    for name in plan.shields:
        if not is_dispatching(modules[name]):
            shield(modules[name])
    for name in plan.hidden:
        net.get_submodule(name).hide_calls = True  # type: ignore[assignment]
    return net


def _swapped(site: Site, gate: nn.Module, init: str) -> Rotated:
    """What takes a gate module's place, hooks included."""
    has_state = any(True for _ in (*gate.parameters(), *gate.buffers()))
    inner = gate if has_state else copy.copy(gate)
    rotated = _rotated(inner, site, init).train(gate.training)
    if not has_state:
        for name, value in vars(gate).items():
            if name.endswith("_hooks") or "_hooks_" in name:
                rotated.__dict__[name] = value  # the same dict: handles that remove a hook still find it
                if isinstance(value, dict):
                    inner.__dict__[name] = type(value)()
    return rotated


def _called_gate(site: Site) -> nn.Module:
    return plain_gate(site) if computes_gate(site) else nn.Identity()


def _rotated(gate: nn.Module, site: Site, init: str) -> Rotated:
    """A rotated activation for one site, on the device and in the dtype of what it scales."""
    if type(gate) is nn.ReLU and not gate.inplace:
        rotated: Rotated = RotatedReLU(site.channels, site.channel_dim)
    else:
        try:
            rotated = Rotated(gate, site.channels, site.channel_dim)
        except GateError as error:
            raise RotationError(f"{site} cannot be rotated: {error}") from error
    if init == "ones":
        nn.init.ones_(rotated.slope)
    rotated.slope.data = rotated.slope.data.to(device=site.device, dtype=site.dtype)
    return rotated


def _leave_fast_path(owner: nn.Module) -> None:
    """A fused kernel of torch's would compute the whole encoder layer in eval mode, without slopes."""
    if isinstance(owner, nn.TransformerEncoderLayer):
        owner.activation_relu_or_gelu = 0
