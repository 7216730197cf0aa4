"""``rotated-relu export``: ONNX, OpenVINO or 8-bit ONNX with a dynamic batch, compared with the network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import UnknownNameError
from ..experiments.run_networks import RunNetworks, open_run
from . import console
from .options import RunPath, Weights

if TYPE_CHECKING:
    from ..deploy.export import ExportReport
    from ..deploy.layout import GraphLayout

EXAMPLE = "rotated-relu export runs/first --format openvino"
FORMATS = ("onnx", "openvino")
ENGINE_OF = {"onnx": "onnxruntime", "openvino": "openvino"}
TIMED_BATCH_SIZES = (1, 64)
CALIBRATION_BATCHES, CALIBRATION_BATCH = 8, 32


def export(
    run: RunPath,
    weights: Weights = None,
    format: Annotated[str, typer.Option(metavar="onnx|openvino", help="What to write.")] = "onnx",
    int8: Annotated[
        bool, typer.Option("--int8", help="8-bit ONNX instead, calibrated on validation images.")
    ] = False,
    dynamic_size: Annotated[
        bool, typer.Option("--dynamic-size", help="Leave height and width of the images free as well.")
    ] = False,
    batch_size: Annotated[
        list[int],
        typer.Option(
            min=1, help="Batch sizes at which to find the fastest layout; may be given several times."
        ),
    ] = list(TIMED_BATCH_SIZES),  # noqa: B006 - typer copies it
    tune: Annotated[
        bool, typer.Option(help="Time several layouts of the graph and write the fastest.")
    ] = True,
) -> None:
    """Write the compacted network as compact.onnx or compact.xml; the batch size is free.

    The file is compared with the network in the engine that it is for. Slopes that it still multiplies by are listed
    with the reason.
    """
    if format not in FORMATS:
        raise UnknownNameError("format", format, FORMATS)
    if int8 and format != "onnx":
        raise typer.BadParameter("8 bits are written as ONNX only", param_hint="--int8")
    if int8 and dynamic_size:
        raise typer.BadParameter("8 bits are written for one image size", param_hint="--dynamic-size")
    loaded = open_run(run)
    weights = weights or loaded.newest_small()
    sizes = batch_size if tune else []
    if int8:
        _export_int8(loaded, weights, sizes)
        return
    report = export_run(loaded, weights, format=format, dynamic_size=dynamic_size, tuned_for=sizes)
    engine = ENGINE_OF[format]
    console.show(
        f"{report.path}: {weights} network, {console.kibibytes(report.file_bytes)}, checked against {engine}",
        f"slopes of {report.folded_slopes} activations cost nothing",
        *(f"slopes of {kept.name} stay: {kept.reason}" for kept in report.kept_slopes),
    )


def export_run(
    loaded: RunNetworks,
    weights: str,
    *,
    format: str = "onnx",
    dynamic_size: bool = False,
    tuned_for: list[int] | None = None,
) -> ExportReport:
    """Export a network of a run; ``compact.onnx``, or ``trained.onnx`` for the whole one; ``.xml`` for OpenVINO."""
    from ..deploy.export import export_onnx, export_openvino

    write, suffix = (export_openvino, ".xml") if format == "openvino" else (export_onnx, ".onnx")
    net, example = loaded.network(weights), loaded.example_inputs(2)
    layout = _layout(loaded, weights, ENGINE_OF[format], tuned_for or [])
    return write(net, example, _path(loaded, weights, suffix), dynamic_size=dynamic_size, layout=layout)


def _export_int8(loaded: RunNetworks, weights: str, sizes: list[int]) -> None:
    from ..deploy.quantize import export_int8

    images = loaded.example_inputs(CALIBRATION_BATCHES * CALIBRATION_BATCH)
    layout = _layout(loaded, weights, "onnxruntime", sizes)
    path = _path(loaded, weights, ".int8.onnx")
    batches = [
        images[start : start + CALIBRATION_BATCH] for start in range(0, len(images), CALIBRATION_BATCH)
    ]
    report = export_int8(loaded.network(weights), batches, path, layout=layout)
    console.show(
        f"{report.path}: {weights} network in 8 bits, {console.kibibytes(report.file_bytes)}, outputs differ by "
        f"{100 * report.relative_difference:.2g} % (root mean square) on {len(images)} validation images"
    )


def _path(loaded: RunNetworks, weights: str, suffix: str) -> Path:
    compact = loaded.run.file("onnx")
    return compact.with_name(("trained" if weights == "trained" else compact.stem) + suffix)


def _layout(loaded: RunNetworks, weights: str, engine: str, sizes: list[int]) -> GraphLayout | None:
    """The fastest layout on this machine at these batch sizes; None without any."""
    from ..deploy.fastest import fastest_layout

    if not sizes:
        return None
    console.say(f"timing layouts of the network in {engine}")
    timing = [loaded.example_inputs(size) for size in sizes]
    return fastest_layout(
        loaded.network(weights), loaded.example_inputs(2), engine=engine, timing_inputs=timing
    ).layout
