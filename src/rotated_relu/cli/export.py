"""``rotated-relu export``: ONNX, OpenVINO or 8-bit ONNX with a dynamic batch, compared with the network."""

from __future__ import annotations

from typing import Annotated

import typer

from ..core.errors import UnknownNameError
from ..experiments.run_networks import open_run
from ..experiments.stages.export import (
    CALIBRATION_IMAGES,
    ENGINE_OF,
    FORMATS,
    TIMED_BATCH_SIZES,
    export_int8_run,
    export_run,
)
from . import console
from .options import RunPath, Weights

EXAMPLE = "rotated-relu export runs/first --format openvino"


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
        small = export_int8_run(loaded, weights, tuned_for=sizes)
        console.show(
            f"{small.path}: {weights} network in 8 bits, {console.kibibytes(small.file_bytes)}, outputs differ by "
            f"{100 * small.relative_difference:.2g} % (root mean square) on {CALIBRATION_IMAGES} validation images"
        )
        return
    report = export_run(loaded, weights, format=format, dynamic_size=dynamic_size, tuned_for=sizes)
    engine = ENGINE_OF[format]
    console.show(
        f"{report.path}: {weights} network, {console.kibibytes(report.file_bytes)}, checked against {engine}",
        f"slopes of {report.folded_slopes} activations cost nothing",
        *(f"slopes of {kept.name} stay: {kept.reason}" for kept in report.kept_slopes),
    )
