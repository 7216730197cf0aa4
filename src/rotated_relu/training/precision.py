"""The arithmetic of a training that asks for none in particular: what its device computes fastest in.

Where bfloat16 is emulated, as on processors without AVX-512, it takes ten times as long as float32.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ..core.devices import device_type
from .config import Config

AUTO = "auto"


def with_precision(config: Config, device: str, known: str | None = None) -> Config:
    """The same configuration with ``auto`` replaced.

    Args:
        config: Of a training.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        known: What the training was begun with, perhaps on another machine; None if it is a new one.
    """
    if config.precision != AUTO:
        return config
    return replace(config, precision=known if known not in (None, AUTO) else native_precision(device))  # type: ignore[arg-type]


def native_precision(device: str) -> str:
    """``bf16`` if a device computes in it itself; else ``fp16`` on a GPU and ``32`` elsewhere."""
    kind = device_type(device)
    if kind == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if kind == "cpu" and _cpu_has_bf16() else "32"


def _cpu_has_bf16() -> bool:
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return supported is not None and bool(supported())
