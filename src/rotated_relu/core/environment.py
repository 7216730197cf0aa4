"""On what a measurement was made."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PACKAGES = ("rotated-relu", "torch", "torchvision", "lightning", "onnxruntime", "numpy")


def environment() -> dict[str, Any]:
    """Processor, threads, system and versions, as plain data."""
    import torch

    return {
        "processor": device_name(torch.device("cpu")),
        "threads": torch.get_num_threads(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def device_name(device: torch.device) -> str:
    """Name of the processor or accelerator, for reports."""
    if device.type == "cuda":
        import torch

        return str(torch.cuda.get_device_name(device))
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
