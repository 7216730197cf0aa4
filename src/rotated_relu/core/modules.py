"""Networks as callables: the arguments of a call, eval mode, wrappers, a trial run with a readable error."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.optim.swa_utils import AveragedModel

from .errors import ArgumentError, ShapeError
from .nested import mapped, tensors_in


class Call:
    """The arguments of one call of a network, written as it is: ``Call(x, mask=mask)`` for ``net(x, mask=mask)``.

    The tensors may be anywhere in them, inside lists, tuples, dicts and dataclasses; all else (None, flags, numbers)
    is passed on as it is.

    Attributes:
        args: Positional arguments.
        kwargs: Keyword arguments.
    """

    def __init__(self, /, *args: Any, **kwargs: Any) -> None:
        self.args = args
        self.kwargs = kwargs

    def __repr__(self) -> str:
        return f"Call({self.described()})"

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors, in order."""
        return tensors_in((self.args, self.kwargs))

    @property
    def batch_size(self) -> int:
        """Length of the first tensor that has dimensions; 1 if there is none."""
        return next((len(value) for value in self.tensors if value.dim()), 1)

    @property
    def device(self) -> torch.device:
        """Where the first tensor is; the CPU if there is none."""
        return next((value.device for value in self.tensors), torch.device("cpu"))

    def run(self, net: Callable[..., Any]) -> Any:
        """Call the network on copies of the tensors: a ``forward`` may write into its inputs."""
        own = self.copied()
        return net(*own.args, **own.kwargs)

    def map(self, change: Callable[[Tensor], Tensor]) -> Call:
        """The same call with every tensor replaced, in order."""
        args, kwargs = mapped(change, (self.args, self.kwargs))
        return Call(*args, **kwargs)

    def copied(self) -> Call:
        """The same call on copies of the tensors, without gradients."""
        return self.map(lambda value: value.detach().clone())

    def with_tensors(self, values: list[Tensor]) -> Call:
        """The same call with these tensors in the places of :attr:`tensors`."""
        following = iter(values)
        return self.map(lambda _: next(following))

    def of_size(self, size: int) -> Call:
        """Examples repeated to another batch size; tensors without the batch as first dimension stay."""
        return self.map(lambda value: self.repeated(value, size))

    def repeated(self, value: Tensor, size: int) -> Tensor:
        """One tensor of the call, its examples repeated to another batch size."""
        if not self.has_batch(value):
            return value
        return value[torch.arange(size, device=value.device) % self.batch_size]

    def has_batch(self, value: Any) -> bool:
        """Whether a value of the call is a tensor with the batch as its first dimension."""
        return isinstance(value, Tensor) and value.dim() > 0 and len(value) == self.batch_size

    def described(self) -> str:
        """Shapes and dtypes, for messages: ``(2, 3, 8, 8) torch.float32, mask=None``."""
        named = [_described(value) for value in self.args]
        return ", ".join([*named, *(f"{name}={_described(value)}" for name, value in self.kwargs.items())])


WRAPPER_PREFIXES = ("module.", "_orig_mod.")  # what they put before the names of parameters
_WRAPPERS = (DataParallel, DistributedDataParallel, AveragedModel)

# What may be given as example inputs, see as_inputs().
Inputs = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any] | Call


def as_inputs(example_inputs: Inputs) -> Call:
    """Read example inputs as the arguments of one call of a network.

    =============================== =====================================
    ``x``                           ``net(x)``
    ``(x, None, True)``             ``net(x, None, True)``
    ``{"x": x, "mask": m}``         ``net(x=x, mask=m)``
    ``((x,), {"mask": m})``         ``net(x, mask=m)``
    ``Call(x, mask=m)``             ``net(x, mask=m)``
    ``({"x": x},)``                 ``net({"x": x})``
    =============================== =====================================

    A pair of a tuple and a dict with names as keys is always read as positional and keyword arguments; a network that
    takes these two as arguments needs :class:`Call`.

    Raises:
        ShapeError: If it is something else, holds no tensor, one without values (of the meta device), or only tensors
            without entries (an empty batch).
    """
    call = _read(example_inputs)
    if not call.tensors:
        raise ShapeError(f"example_inputs hold no tensor: {call.described() or 'they are empty'}")
    if any(value.is_meta for value in call.tensors):
        raise ShapeError(f"example_inputs are on the meta device, which holds no values ({call.described()})")
    if not any(value.numel() for value in call.tensors):
        raise ShapeError(
            f"the batch of the example inputs is empty ({call.described()}): on no examples, all networks agree"
        )
    return call


