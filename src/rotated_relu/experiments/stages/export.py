"""ONNX, OpenVINO or 8-bit ONNX of a run's network, with a dynamic batch, compared with the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...core import messages
from ...core.errors import ExportError, UnknownNameError
from ...core.messages import Say
from ...core.progress import showing, task
from ..run_networks import RunNetworks

if TYPE_CHECKING:
    from torch import nn

    from ...core.graph_layout import GraphLayout
    from ...deploy.export import ExportReport
    from ...deploy.quantize import Int8Report

FORMATS = ("onnx", "openvino")
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}
ENGINE_OF = {"onnx": "onnxruntime", "openvino": "openvino"}
TIMED_BATCH_SIZES = (1, 64)
CALIBRATION_IMAGES = 256
CALIBRATION_BATCH = 32


@dataclass(frozen=True)
class Exported:
    """What :func:`export_run` wrote.

    Attributes:
        weights: The network: ``trained``, ``compact`` or ``finetuned``.
        engine: What the file was checked in.
        report: About the file.
    """

    weights: str
    engine: str
    report: ExportReport | Int8Report


def export_run(
    loaded: RunNetworks,
    weights: str | None = None,
    *,
    format: str = "onnx",
    int8: bool = False,
    dynamic_size: bool = False,
    tuned_for: Sequence[int] = (),
    progress: str = "none",
    say: Say = messages.say,
) -> Exported:
    """Export a network of a run; ``compact.onnx``, or ``trained.onnx`` for the whole one; ``.xml`` for OpenVINO.

    Args:
        loaded: The run.
        weights: ``trained``, ``compact`` or ``finetuned``; the last one of the small ones if None.
        format: One of :data:`FORMATS`.
        int8: In 8 bits, calibrated on ``CALIBRATION_IMAGES`` validation images; as ``.int8.onnx``.
        dynamic_size: Leave height and width of the images free as well as the batch size.
        tuned_for: Batch sizes at which the fastest layout is looked for, unless ``prune`` has timed them in this engine
            already; as torch exports it without any.
        progress: ``auto``, ``bar``, ``lines`` or ``none``.
        say: Called with what is about to be done.

    Raises:
        UnknownNameError: If there is no such format or choice of weights.
        ExportError: If 8 bits are asked for in a form that they are not written in, or the file does not compute what
            the network does.
        MissingPackageError: If the engine that the file is for is not installed.
        RunError: If the run is in use, cannot be written to, or has no such network yet.
    """
    from ...deploy.engines import engine_named

    if format not in FORMATS:
        raise UnknownNameError("format", format, FORMATS)
    if int8 and (format != "onnx" or dynamic_size):
        raise ExportError("8 bits are written as ONNX for one image size; leave the other options out")
    engine = ENGINE_OF[format]
    engine_named(engine)
    weights = weights or loaded.newest_small()
    with showing(progress, say), loaded.run.claimed(), task("export", 2) as work:
        net = loaded.network(weights)
        layout = _layout(loaded, weights, engine, tuned_for, say)
        work.advance()
        work.at(f"exporting the {weights} network and comparing it in {engine}")
        if int8:
            report: ExportReport | Int8Report = _int8(
                loaded, net, _path(loaded, weights, ".int8.onnx"), layout
            )
        else:
            report = _float(loaded, net, _path(loaded, weights, SUFFIXES[format]), layout, dynamic_size)
    return Exported(weights, engine, report)


def _float(
    loaded: RunNetworks, net: nn.Module, path: Path, layout: GraphLayout | None, dynamic_size: bool
) -> ExportReport:
    from ...deploy.export import export_onnx, export_openvino

    write = export_openvino if path.suffix == ".xml" else export_onnx
    metadata = _metadata(loaded, net)
    return write(
        net, loaded.example_inputs(2), path, dynamic_size=dynamic_size, layout=layout, metadata=metadata
    )


def _metadata(loaded: RunNetworks, net: nn.Module) -> dict[str, str]:
    """What the file says of itself: preprocessing, class names, and which output the class scores are."""
    import torch

    from ...core.nested import tensors_in
    from ...core.preprocessing import SCORES
    from ...training.outputs import class_scores

    with torch.no_grad():
        output = net(loaded.example_inputs(2))
    scores = class_scores(output)
    index = next(i for i, tensor in enumerate(tensors_in(output)) if tensor is scores)
    return {**loaded.metadata, SCORES: str(index)}


def _int8(loaded: RunNetworks, net: nn.Module, path: Path, layout: GraphLayout | None) -> Int8Report:
    import torch

    from ...deploy.quantize import export_int8

    images = loaded.validation_inputs(CALIBRATION_IMAGES)
    batches = torch.split(images, CALIBRATION_BATCH)
    return export_int8(net, batches, path, layout=layout, metadata=_metadata(loaded, net))


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
