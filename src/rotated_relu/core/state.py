"""Leave a network as it was, whatever its ``forward`` does: buffers, caches, counters, lists, weights.

Ensures: after :func:`unchanged` every attribute of every module is the same object as before with the same content.
Lists, dicts and sets keep their identity too (modules may share them). Classes and the files that define them are
looked at for caches of their own: ``torch.export`` runs ``forward`` on tensors without values, and one of those in a
``functools.lru_cache`` breaks the next call. What is out of reach are files, and variables of an enclosing function.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from .errors import CopyError
from .modules import Call, check_runs, eval_mode, first_line
from .nested import tensors_in

_CONTAINERS = (dict, list, set, deque)
# Objects of these packages are no state of a network, and may lead anywhere (a trainer, its data).
_FOREIGN = (
    "torch",
    "lightning",
    "lightning_fabric",
    "pytorch_lightning",
    "accelerate",
    "numpy",
    "builtins",
    "types",
    "functools",
)


@contextlib.contextmanager
def ordinary_tensors() -> Iterator[None]:
    """Tensors made within are ordinary ones, also where the caller is in ``torch.inference_mode``."""
    with torch.inference_mode(False):
        yield


@contextlib.contextmanager
def trial(net: nn.Module) -> Iterator[None]:
    """Eval mode without gradients for a trial run; afterwards nothing of the network has changed."""
    with unchanged(net), eval_mode(net), torch.no_grad():
        yield


def check_fit(net: nn.Module, call: Call) -> None:
    """Raise a :class:`ShapeError` unless the network runs on the inputs in eval mode; nothing of it changes."""
    with trial(net):
        check_runs(net, call)


@contextlib.contextmanager
def unchanged(net: nn.Module) -> Iterator[None]:
    """Put back whatever a network's code changes within the block, and the state of torch's random numbers."""
    saved = Saved(net)
    with random_kept(net.parameters()):
        try:
            yield
        finally:
            saved.put_back()


@contextlib.contextmanager
def random_kept(values: Iterable[Tensor]) -> Iterator[None]:
    """Afterwards torch's random numbers go on as if the block had drawn none, on the devices of some tensors too."""
    cuda = {value.device.index for value in values if value.is_cuda}
    with torch.random.fork_rng(sorted(index for index in cuda if index is not None)):
        yield


