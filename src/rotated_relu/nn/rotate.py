"""Put slopes into a model, find them, and set the small ones to zero.

``rotate`` gives each call site of an activation its own slopes. Where every gate module is called once, it swaps the
modules in place and returns the same object. A gate module that is called several times (torchvision's residual
blocks) or a functional call (``F.relu``) cannot be swapped: there the *owning* module alone is rewritten with
``torch.fx``, with all its children as leaves, so that only its own few lines of ``forward`` have to be traceable.
State-dict keys of the original stay.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ..core.errors import (
    FastFormUndoneWarning,
    NothingRotatedWarning,
    RotationError,
    UnknownNameError,
)
from ..core.modules import Call, Inputs, as_inputs
from ..core.state import check_fit
from ..graph.capture import capture
from .activation import Rotated, RotatedReLU
from .call_sites import Site, find_sites
from .folding import is_fast, plain_training

_FUNCTIONS: dict[Any, str] = {
    F.relu: "relu", torch.relu: "relu", F.relu_: "relu", torch.relu_: "relu", F.relu6: "relu6",
    F.hardtanh: "hardtanh", F.gelu: "gelu", F.silu: "silu", F.hardswish: "hardswish", F.mish: "mish",
    F.leaky_relu: "leaky_relu", F.elu: "elu", F.selu: "selu", F.celu: "celu",
}  # fmt: skip
_METHODS = {"relu", "relu_"}


def rotate(net: nn.Module, example_inputs: Inputs, *, exclude: Collection[str] = ()) -> nn.Module:
    """Give every activation with gate(0) = 0 one learnable slope per channel, per call site.

    Args:
        net: Any model. It is changed in place; ReLU, ReLU6, GELU, SiLU, Hardswish, Mish, LeakyReLU, ELU (as modules or
            functional calls) become :class:`Rotated`. Activations that are rotated already are left alone. A network in
            the form of :func:`fast_training` is put back into its plain form first, with a warning.
        example_inputs: Tensor or tuple of tensors for one forward pass; a batch of 1 or 2 is enough.
        exclude: Qualified names of modules whose activations, at any depth, stay as they are.

    Returns:
        ``net`` itself where module swaps are enough below it; a ``torch.fx.GraphModule`` in its place only if the
        root's own ``forward`` calls activations that cannot be swapped.

    Raises:
        ShapeError: If the model does not run on the inputs.
        CaptureError: If ``torch.export`` cannot capture the model.
        RotationError: If a call site cannot be given slopes; names the sites. ``net`` is unchanged then.
        UnknownNameError: If ``exclude`` names a module that the network does not have.

    Source: Nayak and Kalyani, TMLR 2024, Section 3.
    """
    inputs = as_inputs(example_inputs)
    if is_fast(net):
        warnings.warn(
            "the network was in the form that fast_training gives it, which fits its present layers only; it is in "
            "plain form again: call fast_training again after rotate",
            FastFormUndoneWarning,
            stacklevel=2,
        )
        plain_training(net)
    _check_names(net, exclude)
    sites = [site for site in find_sites(capture(net, inputs), net) if not _excluded(site, exclude)]
    if not sites:
        warnings.warn(
            "no activation with gate(0) = 0 was found: nothing rotated", NothingRotatedWarning, stacklevel=2
        )
        return net
    replacements = _plan(net, sites, inputs)
    for name, module in replacements.items():
        if name:
            _set(net, name, module)
    result = replacements.get("", net)
    check_fit(result, inputs)
    return result


def _check_names(net: nn.Module, names: Collection[str]) -> None:
    known = [name for name, _ in net.named_modules(remove_duplicate=False) if name]
    for name in names:
        if name not in known:
            raise UnknownNameError("module", name, known)


def _excluded(site: Site, names: Collection[str]) -> bool:
    return any(f"{place}.".startswith(f"{name}.") for name in names for place in (site.owner, site.module))


def _plan(net: nn.Module, sites: Sequence[Site], inputs: Call) -> dict[str, nn.Module]:
    """Decide everything before anything changes: qualified name -> replacement module."""
    by_owner: dict[str, list[Site]] = defaultdict(list)
    swaps: dict[str, nn.Module] = {}
    for site in sites:
        if (
            site.module
            and sum(other.module == site.module for other in sites) == 1
            and _one_name(net, site.module)
        ):
            swaps[site.module] = _rotated(site, net.get_submodule(site.module))
        else:
            by_owner[site.owner].append(site)
    constants = _constant_arguments(net, list(by_owner), inputs)
    rewrites: dict[str, nn.Module] = {
        owner: _rewrite(net.get_submodule(owner), owner, found, constants[owner])
        for owner, found in by_owner.items()
    }
    return {**_inside(swaps, rewrites), **rewrites}


def _inside(swaps: dict[str, nn.Module], rewrites: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Apply swaps that lie below a rewritten owner inside the rewritten copy; return the others."""
    rest = {}
    for name, module in swaps.items():
        owner = next(
            (o for o in sorted(rewrites, key=len, reverse=True) if o and name.startswith(o + ".")), None
        )
        if owner is None and "" in rewrites:
            owner = ""
        if owner is None:
            rest[name] = module
        else:
            _set(rewrites[owner], name[len(owner) + 1 :] if owner else name, module)
    return rest


