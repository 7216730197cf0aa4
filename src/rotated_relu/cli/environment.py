"""On what a measurement was made."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

PACKAGES = ("rotated-relu", "torch", "torchvision", "lightning", "onnxruntime", "numpy")


def environment() -> dict[str, Any]:
    """Processor, threads, system and versions, as plain data."""
    import torch

    from ..measure import device_name

    return {
        "processor": device_name(torch.device("cpu")),
        "threads": torch.get_num_threads(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }
