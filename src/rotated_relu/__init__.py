"""rotated-relu: slopes on every activation, and the filters that they declare dead removed, verified in float64.

Example::

    import rotated_relu as rr

    net = rr.rotate(torchvision.models.resnet18(), torch.zeros(1, 3, 224, 224))
    loss = criterion(net(images), labels) + 1e-3 * rr.slope_l1(net)           # train as ever
    found = rr.find_threshold(net, evaluate)                                   # on validation data
    result = rr.compact(net, torch.zeros(1, 3, 224, 224), mask=found.mask)
    rr.save(result, "small.safetensors")

Names are imported at their first use, so that ``rotated-relu --help`` does not wait for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .core import errors
from .core.errors import RotatedReLUError, RotatedReLUWarning
from .core.lazy import lazy_names

if TYPE_CHECKING:
    from .core.modules import Call
    from .deploy.autotune import compact
    from .deploy.export import export_onnx, export_openvino
    from .deploy.latency.calibrate import calibrate
    from .deploy.latency.select import select_channels
    from .deploy.measure import measure
    from .graph.registration import register_operation
    from .nn import models
    from .nn.activation import Rotated, RotatedReLU, rotated_slopes_
    from .nn.distillation import distillation_loss
    from .nn.folding import compile_training, fast_training, plain_training
    from .nn.penalty import slope_l1
    from .nn.rotate import rotate
    from .nn.slopes import slopes
    from .pruning.budget import SlopeBudget
    from .pruning.latency.table import LatencyTable
    from .pruning.mask import Mask, apply_mask, apply_threshold
    from .pruning.removal import Certificate, Compacted, Plan, load, load_compacted, read_plan, save
    from .pruning.shrink import Shrunk, shrink
    from .pruning.threshold import find_threshold

__version__ = "0.2.0"

_HOMES = {
    "graph.registration": ("register_operation",),
    "nn.activation": ("Rotated", "RotatedReLU", "rotated_slopes_"),
    "pruning.budget": ("SlopeBudget",),
    "pruning.removal": ("Certificate", "Compacted", "Plan", "load", "load_compacted", "read_plan", "save"),
    "deploy.latency.calibrate": ("calibrate",),
    "deploy.latency.select": ("select_channels",),
    "deploy.export": ("export_onnx", "export_openvino"),
    "nn.folding": ("compile_training", "fast_training", "plain_training"),
    "deploy.measure": ("measure",),
    "core.modules": ("Call",),
    "nn.penalty": ("slope_l1",),
    "nn.slopes": ("slopes",),
    "pruning.latency.table": ("LatencyTable",),
    "pruning.mask": ("Mask", "apply_mask", "apply_threshold"),
    "nn.distillation": ("distillation_loss",),
    "nn.rotate": ("rotate",),
    "deploy.autotune": ("compact",),
    "pruning.shrink": ("Shrunk", "shrink"),
    "pruning.threshold": ("find_threshold",),
}

__all__ = [
    "Call", "Certificate", "Compacted", "LatencyTable", "Mask", "Plan", "Rotated", "RotatedReLU",
    "RotatedReLUError", "RotatedReLUWarning", "Shrunk", "SlopeBudget", "apply_mask", "apply_threshold",
    "calibrate", "compact", "compile_training", "distillation_loss", "errors", "export_onnx",
    "export_openvino", "fast_training", "find_threshold", "load", "load_compacted", "measure", "models",
    "plain_training", "read_plan", "register_operation", "rotate", "rotated_slopes_", "save",
    "select_channels", "shrink", "slope_l1", "slopes",
]  # fmt: skip

__getattr__, __dir__ = lazy_names(__name__, _HOMES, {"models": "nn.models"})
