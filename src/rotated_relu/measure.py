"""Parameters, multiply-accumulates, file size, latency and peak memory of a network."""

from __future__ import annotations

import contextlib
import copy
import platform
import statistics
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from .errors import UnknownNameError
from .export import to_onnx
from .graph import Inputs, as_inputs, check_runs, eval_mode
from .latency import Runnable, compare_latency
from .onnx_session import session_runner
from .openvino_session import openvino, openvino_runner

ENGINES = ("onnxruntime", "openvino", "torch", "torch.compile")
MANY = 2**16  # compiled networks of one class
GRAPH_ENGINES = ENGINES[:2]  # those that run an exported graph
PEAK_METHOD = {
    "cpu": "parameters and buffers plus the largest sum of live tensors during one eager forward pass",
    "cuda": "torch.cuda.max_memory_allocated over one eager forward pass",
}


@dataclass(frozen=True)
class Measurement:
    """What one network costs.

    Attributes:
        parameters: Number of parameters, slopes included, each shared one once.
        conv_linear_weights: Number of weights of convolutions and linear layers (no biases): compare with the
            paper's memory count.
        macs: Multiply-accumulates for one example (convolutions, linear layers, matrix products, attention).
        file_bytes: Size of the state dict as a safetensors file.
        latency_ms: Median time of one warm call at the given batch size.
        latency_p10_ms: 10th percentile of the same.
        latency_p90_ms: 90th percentile of the same.
        peak_memory_bytes: See ``peak_memory_method``.
        peak_memory_method: How the peak was found, in words.
        batch_size: Examples per call.
        engine: What ran the latency calls, with its version.
        device: Processor that ran them.
        threads: Threads that the engine was given.
        repeats: Number of timed samples.
    """

    parameters: int
    conv_linear_weights: int
    macs: int
    file_bytes: int
    latency_ms: float
    latency_p10_ms: float
    latency_p90_ms: float
    peak_memory_bytes: int
    peak_memory_method: str
    batch_size: int
    engine: str
    device: str
    threads: int
    repeats: int

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain data."""
        return asdict(self)


def measure(
    net: nn.Module,
    example_inputs: Inputs,
    *,
    engine: str = "onnxruntime",
    repeats: int = 30,
    warmup: int = 5,
    threads: int | None = None,
) -> Measurement:
    """Measure a network in eval mode; its training flags are restored.

    Args:
        net: Any module; the ``onnxruntime`` engine exports it to memory first.
        example_inputs: A tensor or a tuple of tensors, batch first; the latency is for this batch size.
        engine: ``"onnxruntime"`` or ``"openvino"`` (deployment, on the CPU), ``"torch"`` (eager, on the device of
            the inputs) or ``"torch.compile"``.
        repeats: Timed samples.
        warmup: Untimed calls before them.
        threads: Threads for the engine; torch's own setting if None.

    Raises:
        UnknownNameError: If there is no such engine.
        ShapeError: If the network does not run on the inputs.
        ExportError: If the engine runs ONNX and the network cannot be exported, or OpenVINO is not installed.
    """
    inputs = as_inputs(example_inputs)
    threads = threads or torch.get_num_threads()
    run = runner(net, inputs, engine=engine, threads=threads)
    with eval_mode(net):
        check_runs(net, inputs)
        times = compare_latency({"net": run}, repeats, warmup).milliseconds["net"]
        peak, method = peak_memory(net, inputs)
    device = torch.device("cpu") if engine in GRAPH_ENGINES else inputs[0].device
    return Measurement(
        parameters=count_parameters(net),
        conv_linear_weights=sum(count_weights(net).values()),
        macs=sum(count_macs(net, inputs).values()),
        file_bytes=file_bytes(net),
        latency_ms=statistics.median(times),
        latency_p10_ms=_quantile(times, 0.1),
        latency_p90_ms=_quantile(times, 0.9),
        peak_memory_bytes=peak,
        peak_memory_method=method,
        batch_size=len(inputs[0]),
        engine=f"{engine} {engine_version(engine)}",
        device=device_name(device),
        threads=threads,
        repeats=repeats,
    )


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
    frozen: Any = copy.deepcopy(net).eval()
    if engine == "torch.compile":
        frozen = _compiled(frozen, inputs)
    return lambda: _run_torch(frozen, inputs)


def check_engine(engine: str) -> None:
    """Raise unless there is such an engine and its package is installed.

    Raises:
        UnknownNameError: If there is no such engine.
        ExportError: If OpenVINO is not installed.
    """
    if engine not in ENGINES:
        raise UnknownNameError("engine", engine, ENGINES)
    if engine == "openvino":
        openvino()


def graph_runner(
    content: bytes, example_inputs: Inputs, *, engine: str, threads: int | None = None
) -> Runnable:
    """Return a callable that runs a serialised ONNX model once on the inputs in onnxruntime or OpenVINO."""
    make = openvino_runner if engine == "openvino" else session_runner
    return make(content, example_inputs, threads)


def _compiled(net: nn.Module, inputs: tuple[Any, ...]) -> Any:
    """Compile for these inputs, however many networks of the class have been compiled before.

    Dynamo keeps one cache per ``forward`` function: the ninth network of a class would run uncompiled, without an
    error, and the second shape would make graphs dynamic.
    """
    compiled: Any = torch.compile(net, dynamic=False)
    with torch._dynamo.config.patch(recompile_limit=MANY, accumulated_recompile_limit=MANY):
        _run_torch(compiled, inputs)
    return compiled


def _run_torch(net: nn.Module, inputs: tuple[Any, ...]) -> object:
    with torch.inference_mode():
        result = net(*inputs)
        if inputs[0].is_cuda:
            torch.cuda.synchronize(inputs[0].device)
    return result


def count_parameters(net: nn.Module) -> int:
    """Number of parameters, each shared one once."""
    return sum(parameter.numel() for parameter in net.parameters())


def count_weights(net: nn.Module) -> dict[str, int]:
    """Weights of each convolution and linear layer, biases left out: {module name: count}."""
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    return {name: module.weight.numel() for name, module in net.named_modules() if isinstance(module, kinds)}


def count_macs(net: nn.Module, example_inputs: Inputs) -> dict[str, int]:
    """Multiply-accumulates for one example, per module: {module name: count}, in order of execution.

    Counts convolutions, matrix products and attention by torch's own flop counter, wherever they are called
    from: a functional call counts for the module whose ``forward`` makes it ('' is the root). Elementwise
    work is not counted.
    """
    inputs = as_inputs(example_inputs)
    with eval_mode(net), torch.no_grad(), _plain_attention(), _without_gradients(net):
        check_runs(net, inputs)
        counter = FlopCounterMode(display=False)
        with counter:
            net(*inputs)
    root = type(net).__name__
    totals: dict[str, int] = {}
    for path, operations in counter.get_flop_counts().items():
        if path != "Global":
            totals[path.removeprefix(root).removeprefix(".")] = sum(operations.values())
    own = {name: total - _children(name, totals) for name, total in totals.items()}
    batch = len(inputs[0])
    return {name: flops // (2 * batch) for name, flops in own.items() if flops}


@contextlib.contextmanager
def _without_gradients(net: nn.Module) -> Iterator[None]:
    """The counter stumbles over views of parameters that ask for gradients, such as an expanded class token."""
    wanting = [parameter for parameter in net.parameters() if parameter.requires_grad]
    try:
        for parameter in wanting:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in wanting:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """Run attention as matrix products: the counter does not know every fused kernel."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _children(name: str, totals: dict[str, int]) -> int:
    """Flops of the nearest counted descendants, whose sum is already in the total of ``name``."""
    prefix = f"{name}." if name else ""
    below = [other for other in totals if other != name and other.startswith(prefix)]
    return sum(totals[other] for other in below if not any(_is_under(other, between) for between in below))


