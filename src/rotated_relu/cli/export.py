"""``rotated-relu export``: ONNX, OpenVINO or 8-bit ONNX with a dynamic batch, compared with the network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from ..experiments.run_networks import open_run
from ..experiments.stages.export import CALIBRATION_IMAGES, TIMED_BATCH_SIZES, Exported, export_run
from . import console
from .options import Progress, RunPath, Weights, check_choices

if TYPE_CHECKING:
    from ..deploy.export import ExportReport
    from ..deploy.quantize import Int8Report

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
    progress: Progress = "auto",
) -> None:
    """Write the compacted network as compact.onnx or compact.xml; the batch size is free.

    The file is compared with the network in the engine that it is for. Slopes that it still multiplies by are listed
    with the reason.
    """
    if int8 and format != "onnx":
        raise typer.BadParameter("8 bits are written as ONNX only", param_hint="--int8")
    if int8 and dynamic_size:
        raise typer.BadParameter("8 bits are written for one image size", param_hint="--dynamic-size")
    check_choices(progress)
    loaded = open_run(run)
    found = export_run(
        loaded,
        weights,
        format=format,
        int8=int8,
        dynamic_size=dynamic_size,
        tuned_for=batch_size if tune else [],
        progress=progress,
    )
    console.show(*(_int8_words(found) if int8 else _words(found)))
    console.show_next(loaded)


def _words(found: Exported) -> list[str]:
    report = cast("ExportReport", found.report)
    return [
        f"{report.path}: {found.weights} network, {console.kibibytes(report.file_bytes)}, "
        f"checked against {found.engine}",
        f"slopes of {console.plural(report.folded_slopes, 'activation')} cost nothing",
        *(f"slopes of {kept.name} stay: {kept.reason}" for kept in report.kept_slopes),
    ]


def _int8_words(found: Exported) -> list[str]:
    report = cast("Int8Report", found.report)
    return [
        f"{report.path}: {found.weights} network in 8 bits, {console.kibibytes(report.file_bytes)}, outputs differ by "
        f"{100 * report.relative_difference:.2g} % (root mean square) on {CALIBRATION_IMAGES} validation images"
    ]
