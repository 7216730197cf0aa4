"""``rotated-relu export``: ONNX with a dynamic batch, checked against onnxruntime."""

from __future__ import annotations

from pathlib import Path

from . import console
from .networks import Loaded, open_run
from .options import RunPath, Weights

EXAMPLE = "rotated-relu export runs/first"


def export(run: RunPath, weights: Weights = None) -> None:
    """Write the compacted network as compact.onnx; the batch size is free."""
    loaded = open_run(run)
    weights = weights or loaded.newest_small()
    path = export_run(loaded, weights)
    console.show(
        f"{path}: {weights} network, {console.kibibytes(path.stat().st_size)}, checked against onnxruntime"
    )


def export_run(loaded: Loaded, weights: str) -> Path:
    """Export a network of a run; ``compact.onnx``, or ``trained.onnx`` for the whole one."""
    from ..export import export_onnx

    compact = loaded.run.file("onnx")
    path = compact.with_name("trained.onnx") if weights == "trained" else compact
    export_onnx(loaded.network(weights), loaded.example_inputs(2), path)
    return path