def _is_under(name: str, ancestor: str) -> bool:
    return name.startswith(f"{ancestor}.") if ancestor else False


def file_bytes(net: nn.Module) -> int:
    """Size of the state dict as one safetensors file, in bytes; tied tensors are stored once."""
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    seen: set[tuple[int, torch.Size]] = set()
    for name, value in net.state_dict().items():
        if not isinstance(value, Tensor):
            continue
        identity = (value.data_ptr(), value.shape)
        if value.numel() and identity in seen:
            continue
        seen.add(identity)
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    return len(save(tensors))


def peak_memory(net: nn.Module, example_inputs: Inputs) -> tuple[int, str]:
    """Peak bytes of one forward pass, weights and inputs included, and the method in words.

    On the CPU the peak is the largest sum of tensors alive at once, so it is exact and the same on every
    machine, but leaves out scratch space inside an operation.
    """
    inputs = as_inputs(example_inputs)
    with eval_mode(net), torch.no_grad():
        check_runs(net, inputs)
        if inputs[0].is_cuda:
            torch.cuda.reset_peak_memory_stats(inputs[0].device)
            net(*inputs)
            return torch.cuda.max_memory_allocated(inputs[0].device), PEAK_METHOD["cuda"]
        ledger = _Ledger([*net.parameters(), *net.buffers(), *tree_leaves(inputs)])
        with ledger:
            net(*inputs)
    return ledger.peak, PEAK_METHOD["cpu"]


class _Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages of live tensors; a finaliser takes each off when it is freed."""

    def __init__(self, known: Iterable[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._storages: set[int] = set()
        self._note(known)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._note(tree_leaves(result))
        return result

    def _note(self, values: Iterable[Any]) -> None:
        for value in values:
            if not isinstance(value, Tensor):
                continue
            storage = value.untyped_storage()
            address, size = storage._cdata, storage.nbytes()
            if address not in self._storages:
                self._storages.add(address)
                self.live += size
                weakref.finalize(storage, self._forget, address, size)
        self.peak = max(self.peak, self.live)

    def _forget(self, address: int, size: int) -> None:
        self._storages.discard(address)
        self.live -= size


def engine_version(engine: str) -> str:
    """Version of the package behind an engine name."""
    if engine.startswith("torch"):
        return str(torch.__version__)
    if engine == "openvino":
        return str(openvino().__version__)
    import onnxruntime

    return str(onnxruntime.__version__)


def device_name(device: torch.device) -> str:
    """Name of the processor or accelerator, for reports."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _quantile(values: list[float], fraction: float) -> float:
    ordered = sorted(values)
    return ordered[round(fraction * (len(ordered) - 1))]
