"""Parameters, multiply-accumulates, file size, latency and peak memory of a network."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from ..core.arguments import checked
from ..core.counting import count_macs, count_parameters, count_weights, file_bytes, peak_memory
from ..core.environment import device_name
from ..core.errors import ArgumentError
from ..core.modules import Inputs, as_inputs, unwrap
from ..core.state import check_fit
from .engines import engine_named, runner
from .timing import compare_latency


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


@checked("threads")
def measure(
    net: nn.Module,
    example_inputs: Inputs,
    *,
    engine: str = "onnxruntime",
    repeats: int = 30,
    warmup: int = 5,
    threads: int | None = None,
) -> Measurement:
    """Measure a network in eval mode; nothing of it changes.

    Args:
        net: Any module; the ``onnxruntime`` engine exports it to memory first.
        example_inputs: As in :func:`rotated_relu.rotate`, batch first; the latency is for this batch size.
        engine: ``"onnxruntime"`` or ``"openvino"`` (deployment, on the CPU), ``"torch"`` (eager, on the device of
            the inputs) or ``"torch.compile"``.
        repeats: Timed samples.
        warmup: Untimed calls before them.
        threads: Threads for the engine; torch's own setting if None.

    Raises:
        UnknownNameError: If there is no such engine.
        ShapeError: If the network does not run on the inputs.
        ExportError: If the engine runs ONNX and the network cannot be exported.
        MissingPackageError: If the engine is not installed.
        ArgumentError: If ``threads`` or ``repeats`` is no integer of at least 1.
    """
    if repeats < 1:
        raise ArgumentError(f"measure needs at least one timed sample, got repeats={repeats}")
    net, inputs = unwrap(net), as_inputs(example_inputs)
    threads = torch.get_num_threads() if threads is None else threads
    run = runner(net, inputs, engine=engine, threads=threads)
    check_fit(net, inputs)
    times = compare_latency({"net": run}, repeats, warmup).milliseconds["net"]
    peak, method = peak_memory(net, inputs)
    device = torch.device("cpu") if engine_named(engine).kind == "graph" else inputs.device
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
        batch_size=inputs.batch_size,
        engine=engine_named(engine).label,
        device=device_name(device),
        threads=threads,
        repeats=repeats,
    )


def _quantile(values: list[float], fraction: float) -> float:
    ordered = sorted(values)
    return ordered[round(fraction * (len(ordered) - 1))]
