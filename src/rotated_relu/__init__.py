"""rotated-relu: slopes on every activation, and the filters that they declare dead removed, provably.

Example::

    import rotated_relu as rr

    net = rr.rotate(torchvision.models.resnet18(), torch.zeros(1, 3, 224, 224))
    loss = criterion(net(images), labels) + 1e-3 * rr.slope_l1(net)           # train as ever
    found = rr.find_threshold(net, evaluate)                                   # on validation data
    result = rr.compact(net, torch.zeros(1, 3, 224, 224), threshold=found.value)
    rr.save(result, "small.safetensors")

Names are imported at their first use, so that ``rotated-relu --help`` does not wait for torch.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

from . import errors
from .errors import RotatedReLUError, RotatedReLUWarning

if TYPE_CHECKING:
    from . import models
    from .activation import Rotated, RotatedReLU, rotated_slopes_
    from .budget import SlopeBudget
    from .compact import Certificate, Compacted, Plan, load, load_compacted, read_plan, save
    from .export import export_onnx, export_openvino
    from .fast import compile_training, fast_training, plain_training
    from .measure import measure
    from .penalty import slope_l1
    from .rotate import apply_threshold, rotate, slopes
    from .rounding import compact, compact_fastest
    from .threshold import find_threshold

__version__ = "0.1.0"

_HOMES = {
    "activation": ("Rotated", "RotatedReLU", "rotated_slopes_"),
    "budget": ("SlopeBudget",),
    "compact": ("Certificate", "Compacted", "Plan", "load", "load_compacted", "read_plan", "save"),
    "export": ("export_onnx", "export_openvino"),
    "fast": ("compile_training", "fast_training", "plain_training"),
    "measure": ("measure",),
    "penalty": ("slope_l1",),
    "rotate": ("apply_threshold", "rotate", "slopes"),
    "rounding": ("compact", "compact_fastest"),
    "threshold": ("find_threshold",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Certificate", "Compacted", "Plan", "Rotated", "RotatedReLU", "RotatedReLUError", "RotatedReLUWarning",
    "SlopeBudget", "apply_threshold", "compact", "compact_fastest", "compile_training", "errors", "export_onnx",
    "export_openvino", "fast_training", "find_threshold", "load", "load_compacted", "measure", "models",
    "plain_training", "read_plan", "rotate", "rotated_slopes_", "save", "slope_l1", "slopes",
]  # fmt: skip


class _Package(types.ModuleType):
    """Keeps ``rr.compact`` the function, although the import system would bind the submodule of that name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME_OF and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name == "models":
        return importlib.import_module(".models", __name__)
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
