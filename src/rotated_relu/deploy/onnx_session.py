"""Run ONNX models in onnxruntime: quiet sessions on the CPU with a stated number of threads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.errors import FileFormatError
from ..core.extras import needs
from ..core.modules import Call, Inputs, as_inputs
from .timing import Runnable


def open_session(source: str | Path | bytes, threads: int | None = None) -> Any:
    """Open an ``onnxruntime.InferenceSession`` on the CPU.

    Args:
        source: A file or a serialised model.
        threads: Threads inside one operation; torch's own setting if None.

    Raises:
        FileFormatError: If the file does not exist or onnxruntime cannot read it.
    """
    needs("onnxruntime")
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Idle threads that spin would slow down whatever is timed next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    model = source if isinstance(source, bytes) else os.fspath(source)
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no base class
        name = "the ONNX model" if isinstance(source, bytes) else os.fspath(source)
        raise FileFormatError(f"onnxruntime cannot open {name}: {str(error).strip()}") from error


def run_session(session: Any, example_inputs: Inputs) -> list[Tensor]:
    """Run a session on torch tensors, by position, and return its outputs as CPU tensors."""
    return [
        torch.from_numpy(output) for output in session.run(None, _feed(session, as_inputs(example_inputs)))
    ]


def session_runner(
    source: str | Path | bytes, example_inputs: Inputs, threads: int | None = None
) -> Runnable:
    """Return a callable that runs an ONNX model once on the inputs, for ``compare_latency``."""
    session = open_session(source, threads)
    feed = _feed(session, as_inputs(example_inputs))
    return lambda: session.run(None, feed)


def _feed(session: Any, inputs: Call) -> dict[str, Any]:
    names = [value.name for value in session.get_inputs()]
    arrays = [value.detach().cpu().contiguous().numpy() for value in inputs.tensors]
    return dict(zip(names, arrays, strict=True))
