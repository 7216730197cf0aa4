"""Give calls of functions inside a module's ``forward`` slopes of their own, without rewriting it.

The owner of such calls gets a subclass of its own class, with the same name. Its ``forward`` runs the original under a
mode that sees every torch function that is called, counts those of the functions in question, and multiplies the
result of the n-th call by the n-th set of slopes. Nothing is traced: arguments, loops and branches stay Python.
Methods that are run once more without ``forward`` count by themselves (:mod:`.checkpoints`).

Requires: modules below the owner that call the counted functions themselves are shielded (:func:`shield`), so that
the owner counts its own calls only. Ensures: ``isinstance``, attributes, methods, ``deepcopy``, ``state_dict``,
``torch.export`` and ``torch.compile(fullgraph=True)`` work as on the original class.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..core.errors import RotationError

_TABLES = "_rotated_calls"
_SPELLINGS = "_rotated_spellings"
_METHODS = "_rotated_methods"
_SAME_FUNCTION = {"imul": "mul", "rmul": "mul", "multiply": "mul", "ipow": "pow"}
# A call beyond those that were seen of any other function may be plain arithmetic.
ACTIVATIONS = frozenset(
    "relu relu6 hardtanh gelu silu hardswish mish leaky_relu elu selu celu prelu rrelu".split()
)


@dataclass(frozen=True)
class Step:
    """What happens at one call of a counted function.

    Attributes:
        child: Name of the owner's child that holds the slopes; None for a call that stays plain.
        instead: Whether the child computes the gate itself, from the first argument.
        write_back: Whether the result is written into the first argument, which the caller goes on with.
    """

    child: str | None = None
    instead: bool = False
    write_back: bool = False


Table = dict[str, list[Step]]  # by counted()


def counted(scope: str, function: str) -> str:
    """Key of a table: a function as the owner's ``forward`` calls it, or a method of its that counts by itself."""
    return f"{scope}.{function}" if scope else function


def function_name(func: Any) -> str:
    """One name for a torch function in all its forms: ``F.relu``, ``x.relu_()``; ``x * y``, ``x.mul_(y)``."""
    name = getattr(func, "__name__", "")
    if name == "__get__":  # an attribute that is a view: x.T, x.mT
        name = getattr(func.__self__, "__name__", "")
    name = name.strip("_")
    return _SAME_FUNCTION.get(name, name)


def _spellings(names: Iterable[str]) -> dict[str, str]:
    """What :func:`function_name` takes for one of the names, as a dict, which ``torch.compile`` can look into."""
    raw = [(f"{prefix}{other}{suffix}", name) for name in names for other in (name, *_other_names(name))
           for prefix, suffix in (("", ""), ("", "_"), ("_", ""), ("__", "__"))]  # fmt: skip
    return dict(raw)


def _other_names(name: str) -> list[str]:
    return [other for other, same in _SAME_FUNCTION.items() if same == name]