@contextlib.contextmanager
def buffers_kept(net: nn.Module) -> Iterator[None]:
    """Within the block forward passes may change running statistics; afterwards they are as before.

    The part of :func:`unchanged` that a training can afford at every choice.
    """
    saved = [(buffer, buffer.clone()) for buffer in net.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in saved:
                buffer.copy_(value)


def copy_of(net: nn.Module) -> nn.Module:
    """``copy.deepcopy`` that takes computed tensors along, as plain ones without history.

    After a training step modules may hold such tensors (kept features, a weight that a hook computes), which torch
    refuses to copy. Functions that went through ``torch.jit.script`` cannot be copied, and are shared.

    Raises:
        CopyError: If an attribute cannot be copied; names it.
    """
    attributes = [value for module in net.modules() for value in vars(module).values()]
    shared = {id(value): value for value in attributes if isinstance(value, torch.jit.ScriptFunction)}
    try:
        with ordinary_tensors(), _WithComputed():
            return copy.deepcopy(net, shared)
    except Exception as error:
        raise CopyError(
            f"{type(net).__name__} cannot be copied{_uncopyable(net)}: {first_line(error)}; "
            "make that attribute something that copy.deepcopy accepts, or leave it out of the network"
        ) from error


def ordinary(net: nn.Module) -> nn.Module:
    """The network itself, or a copy where its parameters were made in ``torch.inference_mode`` and cannot change."""
    return (
        copy_of(net)
        if any(not is_lazy(value) and value.is_inference() for value in net.parameters())
        else net
    )


def drop_caches(net: nn.Module) -> None:
    """Let modules drop what they keep of their weights for eval mode, in the way in which training tells them to."""
    with eval_mode(net):
        net.train()


def make_ordinary(net: nn.Module) -> None:
    """Replace parameters and buffers that were made in ``torch.inference_mode`` in place: they could not be trained."""
    replaced: dict[int, Tensor] = {}
    for module in net.modules():
        for own in (module._parameters, module._buffers):
            for name, value in own.items():
                # A layer that has no width yet has nothing that could have been made anywhere.
                if value is not None and not is_lazy(value) and value.is_inference():
                    replacement = replaced.setdefault(id(value), _ordinary_tensor(value))
                    own[name] = replacement  # type: ignore[assignment]


def _ordinary_tensor(value: Tensor) -> Tensor:
    with ordinary_tensors(), torch.no_grad():
        copy = value.detach().clone()
    if isinstance(value, nn.Parameter):
        return nn.Parameter(copy, requires_grad=value.requires_grad)
    return copy


class _WithComputed(TorchFunctionMode):
    """Copies tensors that are results of a computation."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            value, memo = args
            if id(value) not in memo:
                memo[id(value)] = value.detach().clone()
            return memo[id(value)]
        return func(*args, **(kwargs or {}))


def _uncopyable(net: nn.Module) -> str:
    """The first attribute that cannot be copied by itself."""
    for name, module in net.named_modules():
        for attribute, value in vars(module).items():
            if attribute == "_modules":
                continue
            try:
                with _WithComputed():
                    copy.deepcopy(value, {id(part): part for part in net.modules()})
            except Exception:
                return f" ({name or 'the root module'}.{attribute}, {type(value).__name__})"
    return ""


class Saved:
    """The state of a network at one moment.

    Args:
        net: The network.
        weights: Whether to copy the values of its parameters too.
    """

    def __init__(self, net: nn.Module, weights: bool = True) -> None:
        self._weights = weights
        self._seen: set[int] = set()
        self._containers: list[tuple[Any, Any]] = []
        self._tensors: list[tuple[Tensor, Tensor, Tensor, bool]] = []
        self._shared: list[tuple[Any, Any]] = []
        self._caches: list[tuple[Any, int]] = []
        self._classes: list[tuple[type, dict[str, Any]]] = []
        modules = list(net.modules())
        for module in modules:
            self._keep(vars(module))
        for kind in {cls for module in modules for cls in type(module).__mro__ if not _foreign(cls)}:
            self._keep_class(kind)

    def put_back(self) -> None:
        """Make everything what it was."""
        for container, content in self._containers:
            _refill(container, content)
        for container, content in self._shared:
            # Not all that is new in a file is of this network: a registry may have grown.
            if _new_tensors(container, content):
                _refill(container, content)
        with ordinary_tensors():
            for tensor, data, values, wanted in self._tensors:
                _restore(tensor, data, values, wanted)
        for kind, attributes in self._classes:
            for name, value in attributes.items():
                if vars(kind).get(name) is not value:
                    setattr(kind, name, value)
        for cache, size in self._caches:
            if cache.cache_info().currsize != size:
                cache.cache_clear()

    def _keep(self, value: Any) -> None:
        if id(value) in self._seen:
            return
        if isinstance(value, Tensor):
            self._seen.add(id(value))
            self._keep_tensor(value)
        elif isinstance(value, _CONTAINERS):
            self._seen.add(id(value))
            self._containers.append((value, _content(value)))
            for item in list(value.values()) if isinstance(value, dict) else list(value):
                self._keep(item)
        elif isinstance(value, tuple):
            for item in value:
                self._keep(item)
        elif isinstance(_attributes(value), dict):
            self._seen.add(id(value))
            self._keep(_attributes(value))

    def _keep_tensor(self, value: Tensor) -> None:
        if isinstance(value, nn.Parameter) and not self._weights:
            return
        if is_lazy(value) or value.is_meta or value.layout != torch.strided:
            return
        with ordinary_tensors(), torch.no_grad():
            data = value.detach()
            self._tensors.append((value, data, data.clone(), value.requires_grad))

    def _keep_class(self, kind: type) -> None:
        """Caches of a class and of the file that defines it: those of functions, and containers as they are."""
        self._classes.append(
            (kind, {n: v for n, v in vars(kind).items() if isinstance(v, (int, float, Tensor))})
        )
        around = vars(sys.modules[kind.__module__]) if kind.__module__ in sys.modules else {}
        for name, value in [*vars(kind).items(), *around.items()]:
            if name.startswith("__") or id(value) in self._seen:
                continue
            if isinstance(value, functools._lru_cache_wrapper):
                self._caches.append((value, value.cache_info().currsize))
            elif isinstance(value, _CONTAINERS):
                self._shared.append((value, _content(value)))
            else:
                continue
            self._seen.add(id(value))


def _attributes(value: Any) -> dict[str, Any] | None:
    """Attributes of a plain object or a module; None for classes, functions and objects of other packages."""
    if isinstance(value, nn.Module):
        return vars(value)
    if isinstance(value, type) or callable(value) or _foreign(type(value)):
        return None
    return getattr(value, "__dict__", None)


def _foreign(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in _FOREIGN


def _content(container: Any) -> Any:
    """A plain shallow copy."""
    if isinstance(container, dict):
        return dict(container)
    return set(container) if isinstance(container, set) else list(container)


def _new_tensors(container: Any, content: Any) -> bool:
    if _same(container, content):
        return False
    old = {id(item) for item in (content.values() if isinstance(content, dict) else content)}
    items = list(container.values() if isinstance(container, dict) else container)
    return any(tensors_in(item) for item in items if id(item) not in old)


def _refill(container: Any, content: Any) -> None:
    if _same(container, content):
        return
    container.clear()
    if isinstance(container, (list, deque)):
        container.extend(content)
    else:
        container.update(content)


def _same(container: Any, content: Any) -> bool:
    if len(container) != len(content):
        return False
    if isinstance(container, dict):
        return list(container) == list(content) and all(container[key] is content[key] for key in content)
    if isinstance(container, set):
        return bool(container == content)
    return all(one is other for one, other in zip(container, content, strict=True))


def _restore(tensor: Tensor, data: Tensor, values: Tensor, wanted: bool) -> None:
    if tensor.data_ptr() != data.data_ptr() or tensor.shape != data.shape or tensor.dtype != data.dtype:
        tensor.data = data  # it was given other memory
    if not torch.equal(data, values):
        with torch.inference_mode(data.is_inference()), torch.no_grad():
            data.copy_(values)
    if tensor.requires_grad != wanted and tensor.is_leaf:
        tensor.requires_grad_(wanted)