def _one_name(net: nn.Module, name: str) -> bool:
    module = net.get_submodule(name)
    return sum(other is module for _, other in net.named_modules(remove_duplicate=False)) == 1


def _rotated(site: Site, gate: nn.Module) -> Rotated:
    """A rotated activation for one call site, on the device and in the mode of the gate's surroundings."""
    if type(gate) is nn.ReLU and not gate.inplace:
        rotated: Rotated = RotatedReLU(site.channels, site.channel_dim)
    else:
        rotated = Rotated(copy.deepcopy(gate), site.channels, site.channel_dim)
    value = site.node.meta["val"]
    return rotated.to(device=value.device, dtype=value.dtype).train(gate.training)


def _set(net: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    owner = net.get_submodule(parent)
    if isinstance(owner, (nn.Sequential, nn.ModuleList)):
        owner[int(leaf) if leaf.isdigit() and leaf not in owner._modules else _index(owner, leaf)] = module
    else:
        setattr(owner, leaf, module)


def _index(owner: nn.Module, leaf: str) -> int:
    return list(owner._modules).index(leaf)


# --- rewriting one owner's forward ---------------------------------------------------------------------------------


class _LeafTracer(fx.Tracer):
    """Trace one module's own forward; every child is called, never entered."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _constant_arguments(net: nn.Module, names: Sequence[str], inputs: Call) -> dict[str, dict[str, Any]]:
    """For each named module the arguments of its ``forward`` that are not simply tensors.

    None, flags and numbers keep their value; of a list of tensors the length stays.
    """
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    if not names:
        return found

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            bound = inspect.signature(module.forward).bind(*args, **kwargs)
            bound.apply_defaults()
            for key, value in bound.arguments.items():
                if isinstance(value, (bool, int, float, str, type(None))):
                    found[name][key] = value
                elif isinstance(value, list) and all(isinstance(item, Tensor) for item in value):
                    found[name][key] = [fx._symbolic_trace.PH] * len(value)

        return hook

    handles = [
        net.get_submodule(name).register_forward_pre_hook(watch(name), with_kwargs=True) for name in names
    ]
    try:
        check_fit(net, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _rewrite(owner: nn.Module, name: str, sites: Sequence[Site], constants: dict[str, Any]) -> fx.GraphModule:
    """Trace ``owner`` and give each gate call in it a :class:`Rotated` of its own, in execution order."""
    listed = "; ".join(map(str, sites))
    graph = _trace(owner, name, listed, constants)
    calls = [node for node in graph.nodes if _gate_call(node, owner, name, sites)]
    widths = _sites_of_first_call(sites, len(calls))
    if widths is None:
        raise RotationError(
            f"cannot match the {len(calls)} activation calls in the forward of {name or 'the root module'} with the "
            f"{len(sites)} that were executed: {listed}; give each call its own activation module"
        )
    children = _switchable_dropout(graph)
    for node, site in zip(calls, widths, strict=True):
        base = str(node.target).replace(".", "_") if node.op == "call_module" else _name_of(node)
        child = _free_name(owner, children, base)
        gate = owner.get_submodule(str(node.target)) if node.op == "call_module" else site.gate
        children[child] = _rotated(site, gate).train(owner.training)
        _replace(graph, node, child)
    return _graph_module(owner, graph, children)


def _trace(owner: nn.Module, name: str, listed: str, constants: dict[str, Any]) -> fx.Graph:
    """Trace a module's own forward; arguments that are no tensors keep the value that they had in the run."""
    where = name or "the root module"
    advice = f"give each call its own activation module, or leave them plain with exclude=[{name!r}]"
    flags = [(module, module.training) for module in owner.modules()]
    try:
        owner.train()
        train_graph = _LeafTracer().trace(owner, dict(constants))
        owner.eval()
        eval_graph = _LeafTracer().trace(owner, dict(constants))
    except Exception as error:
        raise RotationError(
            f"these activations need a rewrite of {where} ({type(owner).__name__}), whose forward cannot be traced "
            f"({str(error).splitlines()[0]}): {listed}; {advice}"
        ) from error
    finally:
        for module, flag in flags:
            module.training = flag
    if [n.target for n in train_graph.nodes] != [n.target for n in eval_graph.nodes]:
        raise RotationError(f"the forward of {where} differs between train and eval mode: {listed}; {advice}")
    placeholders = [node for node in train_graph.nodes if node.op == "placeholder"]
    for node, parameter in zip(placeholders, inspect.signature(owner.forward).parameters, strict=False):
        if str(node.target).lstrip("*").startswith(f"{parameter}_"):
            node.target = parameter  # the tracer renames arguments that it holds constant
    return train_graph


def _switchable_dropout(graph: fx.Graph) -> dict[str, nn.Module]:
    """Tracing freezes ``F.dropout(x, training=self.training)``; make such calls modules again."""
    children: dict[str, nn.Module] = {}
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in (F.dropout, F.dropout2d):
            p = node.args[1] if len(node.args) > 1 else node.kwargs.get("p", 0.5)
            child = f"_traced_dropout_{len(children)}"
            children[child] = nn.Dropout(p) if node.target is F.dropout else nn.Dropout2d(p)
            _replace(graph, node, child)
    return children


def _replace(graph: fx.Graph, node: fx.Node, child: str) -> None:
    with graph.inserting_before(node):
        replacement = graph.call_module(child, (node.args[0],))
    node.replace_all_uses_with(replacement)
    graph.erase_node(node)


def _gate_call(node: fx.Node, owner: nn.Module, name: str, sites: Sequence[Site]) -> bool:
    if node.op == "call_module":
        module = owner.get_submodule(str(node.target))
        return any(site.module and _same_module(owner, name, site.module, module) for site in sites)
    if not any(not site.module for site in sites):
        return False
    return (node.op == "call_function" and node.target in _FUNCTIONS) or (
        node.op == "call_method" and node.target in _METHODS
    )


def _same_module(owner: nn.Module, name: str, site_module: str, module: nn.Module) -> bool:
    """Whether a site's gate is this child; a shared activation is registered under several names."""
    prefix = f"{name}." if name else ""
    if not site_module.startswith(prefix):
        return False
    try:
        return owner.get_submodule(site_module[len(prefix) :]) is module
    except AttributeError:
        return False


def _sites_of_first_call(sites: Sequence[Site], calls: int) -> Sequence[Site] | None:
    """An owner that is itself called k times has k times the sites: its weights are shared, so are its slopes."""
    if calls == 0 or len(sites) % calls:
        return None
    rounds = [sites[start : start + calls] for start in range(0, len(sites), calls)]
    same = all([s.channels for s in r] == [s.channels for s in rounds[0]] for r in rounds)
    return rounds[0] if same else None


def _name_of(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else _FUNCTIONS[node.target]


def _free_name(owner: nn.Module, taken: dict[str, nn.Module], base: str) -> str:
    number = 1
    while hasattr(owner, f"{base}_{number}") or f"{base}_{number}" in taken:
        number += 1
    return f"{base}_{number}"


def _graph_module(owner: nn.Module, graph: fx.Graph, children: dict[str, nn.Module]) -> fx.GraphModule:
    """A GraphModule with all of the owner's children, parameters, buffers and plain attributes."""
    root = copy.copy(owner)
    root._modules = {**owner._modules, **children}
    result = fx.GraphModule(root, graph, type(owner).__name__)
    for name, child in owner.named_children():
        if not hasattr(result, name) and not _is_replaced_gate(name, child, graph):
            result.add_module(name, child)
    order = [*owner._modules, *children]
    result._modules = {key: result._modules[key] for key in order if key in result._modules}
    for name, parameter in owner._parameters.items():
        result.register_parameter(name, parameter)
    for name, buffer in owner._buffers.items():
        result.register_buffer(name, buffer, name not in owner._non_persistent_buffers_set)
    for key, value in vars(owner).items():
        if not key.startswith("_") and key not in vars(result):
            setattr(result, key, value)
    result.train(owner.training)
    for module, original in zip(result.children(), result.children(), strict=True):
        module.training = original.training
    return result


def _is_replaced_gate(name: str, child: nn.Module, graph: fx.Graph) -> bool:
    """The plain activation that no call uses any more; it holds no state."""
    return not list(child.parameters()) and not list(child.buffers()) and not list(child.children())
