"""Convert a network to a serialised ONNX model, in memory and unchecked.

Two halves, so that several layouts of one network cost one export: :func:`raw_onnx` lets torch export and folds slopes,
:func:`apply_layout` narrows. Ensures: the network is as it was, whatever happens: modes, weights, buffers, caches.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..core.errors import ExportError
from ..core.extras import EXTRAS, needs
from ..core.graph_layout import GraphLayout
from ..core.modules import Call, Flat, Inputs, as_inputs, first_line, unwrap
from ..core.state import check_fit, trial
from ..nn.folding import as_plain
from .layout import EXACT_WIDTHS
from .onnx_model import OnnxModel

OPSET = 20
MAX_FILE_BYTES = 2**31 - 1  # protobuf's limit for one message, which engines read


def to_onnx(
    net: nn.Module, example_inputs: Inputs, *, layout: GraphLayout | None = None, dynamic_size: bool = False
) -> OnnxModel:
    """Convert a network in a layout.

    Args:
        net: Any module that ``torch.export`` accepts; unchanged.
        example_inputs: As in :func:`rotated_relu.rotate`; the first dimension is the batch, which stays free.
        layout: See :mod:`.layout`; exact widths if None.
        dynamic_size: Leave height and width of images (inputs of rank 4) free as well.

    Raises:
        MissingPackageError: If a package of the extra ``onnx`` is not installed.
        ShapeError: If the network does not run on the inputs.
        ExportError: If torch cannot export the network, or the model exceeds 2 GB.
    """
    return apply_layout(raw_onnx(net, example_inputs, dynamic_size=dynamic_size), layout)


def raw_onnx(net: nn.Module, example_inputs: Inputs, *, dynamic_size: bool = False) -> OnnxModel:
    """The first half of :func:`to_onnx`: what torch exports, with slopes folded, before any layout is given to it."""
    needs(*EXTRAS["onnx"])
    net, inputs = as_plain(unwrap(net)), as_inputs(example_inputs)
    check_fit(net, inputs)
    _check_size(_bytes_read(net, inputs), "the weights alone have")
    try:
        content, folded, kept = _exported(net, inputs, dynamic_size)
    except Exception as error:
        raise ExportError(
            f"{type(net).__name__} cannot be exported to ONNX: {reason(error)}; "
            "check that torch.export accepts it with a dynamic batch dimension"
        ) from error
    _check_size(len(content), "the ONNX model has")
    return OnnxModel(content, folded, kept)


def apply_layout(raw: OnnxModel, layout: GraphLayout | None = None) -> OnnxModel:
    """The second half of :func:`to_onnx`: narrow the graph of :func:`raw_onnx`."""
    needs(*EXTRAS["onnx"])
    import onnx
    import onnx_ir

    from .passes.pipelines import lay_out

    model = onnx_ir.serde.deserialize_model(onnx.load_from_string(raw.content))
    with quiet():
        kept = lay_out(model, layout or EXACT_WIDTHS)
    content = onnx_ir.serde.serialize_model(model).SerializeToString()
    return OnnxModel(content, raw.folded_slopes + len(raw.kept_slopes) - len(kept), kept)


def _exported(net: nn.Module, inputs: Call, dynamic_size: bool) -> tuple[bytes, int, tuple[Any, ...]]:
    """Serialised model, how many slopes were folded, and those that stay."""
    from .passes.pipelines import fold_slopes

    # A batch of one would be taken for a constant.
    examples = inputs.of_size(max(inputs.batch_size, 2))
    shapes: Any = tuple(_free_dimensions(value, inputs, dynamic_size) for value in inputs.args)
    exported, arguments = net, examples.copied().args
    if not _is_plain(net, inputs):
        exported, arguments = Flat(net, examples), tuple(examples.copied().tensors)
        shapes = (tuple(_free_dimensions(value, inputs, dynamic_size) for value in inputs.tensors),)
    with trial(net), quiet():
        program = torch.onnx.export(
            exported,
            arguments,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=shapes,
            external_data=False,
            verbose=False,
        )
        assert program is not None
        folded, kept = fold_slopes(program.model)
        return program.model_proto.SerializeToString(), folded, kept


def _is_plain(net: nn.Module, inputs: Call) -> bool:
    """Whether the exporter takes inputs and outputs as they are: tensors by position, and containers that it knows."""
    if inputs.kwargs or not all(isinstance(value, (Tensor, type(None), bool)) for value in inputs.args):
        return False
    # With *args all shapes would be those of one parameter.
    if any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(net.forward).parameters.values()):
        return False
    with trial(net):
        outputs = inputs.run(net)
    return all(isinstance(leaf, (Tensor, type(None))) for leaf in tree_leaves(outputs))


def _free_dimensions(value: Any, inputs: Call, dynamic_size: bool) -> dict[int, str] | None:
    """Names of the dimensions of an input that stay free."""
    if not inputs.has_batch(value):
        return None
    image = dynamic_size and value.dim() == 4
    return {0: "batch", 2: "height", 3: "width"} if image else {0: "batch"}


# --- what one file can hold -----------------------------------------------------------------------------------------


def _check_size(count: int, what: str) -> None:
    if count > MAX_FILE_BYTES:
        raise ExportError(f"{what} {count} bytes, more than the 2 GB that one file may have")


def _bytes_read(net: nn.Module, inputs: Call) -> int:
    """Bytes of weights that a forward pass reads, found by one where they could be too many."""
    weights = {value.data_ptr(): value.nbytes for value in [*net.parameters(), *net.buffers()]}
    if sum(weights.values()) <= MAX_FILE_BYTES:
        return sum(weights.values())
    with trial(net), _Reads() as read:
        inputs.run(net)
    return sum(count for pointer, count in weights.items() if pointer in read.pointers)


class _Reads(TorchDispatchMode):
    """Notes which memory operations read."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.pointers: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.pointers |= {leaf.data_ptr() for leaf in tree_leaves(args) if isinstance(leaf, Tensor)}
        return func(*args, **(kwargs or {}))


# --- the exporter's noise -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep progress, warnings and log lines of exporters off the terminal."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


def reason(error: BaseException) -> str:
    """First telling line of an exception, looking at its cause where the exporter wraps it."""
    return first_line(error.__cause__ or error)
