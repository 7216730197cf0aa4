"""Networks as callables: example inputs, eval mode, a trial run with a readable error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import ShapeError

Inputs = Tensor | tuple[Any, ...]


def as_inputs(example_inputs: Inputs) -> tuple[Any, ...]:
    """Return example inputs as the tuple of positional arguments of ``forward``."""
    if isinstance(example_inputs, Tensor):
        return (example_inputs,)
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs)
    raise ShapeError(
        f"example_inputs must be a tensor or a tuple of tensors, got {type(example_inputs).__name__}"
    )


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode and restore each submodule's own training flag afterwards."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


def check_runs(model: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Run the model once, turning a failure into a :class:`ShapeError` that names shapes, devices and dtypes."""
    state = next(iter(model.parameters()), None)
    for position, value in enumerate(inputs):
        if isinstance(value, Tensor) and state is not None and value.device != state.device:
            raise ShapeError(
                f"example input {position} is on {value.device}, the model on {state.device}; move one of them"
            )
    try:
        with torch.no_grad():
            model(*inputs)
    except Exception as error:
        described = ", ".join(
            f"{tuple(v.shape)} {v.dtype}" if isinstance(v, Tensor) else type(v).__name__ for v in inputs
        )
        raise ShapeError(
            f"the model does not run on the example inputs ({described}): {first_line(error)}; "
            "pass inputs like those of your data"
        ) from error


def first_line(error: BaseException) -> str:
    """First line of an error's message, or its class where it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
