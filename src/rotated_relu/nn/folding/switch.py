"""Switch a network between its plain and its fast form, in place."""

from __future__ import annotations

from torch import nn

from ...core.modules import Inputs, unwrap
from ...core.state import copy_of
from ..activation import Rotated
from .consumers import Choice, choose
from .modules import CONSUMERS, FOLDED, FUSED, PLAIN, Pass


def fast_training(net: nn.Module, example_inputs: Inputs) -> nn.Module:
    """Let slopes act on the weights of the layers that read them, so that training costs what plain ReLU costs.

    ``conv(a * relu(x), W)`` becomes ``conv(relu(x), W * a)`` where all consumers of an activation are convolutions or
    linear layers, and a ReLU works in place where nobody else needs its input. Function, parameters, state-dict keys
    and gradients stay. Undo with :func:`plain_training`; see docs/training-speed.md for what hooks see.

    Args:
        net: A rotated network; changed in place. One without slopes is returned as it is. Not yet wrapped for
            several processes.
        example_inputs: As in :func:`rotated_relu.rotate`, through the path that training takes.

    Returns:
        ``net``.

    Raises:
        ShapeError: If the network does not run on the inputs.
        CaptureError: If ``torch.export`` cannot capture it; the network is in its plain form then.

    Example::

        >>> net = rr.fast_training(rr.models.wrn_16_4(), torch.zeros(2, 3, 32, 32))
    """
    inner = unwrap(net)
    plain_training(inner)
    if any(isinstance(module, Rotated) for module in inner.modules()):
        _apply(inner, choose(inner, example_inputs))
    return net


def plain_training(net: nn.Module) -> nn.Module:
    """Undo :func:`fast_training` in place and return the network; one in plain form is returned as it is."""
    inner = unwrap(net)
    for module in inner.modules():
        _drop_hooks(module)
        if is_fast_module(module):
            module.__class__ = PLAIN[type(module)]
            for name in ("_pass", "_source", "_repeat"):
                module.__dict__.pop(name, None)
            if module.__dict__.pop("_made_in_place", False):
                module.gate.inplace = False  # type: ignore[union-attr]
    return net


def as_plain(net: nn.Module) -> nn.Module:
    """The network itself if it is in plain form, else a copy that is."""
    return plain_training(copy_of(net)) if is_fast(net) else net


def is_fast(net: nn.Module) -> bool:
    """Whether any part of a network is in the form that :func:`fast_training` gives it."""
    return any(is_fast_module(module) for module in net.modules())


def is_fast_module(module: nn.Module) -> bool:
    """Whether a module stands in for a plain one."""
    return type(module) in PLAIN


def _apply(net: nn.Module, choice: Choice) -> None:
    running = Pass()
    net.register_forward_pre_hook(running.enter)
    net.register_forward_hook(running.leave, always_call=True)
    for name, fold in choice.folds.items():
        source = net.get_submodule(fold.gate)
        # Straight into __dict__: as a registered child the gate would have a second name in the state dict.
        _become(net, name, CONSUMERS, _pass=running, _source=source, _repeat=fold.repeat)
    for name in choice.fused_consumers:
        _become(net, name, CONSUMERS, _pass=running, _source=None, _repeat=1)
    for name in {fold.gate for fold in choice.folds.values()}:
        _become(net, name, FOLDED, _pass=running)
    for name in choice.fused:
        _become(net, name, FUSED)
    for name in choice.in_place:
        gate = net.get_submodule(name)
        if not gate.gate.inplace:  # type: ignore[union-attr]
            gate.gate.inplace = True  # type: ignore[union-attr]
            gate.__dict__["_made_in_place"] = True


def _become(
    net: nn.Module, name: str, table: dict[type[nn.Module], type[nn.Module]], **attributes: object
) -> None:
    module = net.get_submodule(name)
    module.__class__ = table[type(module)]
    module.__dict__.update(attributes)


def _drop_hooks(module: nn.Module) -> None:
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for key, hook in list(hooks.items()):
            if isinstance(getattr(hook, "__self__", None), Pass):
                del hooks[key]
                module._forward_hooks_always_called.pop(key, None)
