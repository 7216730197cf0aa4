"""Models opened in onnxruntime and in OpenVINO: on the CPU, in float32, quiet, with a stated number of threads."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..core.errors import ExportError, FileFormatError
from ..core.extras import needs
from ..core.modules import Inputs, as_inputs
from .timing import Runnable

Source = str | Path | bytes  # a file or a serialised model
KERNEL = "_kernel_time"  # ends the name of an event of onnxruntime's profiler that is an operation


class Session(Protocol):
    """A model that an engine has opened."""

    def run(self, example_inputs: Inputs) -> list[Tensor]:
        """Run on torch tensors, by position, and return the outputs as CPU tensors."""

    def runnable(self, example_inputs: Inputs) -> Runnable:
        """A callable that runs once on these inputs, for :func:`.timing.compare_latency`."""


class OnnxRuntimeSession:
    """A model in onnxruntime.

    Args:
        source: An ``.onnx`` file or a serialised model.
        threads: Threads inside one operation; torch's own setting if None.
        profile: Beginning of the path of a file in which onnxruntime notes what each operation takes; None for none.

    Raises:
        MissingPackageError: If onnxruntime is not installed.
        FileFormatError: If the file does not exist or onnxruntime cannot read it.
    """

    def __init__(
        self, source: Source, threads: int | None = None, profile: str | os.PathLike[str] | None = None
    ) -> None:
        needs("onnxruntime")
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = os.fspath(profile)
        # Idle threads that spin would slow down whatever is timed next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self._session: Any = ort.InferenceSession(
                _opened(source), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own exceptions share no base class
            name = "the ONNX model" if isinstance(source, bytes) else os.fspath(source)
            raise FileFormatError(f"onnxruntime cannot open {name}: {str(error).strip()}") from error

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs, in order."""
        return [value.name for value in self._session.get_inputs()]

    def run(self, example_inputs: Inputs) -> list[Tensor]:
        """Run on torch tensors, by position, and return the outputs as CPU tensors."""
        return [torch.from_numpy(output) for output in self._session.run(None, self._feed(example_inputs))]

    def runnable(self, example_inputs: Inputs) -> Runnable:
        """A callable that runs once on these inputs."""
        feed = self._feed(example_inputs)
        return lambda: self._session.run(None, feed)

    def profiled(self) -> list[tuple[str, float]]:
        """Name and time in ms of every operation of the calls so far, one after the other; no more are noted.

        An operation that was fused or laid out anew has the name of its result with an ending.
        """
        path = Path(self._session.end_profiling())
        events = json.loads(path.read_text())
        kernels = [event for event in events if event["name"].endswith(KERNEL)]
        return [(event["name"].removesuffix(KERNEL), event["dur"] / 1000) for event in kernels]

    def _feed(self, example_inputs: Inputs) -> dict[str, Any]:
        return dict(zip(self.input_names, arrays(example_inputs), strict=True))


class OpenVinoSession:
    """A model in OpenVINO.

    Args:
        source: An ``.xml`` or ``.onnx`` file, or a serialised ONNX model.
        threads: Threads of the engine; torch's own setting if None.
        profile: Whether OpenVINO counts what each operation takes.

    Raises:
        MissingPackageError: If OpenVINO is not installed.
        ExportError: If it cannot read or compile the model.
    """

    def __init__(self, source: Source, threads: int | None = None, profile: bool = False) -> None:
        package = openvino()
        settings = {
            "INFERENCE_NUM_THREADS": threads or torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "PERF_COUNT": profile,
        }
        try:
            model = read_openvino(source)
            self._request: Any = package.Core().compile_model(model, "CPU", settings).create_infer_request()
        except Exception as error:  # OpenVINO raises RuntimeError with several lines, the last of which tells
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise ExportError(f"OpenVINO cannot open the model: {lines[-1] if lines else error!r}") from error

    def run(self, example_inputs: Inputs) -> list[Tensor]:
        """Run on torch tensors, by position, and return the outputs as CPU tensors."""
        outputs = self.runnable(example_inputs)()
        # The engine writes the next results into the same memory.
        return [torch.from_numpy(outputs[position].copy()) for position in range(len(outputs))]

    def runnable(self, example_inputs: Inputs) -> Any:
        """A callable that runs once on these inputs; the latest one decides on which."""
        package = openvino()
        for position, array in enumerate(arrays(example_inputs)):
            self._request.set_input_tensor(position, package.Tensor(array))
        return self._request.infer

    def profiled(self) -> list[tuple[str, float]]:
        """Name and time in ms of every operation of the latest call."""
        found = self._request.get_profiling_info()
        return [(one.node_name, one.real_time.total_seconds() * 1000) for one in found if one.real_time]


def read_openvino(source: Source) -> Any:
    """A model of OpenVINO's with all inputs of the file, in order.

    OpenVINO's reader of ONNX leaves out an input that nothing reads, and those behind it move up.

    Args:
        source: As of :class:`OpenVinoSession`.

    Raises:
        RuntimeError: OpenVINO's own, if it cannot read the model.
    """
    package = openvino()
    model = package.Core().read_model(_opened(source))
    if not isinstance(source, bytes) and Path(source).suffix == ".xml":
        return model
    known = {name: one for one in model.get_parameters() for name in one.output(0).get_names()}
    wanted = _onnx_inputs(source)
    if all(value.name in known for value in wanted):
        return model
    inputs = [known.get(value.name) or _unread(value) for value in wanted]
    return package.Model(model.get_results(), model.get_sinks(), inputs, model.get_friendly_name())


def _onnx_inputs(source: Source) -> list[Any]:
    """The inputs of an ONNX model, without the weights that older models list among them."""
    needs("onnx")
    import onnx

    if isinstance(source, bytes):
        graph = onnx.load_from_string(source).graph
    else:
        graph = onnx.load(os.fspath(source), load_external_data=False).graph
    weights = {weight.name for weight in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def _unread(value: Any) -> Any:
    """An input of OpenVINO's for one of an ONNX model that nothing reads."""
    needs("onnx", "openvino")
    from onnx.helper import tensor_dtype_to_np_dtype
    from openvino import PartialShape, Type, opset13

    tensor = value.type.tensor_type
    sizes = [size.dim_value if size.HasField("dim_value") else -1 for size in tensor.shape.dim]
    made = opset13.parameter(
        PartialShape(sizes), Type(tensor_dtype_to_np_dtype(tensor.elem_type)), value.name
    )
    made.output(0).set_names({value.name})
    return made


def openvino() -> Any:
    """The ``openvino`` package.

    Raises:
        MissingPackageError: If it is not installed; says how to install it.
    """
    needs("openvino")
    import openvino as package

    return package


def arrays(example_inputs: Inputs) -> list[Any]:
    """The tensors of example inputs as numpy arrays, in order."""
    return [value.detach().cpu().contiguous().numpy() for value in as_inputs(example_inputs).tensors]


def _opened(source: Source) -> str | bytes:
    return source if isinstance(source, bytes) else os.fspath(source)
