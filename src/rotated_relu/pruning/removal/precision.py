"""Run a network in float64, whatever precision it has or casts to inside.

A ``forward`` may cast (CLIP's layer norm, images of bytes, autocast) or make tensors of its own. Within
:func:`in_float64` each such cast gives float64 and each such tensor is taken as float64, so that what is compared is
what the network computes and not how it rounds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

WIDER = {
    torch.float32: torch.float64, torch.float16: torch.float64, torch.bfloat16: torch.float64,
    torch.complex64: torch.complex128, torch.complex32: torch.complex128,
}  # fmt: skip

# Largest relative difference between two networks that compute the same in another order of summation.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def widened(value: Tensor) -> Tensor:
    """A tensor in double precision; integers and flags stay."""
    return value.to(WIDER[value.dtype]) if value.dtype in WIDER else value


@contextlib.contextmanager
def in_float64(net: nn.Module) -> Iterator[None]:
    """Convert a network in place and let its code compute in float64; the caller puts the network back."""
    before = torch.get_default_dtype()
    net._apply(widened)  # type: ignore[no-untyped-call]
    torch.set_default_dtype(torch.float64)
    try:
        with _Widening():  # type: ignore[no-untyped-call]
            yield
    finally:
        torch.set_default_dtype(before)


class _Widening(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Takes every tensor that an operation gets as float64, and every precision that it is asked for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.is_view:  # of a tensor that may be written to; or of its bits
            return func(*args, **kwargs)
        arguments = func._schema.arguments
        written = {
            each.name for each in arguments if each.alias_info is not None and each.alias_info.is_write
        }
        named = zip([each.name for each in arguments], args, strict=False)
        args = [value if name in written else tree_map(_wider, value) for name, value in named]
        kwargs = {
            name: value if name in written else tree_map(_wider, value) for name, value in kwargs.items()
        }
        return func(*args, **kwargs)


def _wider(value: Any) -> Any:
    if isinstance(value, Tensor):
        return widened(value)
    return WIDER.get(value, value) if isinstance(value, torch.dtype) else value


class Lowest(TorchDispatchMode):
    """Notes the lowest precision in which anything is computed.

    Attributes:
        dtype: The one of those in :data:`TOLERANCES` with the largest tolerance.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype = torch.float64

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and TOLERANCES.get(leaf.dtype, 0) > TOLERANCES[self.dtype]:
                self.dtype = leaf.dtype
        return result
