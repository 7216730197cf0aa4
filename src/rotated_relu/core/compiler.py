"""Whether ``torch.compile`` can compile here: it needs what pip does not bring, such as a C++ compiler."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from .errors import CompilerError
from .modules import first_line


@cache
def need_compiler(device: str) -> None:
    """See that ``torch.compile`` works, by compiling one addition; some seconds, once in a process.

    Args:
        device: ``cpu``, ``cuda`` or ``mps``: where what is compiled will run.

    Raises:
        CompilerError: If it does not; says what is missing.
    """
    try:
        torch.compile(_plus_one, dynamic=False)(torch.zeros(1, device=device))
    except Exception as error:  # whatever the compiler, or what it starts, raises
        raise CompilerError(
            f"torch.compile does not work here ({first_line(error)}): on the CPU it needs a C++ compiler (g++ or "
            "clang; CXX names one), on a GPU Triton. Install that, or do without compiling"
        ) from error


def _plus_one(x: Tensor) -> Tensor:
    return x + 1