class _Calls(TorchFunctionMode):
    """Counts the calls of one run of an owner's forward, or of a method of its."""

    def __init__(self, owner: nn.Module, scope: str = "") -> None:
        super().__init__()
        self.owner = owner
        self.scope = scope
        self.table: Table = getattr(owner, _TABLES)[owner.training]
        self.spellings: dict[str, str] = getattr(owner, _SPELLINGS)
        self.counts: dict[str, int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # No mode further out may count what happens inside, nor this one what the slopes do.
        with torch._C.DisableTorchFunction():
            name = self.spellings.get(func.__name__)
            if name is None:
                return func(*args, **kwargs)
            steps = self.table.get(counted(self.scope, name))
            if steps is None:  # counted elsewhere in the owner only
                return func(*args, **kwargs)
            count = self.counts.get(name, 0)
            self.counts[name] = count + 1
            if count >= len(steps):
                return (
                    self._unknown_call(name, count)(*args, **kwargs)
                    if name in ACTIVATIONS
                    else func(*args, **kwargs)
                )
            step = steps[count]
            if step.child is None:
                return func(*args, **kwargs)
            child = getattr(self.owner, step.child)
            result = child(args[0]) if step.instead else child(func(*args, **kwargs))
            return args[0].copy_(result) if step.write_back else result

    def _unknown_call(self, name: str, count: int) -> Any:
        where = f"{type(self.owner).__name__}.{self.scope or 'forward'}"
        raise RotationError(
            f"{where} calls {name} for the {count + 1}th time, but called it {count} times "
            "when slopes were put in: call rotate with example inputs that take this path, or leave its calls plain "
            "with exclude"
        )


class _Dispatching:
    """Mixin: run the original forward under the counting mode."""

    def __init_subclass__(
        cls,
    ) -> None:  # a class of the user's may register its subclasses: this one is not meant
        pass

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The original forward."""
        with _Calls(self):  # type: ignore[arg-type]
            return super().forward(*args, **kwargs)  # type: ignore[misc]


class _DispatchingSequence(_Dispatching):
    """The same for a class whose forward may iterate over its children: those with slopes are not among them."""

    def __iter__(self) -> Any:
        return iter(_listed(self).values())

    def __len__(self) -> int:
        return len(_listed(self))

    def __getitem__(self, index: Any) -> Any:
        values = list(_listed(self).items())
        if isinstance(index, slice):
            return nn.Sequential(OrderedDict(values[index]))
        return values[index][1]


def _listed(module: Any) -> dict[str, nn.Module]:
    own = {
        step.child
        for table in getattr(module, _TABLES).values()
        for steps in table.values()
        for step in steps
    }
    return {name: child for name, child in module._modules.items() if name not in own}


def _counting(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """A method that counts its calls by itself."""

    @functools.wraps(original)
    def method(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with _Calls(self, name):
            return original(self, *args, **kwargs)

    return method


def dispatch(
    owner: nn.Module,
    tables: Mapping[bool, Table],
    children: Mapping[str, nn.Module],
    methods: Sequence[str] = (),
) -> None:
    """Give an owner's function calls slopes; ``tables`` for train (True) and eval mode (False)."""
    for name, child in children.items():
        owner.add_module(name, child)
    owner.__dict__[_TABLES] = dict(tables)
    owner.__dict__[_SPELLINGS] = _spellings(
        {key.rpartition(".")[2] for table in tables.values() for key in table}
    )
    owner.__class__ = _dispatching_class(type(owner), tuple(methods))


def shield(module: nn.Module) -> None:
    """Hide the function calls of a module from those who count further out."""
    dispatch(module, {True: {}, False: {}}, {})


def is_dispatching(module: nn.Module) -> bool:
    """Whether a module has gone through :func:`dispatch` or :func:`shield`."""
    return isinstance(module, _Dispatching)


def make_plain(owner: nn.Module, child: str) -> None:
    """Take the slopes of one call away again."""
    tables: Mapping[bool, Table] = getattr(owner, _TABLES)
    owner.__dict__[_TABLES] = {
        mode: {
            name: [Step() if step.child == child else step for step in steps] for name, steps in table.items()
        }
        for mode, table in tables.items()
    }
    del owner._modules[child]


def children_of(owner: nn.Module) -> Sequence[str]:
    """Names of the children that hold slopes of calls."""
    tables: Mapping[bool, Table] = getattr(owner, _TABLES, {})
    steps = [step for table in tables.values() for found in table.values() for step in found]
    return list(dict.fromkeys(step.child for step in steps if step.child is not None))


def _dispatching_class(cls: type[nn.Module], methods: tuple[str, ...]) -> type[nn.Module]:
    """The subclass of a module class; one for all its instances whose same methods count."""
    if issubclass(cls, _Dispatching):
        cls = cls.__bases__[1]
    mixin = _DispatchingSequence if issubclass(cls, nn.Sequential) else _Dispatching
    for known in cls.__subclasses__():
        if known.__bases__ == (mixin, cls) and vars(known)[_METHODS] == methods:
            return known
    names = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    counting = {name: _counting(name, getattr(cls, name)) for name in methods}
    kind: Any = type(cls)
    made: type[nn.Module] = kind(cls.__name__, (mixin, cls), {**names, **counting, _METHODS: methods})
    return made
