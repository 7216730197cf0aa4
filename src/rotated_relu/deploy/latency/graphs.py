"""Probes as serialised ONNX models, operations in the form in which export writes them.

Requires: the packages of the extra ``onnx``. Ensures: a model with fixed shapes and random weights, whose inputs are
:func:`feeds`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ...core.errors import LatencyError
from ...core.extras import EXTRAS, needs
from ...core.modules import Call
from ..conversion import OPSET
from .probe import CONVOLUTIONS, FUSABLE, THIN, Probe

IR_VERSION = 10


@dataclass
class Program:
    """A model and inputs for it.

    Attributes:
        content: Serialised.
        inputs: As many as it takes.
        tails: Tails in it.
    """

    content: bytes
    inputs: Call
    tails: int = 0


@dataclass
class _Writer:
    """Collects nodes, weights and inputs of a model."""

    random: np.random.Generator
    nodes: list[Any] = field(default_factory=list)
    weights: list[Any] = field(default_factory=list)
    inputs: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    tails: int = 0

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """One node; returns the name of its result."""
        from onnx import helper

        name = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def weight(self, *shape: int) -> str:
        """Random numbers of a shape, positive for the sake of variances."""
        from onnx import numpy_helper

        values = self.random.uniform(0.01, 0.1, shape).astype(np.float32)
        return self.constant(numpy_helper.from_array(values, f"weight_{len(self.weights)}"))

    def integers(self, *values: int) -> str:
        """A list of integers."""
        from onnx import numpy_helper

        return self.constant(
            numpy_helper.from_array(np.array(values, np.int64), f"numbers_{len(self.weights)}")
        )

    def input(self, *shape: int) -> str:
        """An input of the model."""
        name = f"input_{len(self.inputs)}"
        self.inputs.append((name, shape))
        return name

    def constant(self, tensor: Any) -> str:
        """A tensor that the model holds."""
        self.weights.append(tensor)
        return str(tensor.name)

    def program(self) -> Program:
        """The model."""
        from onnx import TensorProto, helper

        inputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in self.inputs
        ]
        outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in self.outputs]
        graph = helper.make_graph(self.nodes, "probe", inputs, outputs, self.weights)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )
        feeds = [self.random.uniform(-1, 1, shape).astype(np.float32) for _, shape in self.inputs]
        return Program(model.SerializeToString(), Call(*map(torch.from_numpy, feeds)), self.tails)


def graph_of(probe: Probe) -> Program:
    """The model with the copies of a probe.

    Raises:
        MissingPackageError: If a package of the extra ``onnx`` is not installed.
        LatencyError: If operations of this kind cannot be measured.
    """
    needs(*EXTRAS["onnx"])
    if probe.geometry.kind not in OPERATIONS:
        raise LatencyError(
            f"operations of the kind {probe.geometry.kind} cannot be measured yet: {probe.geometry}"
        )
    writer = _Writer(np.random.default_rng(zlib.crc32(repr(probe).encode())))
    if probe.on_images:
        _write_images(writer, probe)
    else:
        _write_tokens(writer, probe)
    return writer.program()


def tails_graph(batch_size: int, count: int) -> Program:
    """A producer with some tails: what is left of a model without operations."""
    writer = _Writer(np.random.default_rng(count))
    x = writer.input(batch_size, THIN, 16, 16)
    y = _producer(writer, x, THIN, 2)
    # Equal tails would be merged.
    writer.outputs = [
        writer.add("MaxPool", y, kernel_shape=[1, 1], strides=[16 - n, 16]) for n in range(count)
    ]
    return writer.program()


def call_graph(batch_size: int) -> Program:
    """The smallest model: one entry per example."""
    writer = _Writer(np.random.default_rng(0))
    writer.outputs = [writer.add("Relu", writer.input(batch_size, 1))]
    return writer.program()


def _write_images(writer: _Writer, probe: Probe) -> None:
    x = writer.input(probe.batch_size, THIN, *probe.geometry.size)
    makers = 1 if probe.shares_input else probe.copies
    sources = [_source(writer, probe, x, probe.read) for _ in range(makers)]
    extras = [_second_operand(writer, probe) for _ in range(probe.copies)]
    if probe.bare:
        made = [*sources, *(extra for extra in extras if extra and probe.geometry.kind != "mul")]
        writer.outputs = [_tail(writer, name, _size_of(probe, name, sources)) for name in made]
        return
    for source, extra in zip(sources * (probe.copies // makers), extras, strict=True):
        result = OPERATIONS[probe.geometry.kind](writer, probe, source, extra)
        writer.outputs.append(_tail(writer, _behind(writer, probe, result, extra), probe.result_size))


def _size_of(probe: Probe, name: str, sources: list[str]) -> tuple[int, ...]:
    return probe.geometry.size if name in sources else probe.result_size


def _write_tokens(writer: _Writer, probe: Probe) -> None:
    if probe.bare:
        writer.outputs = [writer.add("Relu", writer.input(probe.batch_size, 1))]
        return
    shared = writer.input(*probe.input_shape) if probe.shares_input else ""
    for _ in range(probe.copies):
        source, extra = shared or writer.input(*probe.input_shape), _second_operand(writer, probe)
        result = OPERATIONS[probe.geometry.kind](writer, probe, source, extra)
        writer.outputs.append(_behind(writer, probe, result, extra))


def _source(writer: _Writer, probe: Probe, x: str, channels: int) -> str:
    """What an operation reads; behind a pool, where it would else go into the producer."""
    rank = len(probe.geometry.size)
    made = _producer(writer, x, channels, rank)
    if probe.geometry.kind not in FUSABLE:
        return made
    return writer.add("MaxPool", made, kernel_shape=[2] * rank, pads=[0] * rank + [1] * rank)


def _producer(writer: _Writer, x: str, channels: int, rank: int) -> str:
    return writer.add("Conv", x, writer.weight(channels, THIN, *(1,) * rank), writer.weight(channels))


def _tail(writer: _Writer, result: str, size: tuple[int, ...]) -> str:
    if all(length == 1 for length in size):
        return result
    writer.tails += 1
    return writer.add("MaxPool", result, kernel_shape=[1] * len(size), strides=list(size))


def _second_operand(writer: _Writer, probe: Probe) -> str:
    """What is added, multiplied or concatenated besides what is read; '' if nothing is."""
    kind, size, addition = probe.geometry.kind, probe.geometry.size, probe.geometry.addition
    if not addition and kind not in ("add", "mul", "concat"):
        return ""
    width = probe.joined if kind == "concat" else probe.outputs
    if not probe.on_images:
        return writer.input(probe.batch_size, *size, width)
    if kind == "mul":
        return writer.input(probe.batch_size, probe.outputs, *(1,) * len(size))  # a factor per channel
    x = writer.input(probe.batch_size, THIN, *probe.result_size)
    return _source(writer, probe, x, width)


def _behind(writer: _Writer, probe: Probe, result: str, extra: str) -> str:
    """The addition, the activation and the slopes behind an operation."""
    geometry = probe.geometry
    if geometry.addition:
        result = writer.add("Add", result, extra)
    if geometry.activation and geometry.kind != "activation":
        result = activation(writer, geometry.activation, result)
    if geometry.slopes and geometry.kind != "add_constant":
        result = writer.add("Mul", result, writer.weight(*probe.per_channel))
    return result


# --- operations -----------------------------------------------------------------------------------------------------


def _convolution(writer: _Writer, probe: Probe, x: str, _: str) -> str:
    geometry = probe.geometry
    groups = probe.outputs // geometry.group[1] if geometry.group else 1
    read = geometry.group[0] if geometry.group else probe.inputs
    transposed = geometry.kind == "transposed"
    pair = (probe.inputs, probe.outputs // groups) if transposed else (probe.outputs, read)
    return writer.add(
        "ConvTranspose" if transposed else "Conv",
        x,
        writer.weight(*pair, *geometry.kernel),
        writer.weight(probe.outputs),
        kernel_shape=list(geometry.kernel),
        strides=list(geometry.stride),
        pads=[*geometry.padding, *geometry.padding],
        dilations=list(geometry.dilation),
        group=groups,
    )


def _linear(writer: _Writer, probe: Probe, x: str, _: str) -> str:
    weight, bias = writer.weight(probe.inputs, probe.outputs), writer.weight(probe.outputs)
    if not probe.geometry.size:
        return writer.add("Gemm", x, weight, bias)
    return writer.add("Add", writer.add("MatMul", x, weight), bias)


def _batch_norm(writer: _Writer, probe: Probe, x: str, _: str) -> str:
    return writer.add("BatchNormalization", x, *(writer.weight(probe.outputs) for _ in range(4)))


def _add_constant(writer: _Writer, probe: Probe, x: str, _: str) -> str:
    """A number per channel; with slopes, export lets a 1x1 convolution multiply and add."""
    if not (probe.geometry.slopes and probe.on_images):
        return writer.add("Add", x, writer.weight(*probe.per_channel))
    ones = (1,) * len(probe.geometry.size)
    return writer.add(
        "Conv", x, writer.weight(probe.outputs, probe.outputs, *ones), writer.weight(probe.outputs)
    )


def _layer_norm(writer: _Writer, probe: Probe, x: str, _: str) -> str:
    axis, shape = 1 if probe.on_images else -1, probe.per_channel
    return writer.add("LayerNormalization", x, writer.weight(*shape), writer.weight(*shape), axis=axis)


def _group_norm(writer: _Writer, probe: Probe, x: str, _: str) -> str:
    return writer.add("InstanceNormalization", x, writer.weight(probe.outputs), writer.weight(probe.outputs))


def _pool(writer: _Writer, probe: Probe, x: str, _: str) -> str:
    geometry = probe.geometry
    return writer.add(
        "MaxPool" if geometry.kind == "max_pool" else "AveragePool",
        x,
        kernel_shape=list(geometry.kernel),
        strides=list(geometry.stride),
        pads=[*geometry.padding, *geometry.padding],
    )


def _attention(writer: _Writer, probe: Probe, x: str, extra: str) -> str:
    heads, _, length = probe.geometry.size
    keys, values = (
        writer.input(probe.batch_size * heads, length, width) for width in (probe.inputs, probe.outputs)
    )
    scores = writer.add("MatMul", x, writer.add("Transpose", keys, perm=[0, 2, 1]))
    return writer.add("MatMul", writer.add("Softmax", scores, axis=-1), values)


def _product(writer: _Writer, probe: Probe, x: str, _: str) -> str:
    heads = probe.geometry.size[0]
    return writer.add("MatMul", x, writer.input(probe.batch_size * heads, probe.inputs, probe.outputs))


def _upsample(writer: _Writer, probe: Probe, x: str, _: str) -> str:
    from onnx import numpy_helper

    scales = np.array([1, 1, *(2,) * len(probe.geometry.size)], np.float32)
    scale = writer.constant(numpy_helper.from_array(scales, f"scales_{len(writer.weights)}"))
    return writer.add(
        "Resize",
        x,
        "",
        scale,
        mode="nearest",
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )


def activation(writer: _Writer, name: str, x: str) -> str:
    """An activation as export writes it."""
    if name == "relu6":
        return writer.add("Min", writer.add("Relu", x), writer.weight())
    if name == "silu":
        return writer.add("Mul", x, writer.add("Sigmoid", x))
    if name not in ACTIVATIONS:
        raise LatencyError(f"the activation {name} cannot be measured yet")
    return writer.add(ACTIVATIONS[name], x)


ACTIVATIONS = {
    "relu": "Relu",
    "gelu": "Gelu",
    "sigmoid": "Sigmoid",
    "hardsigmoid": "HardSigmoid",
    "hardswish": "HardSwish",
    "tanh": "Tanh",
    "mish": "Mish",
    "leaky_relu": "LeakyRelu",
    "elu": "Elu",
    "selu": "Selu",
    "celu": "Celu",
    "softplus": "Softplus",
}
OPERATIONS: dict[str, Callable[[_Writer, Probe, str, str], str]] = {
    **dict.fromkeys((*CONVOLUTIONS, "shortcut"), _convolution),  # export makes shortcuts convolutions
    "linear": _linear,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "max_pool": _pool,
    "average_pool": _pool,
    "mean": lambda writer, probe, x, _: writer.add("GlobalAveragePool", x),
    "upsample": _upsample,
    "attention": _attention,
    "matmul": _product,
    "softmax": lambda writer, probe, x, _: writer.add("Softmax", x, axis=-1),
    "add": lambda writer, probe, x, extra: writer.add("Add", x, extra),
    "mul": lambda writer, probe, x, extra: writer.add("Mul", x, extra),
    "add_constant": _add_constant,
    "concat": lambda writer, probe, x, extra: writer.add(
        "Concat", x, extra, axis=1 if probe.on_images else -1
    ),
    "activation": lambda writer, probe, x, _: activation(writer, probe.geometry.activation, x),
}
