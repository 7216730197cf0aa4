"""On what a measurement was made."""

from __future__ import annotations

import contextlib
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from .. import __version__

if TYPE_CHECKING:
    import torch

PACKAGES = ("torch", "torchvision", "lightning-fabric", "onnxruntime", "openvino", "numpy")


def environment() -> dict[str, Any]:
    """Processor, threads, system and versions, as plain data."""
    import torch

    return {
        "processor": device_name(torch.device("cpu")),
        "threads": torch.get_num_threads(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": {"rotated-relu": __version__, **installed_versions()},
    }


def installed_versions() -> dict[str, str]:
    """Versions of those of :data:`PACKAGES` that are installed."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


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
