"""An engine without a clock: programs return how long they would take, counted from their graphs by simple rules."""

from math import prod

import onnx

from rotated_relu.deploy import engines
from rotated_relu.deploy.conversion import apply_layout, raw_onnx
from rotated_relu.deploy.engines import Engine
from rotated_relu.deploy.latency import measuring, store
from rotated_relu.deploy.layout import EXACT_WIDTHS
from rotated_relu.deploy.timing import LatencyComparison

CALL_MS, START_MS, TAIL_MS = 0.25, 0.01, 0.002
BLOCK = 16
PAIR_MS = 1e-3  # for a pair of blocks of channels and a position of the result


def blocks(width):
    return -(-width // BLOCK)


def convolution_ms(inputs, outputs, positions, kernel):
    """A start, and all pairs of blocks of channels at every position."""
    return START_MS + PAIR_MS * blocks(inputs) * blocks(outputs) * positions * kernel


def linear_ms(inputs, outputs):
    return START_MS + PAIR_MS * inputs * blocks(outputs)


def install(monkeypatch, made, cache=None):
    """Register an engine for one test, in which nothing is timed by a clock; tables go to ``cache``, if given."""
    monkeypatch.setattr(measuring, "compare_latency", without_a_clock)
    monkeypatch.setattr(engines, "ENGINES", dict(engines.ENGINES))
    if cache is not None:
        monkeypatch.setattr(store, "_cache_folder", lambda: cache)
    engines.register_engine(made.engine)
    return made


class ToyEngine:
    """Counts what it starts.

    Attributes:
        started: Number of programs.
        stop_at: At which of them it is interrupted; None for never.
    """

    def __init__(self, name="toy", version="1"):
        self.started, self.stop_at = 0, None
        self.engine = Engine(name, "graph", self._start, lambda: version, ("onnx",))

    def _start(self, content, inputs, threads):
        self.started += 1
        if self.stop_at is not None and self.started >= self.stop_at:
            raise KeyboardInterrupt
        milliseconds = time_of(for_batch_size(onnx.load_from_string(content), inputs.batch_size))
        return lambda: milliseconds


def for_batch_size(model, batch_size):
    """A model that was exported for any batch size, with the shapes of one."""
    if any(value.type.tensor_type.shape.dim[0].dim_param for value in model.graph.input):
        for value in model.graph.input:
            value.type.tensor_type.shape.dim[0].dim_value = batch_size
        del model.graph.value_info[:]
    return model


def exported_ms(net, example_inputs):
    """Time of one call of a network as it is exported for engines with steps, with one example."""
    content = apply_layout(raw_onnx(net, example_inputs), EXACT_WIDTHS).content
    return time_of(for_batch_size(onnx.load_from_string(content), 1))


def time_of(model):
    """Time of one call of a model, in ms."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    inferred = onnx.shape_inference.infer_shapes(model).graph
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        shapes[value.name] = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    return CALL_MS + sum(_node_ms(node, shapes) for node in model.graph.node)


def _node_ms(node, shapes):
    result = shapes[node.output[0]]
    if node.op_type == "Conv":
        outputs, inputs, *kernel = shapes[node.input[1]]
        return convolution_ms(inputs, outputs, result[0] * prod(result[2:]), prod(kernel))
    if node.op_type in ("Gemm", "MatMul") and node.input[1].startswith("weight"):
        return linear_ms(*shapes[node.input[1]])
    attributes = {attribute.name: list(attribute.ints) for attribute in node.attribute}
    is_tail = node.op_type == "MaxPool" and prod(attributes["kernel_shape"]) == 1
    return TAIL_MS if is_tail else START_MS if node.op_type != "Relu" else 0.0


def without_a_clock(runs, repeats=30, warmup=5, min_sample_ms=2.0):
    """In place of ``compare_latency``: every round takes what the programs return."""
    return LatencyComparison({name: [float(run())] * repeats for name, run in runs.items()})
