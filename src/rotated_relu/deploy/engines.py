"""The engines that run networks, behind one interface."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..core.errors import UnknownNameError
from ..core.extras import EXTRAS, needs
from ..core.modules import Call, Inputs, as_inputs, unwrap
from ..core.state import copy_of
from .export import to_onnx
from .onnx_session import session_runner
from .openvino_session import openvino, openvino_runner
from .timing import Runnable

ENGINES = ("onnxruntime", "openvino", "torch", "torch.compile")
MANY = 2**16  # compiled networks of one class
GRAPH_ENGINES = ENGINES[:2]  # those that run an exported graph


def runner(
    net: nn.Module, example_inputs: Inputs, *, engine: str = "onnxruntime", threads: int | None = None
) -> Runnable:
    """Return a callable that runs the network once on the inputs, for :func:`compare_latency`.

    It runs a frozen copy in eval mode, so it does not follow later changes of the network. ``torch.compile`` compiles
    at once, for the shapes of these inputs.

    Raises:
        UnknownNameError: If there is no such engine.
    """
    check_engine(engine)
    inputs = as_inputs(example_inputs)
    if engine in GRAPH_ENGINES:
        return graph_runner(to_onnx(net, inputs).content, inputs, engine=engine, threads=threads)
    frozen: Any = copy_of(unwrap(net)).eval()
    if engine == "torch.compile":
        frozen = _compiled(frozen, inputs)
    own = inputs.copied()  # once: what is timed is the network alone
    return lambda: _run_torch(frozen, own)


def check_engine(engine: str) -> None:
    """Raise unless there is such an engine and its package is installed.

    Raises:
        UnknownNameError: If there is no such engine.
        MissingPackageError: If the engine is not installed.
    """
    if engine not in ENGINES:
        raise UnknownNameError("engine", engine, ENGINES)
    if not engine.startswith("torch"):
        needs(*EXTRAS["onnx"])
    if engine == "openvino":
        openvino()


def graph_runner(
    content: bytes, example_inputs: Inputs, *, engine: str, threads: int | None = None
) -> Runnable:
    """Return a callable that runs a serialised ONNX model once on the inputs in onnxruntime or OpenVINO."""
    make = openvino_runner if engine == "openvino" else session_runner
    return make(content, example_inputs, threads)


def _compiled(net: nn.Module, inputs: Call) -> Any:
    """Compile for these inputs, however many networks of the class have been compiled before.

    Dynamo keeps one cache per ``forward`` function: the ninth network of a class would run uncompiled, without an
    error, and the second shape would make graphs dynamic.
    """
    compiled: Any = torch.compile(net, dynamic=False)
    with torch._dynamo.config.patch(recompile_limit=MANY, accumulated_recompile_limit=MANY):
        _run_torch(compiled, inputs.copied())
    return compiled


def engine_version(engine: str) -> str:
    """Version of the package behind an engine name."""
    if engine.startswith("torch"):
        return str(torch.__version__)
    if engine == "openvino":
        return str(openvino().__version__)
    needs("onnxruntime")
    import onnxruntime

    return str(onnxruntime.__version__)


def _run_torch(net: nn.Module, inputs: Call) -> object:
    with torch.inference_mode():
        result = net(*inputs.args, **inputs.kwargs)
        if inputs.device.type == "cuda":
            torch.cuda.synchronize(inputs.device)
    return result
