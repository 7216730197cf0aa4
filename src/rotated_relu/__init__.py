"""rotated-relu: slopes on every activation, and the filters that they declare dead removed, provably.

Example::

    import rotated_relu as rr

    net = rr.rotate(torchvision.models.resnet18(), torch.zeros(1, 3, 224, 224))
    loss = criterion(net(images), labels) + 1e-3 * rr.slope_l1(net)           # train as ever
    found = rr.find_threshold(net, evaluate)                                   # on validation data
    result = rr.compact(net, torch.zeros(1, 3, 224, 224), threshold=found.value)
    rr.save(result, "small.safetensors")

Names that need a heavy library (torchvision, onnxruntime) are imported at their first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import errors
from .activation import Rotated, RotatedReLU, rotated_slopes_
from .compact import Certificate, Compacted, Plan, compact, load, load_compacted, read_plan, save
from .errors import RotatedReLUError, RotatedReLUWarning
from .penalty import slope_l1
from .rotate import apply_threshold, rotate, slopes

if TYPE_CHECKING:
    from . import models
    from .export import export_onnx
    from .measure import measure
    from .threshold import find_threshold

__version__ = "0.1.0"

_LAZY = {"export_onnx": "export", "measure": "measure", "find_threshold": "threshold", "models": "models"}

__all__ = [
    "Certificate", "Compacted", "Plan", "Rotated", "RotatedReLU", "RotatedReLUError", "RotatedReLUWarning",
    "apply_threshold", "compact", "errors", "export_onnx", "find_threshold", "load", "load_compacted", "measure",
    "models", "read_plan", "rotate", "rotated_slopes_", "save", "slope_l1", "slopes",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f".{_LAZY[name]}", __name__)
    value = module if name == "models" else getattr(module, name)
    globals()[name] = (
        value  # also undoes the import system's binding of the submodule `measure` to its own name
    )
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