def _read(example_inputs: Any) -> Call:
    if isinstance(example_inputs, Call):
        return example_inputs
    if isinstance(example_inputs, Tensor):
        return Call(example_inputs)
    if isinstance(example_inputs, tuple) and len(example_inputs) == 2:
        args, kwargs = example_inputs
        if isinstance(args, tuple) and _is_keywords(kwargs):
            return Call(*args, **kwargs)
    if isinstance(example_inputs, (tuple, list)):
        return Call(*example_inputs)
    if _is_keywords(example_inputs):
        return Call(**example_inputs)
    raise ShapeError(
        "example_inputs must be a tensor, a tuple of positional arguments, a dict of keyword arguments or a "
        f"rotated_relu.Call, got {type(example_inputs).__name__}"
    )


def _is_keywords(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {value.dtype}"
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    inside = ", ".join(_described(tensor) for tensor in tensors_in(value))
    return f"{type(value).__name__}[{inside}]" if inside else type(value).__name__


class Flat(nn.Module):
    """A network as a function of nothing but the tensors of a call, which returns nothing but a tuple of tensors.

    ``torch.export`` takes only containers that it knows; the network itself is the submodule ``inner``.
    """

    prefix = "inner."

    def __init__(self, inner: nn.Module, call: Call) -> None:
        super().__init__()
        self.inner = inner
        self.training = inner.training
        self._call = call

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Call the network with these tensors in their places."""
        call = self._call.with_tensors(list(tensors))
        return tuple(tensors_in(self.inner(*call.args, **call.kwargs)))


def check_network(net: Any) -> None:
    """Raise unless it is a network.

    Raises:
        ArgumentError: If it is something else.
    """
    if not isinstance(net, nn.Module):
        raise ArgumentError(f"a network must be a torch.nn.Module, got {type(net).__name__}")


def unwrap(net: nn.Module) -> nn.Module:
    """The network inside the wrappers of ``torch.compile``, data parallelism and weight averaging.

    Raises:
        ArgumentError: If it is no network.
    """
    check_network(net)
    while True:
        name = "module" if isinstance(net, _WRAPPERS) else "_orig_mod"
        inner = net._modules.get(name)
        if inner is None:
            return net
        net = inner


def check_values(net: nn.Module) -> None:
    """Raise unless the parameters of a network have values.

    Raises:
        ShapeError: If some are on the meta device.
    """
    name = next((name for name, value in net.named_parameters() if value.is_meta), None)
    if name is not None:
        raise ShapeError(f"{name} is on the meta device, which holds no values; build the network on the CPU")


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode and restore each submodule's own training flag afterwards."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        # By its own method first: one that merges weights for eval mode takes them apart again there.
        model.train(flags[0][1])
        for module, flag in flags:
            module.training = flag


def check_runs(model: nn.Module, call: Call) -> None:
    """Run the model once, turning a failure into a :class:`ShapeError` that names shapes, devices and dtypes."""
    state = next(iter(model.parameters()), None)
    for position, value in enumerate(call.tensors):
        if state is not None and value.device != state.device:
            raise ShapeError(
                f"example input {position} is on {value.device}, the model on {state.device}; move one of them"
            )
    try:
        with torch.no_grad():
            call.run(model)
    except Exception as error:
        raise ShapeError(
            f"the model does not run on the example inputs ({call.described()}): {first_line(error)}; "
            "pass inputs like those of your data"
        ) from error


def has_lazy(model: nn.Module) -> bool:
    """Whether some layer has no width yet."""
    return any(is_lazy(value) for value in (*model.parameters(), *model.buffers()))


def initialise_lazy(model: nn.Module, call: Call) -> None:
    """Give layers without a width yet (``nn.LazyLinear``) theirs, by running the model once in eval mode.

    Raises:
        ShapeError: If the model does not run.
    """
    if has_lazy(model):
        with eval_mode(model):
            check_runs(model, call)


def first_line(error: BaseException) -> str:
    """First line of an error's message, or its class where it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
