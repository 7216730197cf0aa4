"""Run ONNX models in OpenVINO, and write them in its own format. OpenVINO comes with the extra ``openvino``."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.errors import ExportError
from ..core.extras import needs
from ..core.modules import Inputs, as_inputs
from .timing import Runnable


def openvino() -> Any:
    """The ``openvino`` package.

    Raises:
        MissingPackageError: If it is not installed; says how to install it.
    """
    needs("openvino")
    import openvino as package

    return package


class OpenVinoSession:
    """A compiled model on the CPU with a stated number of threads, in float32.

    Args:
        source: A ``.xml`` or ``.onnx`` file, or a serialised ONNX model.
        threads: Threads of the engine; torch's own setting if None.

    Raises:
        MissingPackageError: If OpenVINO is not installed.
        ExportError: If it cannot read or compile the model.
    """

    def __init__(self, source: str | Path | bytes, threads: int | None = None) -> None:
        package = openvino()
        settings = {
            "INFERENCE_NUM_THREADS": threads or torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        try:
            core = package.Core()
            model = core.read_model(source if isinstance(source, bytes) else os.fspath(source))
            self._request = core.compile_model(model, "CPU", settings).create_infer_request()
        except Exception as error:  # OpenVINO raises RuntimeError with several lines
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise ExportError(f"OpenVINO cannot open the model: {lines[-1] if lines else error!r}") from error

    def feed(self, example_inputs: Inputs) -> None:
        """Set the inputs, by position."""
        for position, value in enumerate(as_inputs(example_inputs).tensors):
            array = value.detach().cpu().contiguous().numpy()
            self._request.set_input_tensor(position, openvino().Tensor(array))

    def infer(self) -> object:
        """Run once on the inputs that were set."""
        return self._request.infer()

    def run(self, example_inputs: Inputs) -> list[Tensor]:
        """Run on torch tensors and return the outputs as CPU tensors."""
        self.feed(example_inputs)
        outputs = self._request.infer()
        return [torch.from_numpy(outputs[position].copy()) for position in range(len(outputs))]


def openvino_runner(
    source: str | Path | bytes, example_inputs: Inputs, threads: int | None = None
) -> Runnable:
    """Return a callable that runs a model once on the inputs in OpenVINO, for ``compare_latency``."""
    session = OpenVinoSession(source, threads)
    session.feed(example_inputs)
    return session.infer


def save_openvino(content: bytes, target: Path) -> int:
    """Write a serialised ONNX model as OpenVINO's pair of files and return their size in bytes.

    Both files are written beside and renamed, the weights (``.bin``) before the graph (``.xml``).

    Raises:
        MissingPackageError: If OpenVINO is not installed.
        ExportError: If it cannot convert the model, or the files cannot be written.
    """
    package = openvino()
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
            written = Path(folder) / target.name
            package.save_model(package.Core().read_model(content), written, compress_to_fp16=False)
            pairs = [(written.with_suffix(end), target.with_suffix(end)) for end in (".bin", ".xml")]
            for source, place in pairs:
                os.chmod(source, 0o644)
                os.replace(source, place)
    except OSError as error:
        raise ExportError(f"cannot write {target}: {error.strerror or error}") from error
    except RuntimeError as error:
        raise ExportError(
            f"OpenVINO cannot convert the model: {str(error).strip().splitlines()[-1]}"
        ) from error
    return sum(place.stat().st_size for _, place in pairs)
