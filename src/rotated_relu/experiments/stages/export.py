"""ONNX, OpenVINO or 8-bit ONNX of a run's network, with a dynamic batch, compared with the network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...core import messages
from ...core.messages import Say
from ..run_networks import RunNetworks

if TYPE_CHECKING:
    from ...core.graph_layout import GraphLayout
    from ...deploy.export import ExportReport
    from ...deploy.quantize import Int8Report

FORMATS = ("onnx", "openvino")
ENGINE_OF = {"onnx": "onnxruntime", "openvino": "openvino"}
TIMED_BATCH_SIZES = (1, 64)
CALIBRATION_IMAGES = 256
CALIBRATION_BATCH = 32


def export_run(
    loaded: RunNetworks,
    weights: str,
    *,
    format: str = "onnx",
    dynamic_size: bool = False,
    tuned_for: Sequence[int] = (),
    say: Say = messages.say,
) -> ExportReport:
    """Export a network of a run; ``compact.onnx``, or ``trained.onnx`` for the whole one; ``.xml`` for OpenVINO.

    Args:
        loaded: The run.
        weights: ``trained``, ``compact`` or ``finetuned``.
        format: One of :data:`FORMATS`.
        dynamic_size: Leave height and width of the images free as well as the batch size.
        tuned_for: Batch sizes at which the fastest layout is looked for, unless ``prune`` has timed them in this engine
            already; as torch exports it without any.
        say: Called with what is about to be done.
    """
    from ...deploy.engines import check_engine
    from ...deploy.export import export_onnx, export_openvino

    if format not in FORMATS:
        raise UnknownNameError("format", format, FORMATS)
    check_engine(ENGINE_OF[format])
    write, suffix = (export_openvino, ".xml") if format == "openvino" else (export_onnx, ".onnx")
    net, example = loaded.network(weights), loaded.example_inputs(2)
    layout = _layout(loaded, weights, ENGINE_OF[format], tuned_for, say)
    return write(net, example, _path(loaded, weights, suffix), dynamic_size=dynamic_size, layout=layout)


def export_int8_run(
    loaded: RunNetworks, weights: str, *, tuned_for: Sequence[int] = (), say: Say = messages.say
) -> Int8Report:
    """Export a network of a run in 8 bits as ``.int8.onnx``, calibrated on ``CALIBRATION_IMAGES`` validation images."""
    from ...deploy.quantize import export_int8

    images = loaded.validation_inputs(CALIBRATION_IMAGES)
    layout = _layout(loaded, weights, "onnxruntime", tuned_for, say)
    path = _path(loaded, weights, ".int8.onnx")
    batches = [
        images[start : start + CALIBRATION_BATCH] for start in range(0, len(images), CALIBRATION_BATCH)
    ]
    return export_int8(loaded.network(weights), batches, path, layout=layout)


def _path(loaded: RunNetworks, weights: str, suffix: str) -> Path:
    compact = loaded.run.file("onnx")
    return compact.with_name(("trained" if weights == "trained" else compact.stem) + suffix)


def _layout(
    loaded: RunNetworks, weights: str, engine: str, sizes: Sequence[int], say: Say
) -> GraphLayout | None:
    """The fastest layout at these batch sizes: known from the compaction, or looked for now; None without any."""
    from ...deploy.fastest import fastest_layout
    from ...pruning.removal.checkpoint import read_tuned

    if not sizes:
        return None
    tuned = None if weights == "trained" else read_tuned(loaded.run.need(weights))
    if tuned is not None and (tuned.engine, set(tuned.batch_sizes)) == (engine, set(sizes)):
        return tuned.layout
    say(f"timing layouts of the network in {engine}")
    timing = [loaded.example_inputs(size) for size in sizes]
    return fastest_layout(
        loaded.network(weights), loaded.example_inputs(2), engine=engine, timing_inputs=timing
    ).layout
