"""Static quantisation of exported networks to 8-bit integers, in ONNX's QDQ format, by onnxruntime's own tool."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..core.errors import ExportError
from ..core.extras import EXTRAS, needs
from ..core.files import replacing
from ..core.graph_layout import GraphLayout
from ..core.modules import Inputs, as_inputs
from ..core.nested import tensors_in
from ..core.state import trial
from .conversion import quiet, reason, to_onnx
from .export import check_target, writing
from .onnx_model import with_metadata
from .sessions import OnnxRuntimeSession, Session, arrays


@dataclass(frozen=True)
class Int8Report:
    """What was quantised and how far it is from the network in float.

    Attributes:
        path: The file.
        file_bytes: Its size.
        calibration_batches: Batches whose activations set the ranges.
        relative_difference: Root mean square of the difference of the outputs on those batches, over that of the
            outputs of the network.
    """

    path: str
    file_bytes: int
    calibration_batches: int
    relative_difference: float

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain data."""
        return asdict(self)


def export_int8(
    net: nn.Module,
    calibration: Sequence[Inputs],
    path: str | os.PathLike[str],
    *,
    layout: GraphLayout | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Int8Report:
    """Export a network to ONNX with weights and activations in 8 bits; the batch stays dynamic.

    Weights are quantised per output channel, activations per tensor by their smallest and largest value.

    Args:
        net: Any module that can be exported; unchanged.
        calibration: Batches of inputs like those of the data, not of the test set.
        path: The ``.onnx`` file; its folder must exist.
        layout: As in :func:`rotated_relu.export_onnx`.
        metadata: Likewise.

    Returns:
        A report with the difference on the calibration batches. How much accuracy that costs is for the caller to
        measure.

    Raises:
        ExportError: If there are no batches, or the network cannot be exported, quantised, run or written.
    """
    if not calibration:
        raise ExportError(
            "int8 needs at least one batch of calibration inputs: it learns the ranges from them"
        )
    needs(*EXTRAS["onnx"])
    target = Path(path)
    check_target(target)
    content = to_onnx(net, calibration[0], layout=layout).content
    with writing(target), replacing(target) as beside:
        _quantise(content, calibration, beside)
        beside.write_bytes(with_metadata(beside.read_bytes(), metadata or {}))
        difference = _difference(net, OnnxRuntimeSession(beside), calibration)
        if not difference < float("inf"):
            raise ExportError("the quantised network returns infinite or NaN values; nothing was written")
    return Int8Report(str(target), target.stat().st_size, len(calibration), difference)


def _quantise(content: bytes, calibration: Sequence[Inputs], target: Path) -> None:
    needs("onnxruntime", "onnx")
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    try:
        with quiet(), tempfile.TemporaryDirectory() as folder:
            source, prepared = Path(folder) / "float.onnx", Path(folder) / "prepared.onnx"
            source.write_bytes(content)
            names = OnnxRuntimeSession(content).input_names
            quant_pre_process(source, prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared,
                target,
                _Reader(names, calibration),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                weight_type=QuantType.QInt8,
                activation_type=QuantType.QUInt8,
            )
    except OSError:
        raise
    except Exception as error:
        raise ExportError(f"onnxruntime cannot quantise the network: {reason(error)}") from error


class _Reader:
    """Hands example inputs to the calibration, one batch at a time."""

    def __init__(self, names: Sequence[str], batches: Sequence[Inputs]) -> None:
        self._feeds = iter([dict(zip(names, arrays(batch), strict=True)) for batch in batches])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


def _difference(net: nn.Module, session: Session, calibration: Sequence[Inputs]) -> float:
    """Root mean square difference of all outputs, relative to the network's outputs."""
    squared = total = 0.0
    with trial(net):
        for batch in calibration:
            inputs = as_inputs(batch)
            expected = tensors_in(inputs.run(net))
            for one, other in zip(expected, session.run(inputs), strict=True):
                squared += float((one.detach().cpu().double() - other.double()).square().sum())
                total += float(one.detach().double().square().sum())
    return math.sqrt(squared / total) if total else math.sqrt(squared)
