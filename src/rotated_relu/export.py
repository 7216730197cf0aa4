"""Export a network to one ONNX file, proved equal in onnxruntime before the file appears under its name."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .errors import ExportError, FileFormatError
from .graph import Inputs, as_inputs, check_runs, eval_mode
from .latency import Runnable
from .onnx_session import open_session, run_session, session_runner
from .onnx_slopes import fold_slopes_into_readers

OPSET = 20
MAX_FILE_BYTES = 2**31 - 1  # protobuf's limit for one message


@dataclass(frozen=True)
class ExportReport:
    """What was exported and how closely it matches.

    Attributes:
        path: The file.
        file_bytes: Its size.
        opset: Version of the ONNX operator set.
        folded_slopes: Slopes multiplied into the weights of their readers.
        batch_sizes: Batch sizes at which onnxruntime was compared with torch.
        max_relative_difference: Largest difference of any output entry, over the largest entry of that
            output.
        max_absolute_difference: Largest difference of any output entry.
        tolerance: The relative difference that was allowed.
    """

    path: str
    file_bytes: int
    opset: int
    folded_slopes: int
    batch_sizes: tuple[int, ...]
    max_relative_difference: float
    max_absolute_difference: float
    tolerance: float

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain data."""
        return {**asdict(self), "batch_sizes": list(self.batch_sizes)}


def export_onnx(
    net: nn.Module,
    example_inputs: Inputs,
    path: str | os.PathLike[str],
    *,
    tolerance: float = 1e-4,
    batch_sizes: Sequence[int] = (1, 3),
) -> ExportReport:
    """Export a network in eval mode to one ONNX file with a dynamic batch dimension.

    Batch norms are folded into convolutions, and slopes into the weights of their readers where that is
    exact. The result is compared with the network in onnxruntime at every batch size, and only then renamed
    into place.

    Args:
        net: Any module that ``torch.export`` accepts; unchanged, training flags restored.
        example_inputs: A tensor or a tuple of tensors; the first dimension of each is the batch if they share
            it.
        path: The ``.onnx`` file; its folder must exist. An older file stays in place until the new one is
            proved.
        tolerance: Largest relative difference allowed between onnxruntime and torch.
        batch_sizes: Batch sizes to compare at, beside that of the examples.

    Returns:
        A report with the difference found, the opset and the file size.

    Raises:
        ShapeError: If the network does not run on the inputs.
        ExportError: If it cannot be exported, differs by more than the tolerance, or cannot be written.
    """
    net, inputs = _inner(net), as_inputs(example_inputs)
    sizes = tuple(dict.fromkeys([*batch_sizes, len(inputs[0])]))
    content, folded = to_onnx(net, inputs)
    with eval_mode(net):
        relative, absolute = _compare(net, content, inputs, sizes, tolerance)
    target = Path(path)
    _write(content, target)
    return ExportReport(str(target), len(content), OPSET, folded, sizes, relative, absolute, tolerance)


def to_onnx(net: nn.Module, example_inputs: Inputs) -> tuple[bytes, int]:
    """Convert a network to a serialised ONNX model, unchecked; also return how many slopes were folded away.

    Raises:
        ShapeError: If the network does not run on the inputs.
        ExportError: If torch cannot export the network, or the model exceeds 2 GB.
    """
    net, inputs = _inner(net), as_inputs(example_inputs)
    with eval_mode(net):
        check_runs(net, inputs)
    batch = len(inputs[0])
    # A batch of one would be taken for a constant.
    examples = _resized(inputs, batch, max(batch, 2), noise=False)
    shapes = tuple({0: "batch"} if _has_batch(value, batch) else None for value in inputs)
    try:
        with eval_mode(net), torch.no_grad(), _quiet():
            program = torch.onnx.export(
                net,
                examples,
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=shapes,
                external_data=False,
                verbose=False,
            )
            assert program is not None
            folded = fold_slopes_into_readers(program.model)
            _drop_metadata(program.model)
            content: bytes = program.model_proto.SerializeToString()
    except Exception as error:
        raise ExportError(
            f"{type(net).__name__} cannot be exported to ONNX: {_reason(error)}; "
            "check that torch.export accepts it with a dynamic batch dimension"
        ) from error
    if len(content) > MAX_FILE_BYTES:
        raise ExportError(
            f"the ONNX model has {len(content)} bytes, more than the 2 GB that one file may have"
        )
    return content, folded


def _drop_metadata(model: Any) -> None:
    """Leave out the exporter's notes: stack traces with the paths of this machine."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph:
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()


def onnx_runner(net: nn.Module, example_inputs: Inputs, threads: int | None = None) -> Runnable:
    """Export a network to memory and return a callable that runs it once in onnxruntime on the inputs."""
    content, _ = to_onnx(net, example_inputs)
    return session_runner(content, example_inputs, threads)


def _inner(net: nn.Module) -> nn.Module:
    """The module inside the wrapper that ``torch.compile`` returns."""
    inner = getattr(net, "_orig_mod", net)
    assert isinstance(inner, nn.Module)
    return inner


def _compare(
    net: nn.Module, content: bytes, inputs: tuple[Any, ...], sizes: Sequence[int], tolerance: float
) -> tuple[float, float]:
    """Largest relative and absolute difference between onnxruntime and torch over all batch sizes."""
    try:
        session = open_session(content)
    except FileFormatError as error:
        raise ExportError(f"the exported model does not load: {error}") from error
    worst_relative = worst_absolute = 0.0
    for size in sizes:
        trial = _resized(inputs, len(inputs[0]), size, noise=True)
        try:
            with torch.no_grad():
                expected = [leaf for leaf in tree_leaves(net(*trial)) if isinstance(leaf, Tensor)]
        except Exception as error:
            raise ExportError(
                f"the network itself does not run at batch size {size}: {_reason(error)}; "
                "pass batch_sizes that it accepts"
            ) from error
        try:
            found = run_session(session, trial)
        except Exception as error:
            raise ExportError(
                f"onnxruntime cannot run the exported model at batch size {size}: {_reason(error)}; "
                "the network may have its batch size written into a reshape"
            ) from error
        relative, absolute = _difference(expected, found, size)
        worst_relative, worst_absolute = max(worst_relative, relative), max(worst_absolute, absolute)
        if not relative <= tolerance:
            raise ExportError(
                f"onnxruntime and torch differ by {relative:.3g} relative ({absolute:.3g} absolute) at "
                f"batch size {size}, more than the tolerance of {tolerance:g}; nothing was written"
            )
    return worst_relative, worst_absolute


def _difference(expected: Sequence[Tensor], found: Sequence[Tensor], size: int) -> tuple[float, float]:
    if [value.shape for value in expected] != [value.shape for value in found]:
        shapes = [[tuple(value.shape) for value in values] for values in (expected, found)]
        raise ExportError(f"at batch size {size} torch returns shapes {shapes[0]}, onnxruntime {shapes[1]}")
    relative = absolute = 0.0
    for one, other in zip(expected, found, strict=True):
        if not one.numel():
            continue
        one, other = one.detach().cpu().double(), other.double()
        gap = float((one - other).abs().max())
        if gap != gap:  # NaN on one side only is a difference, on both it is not
            same = torch.equal(one.isnan(), other.isnan())
            gap = float((one - other).abs().nan_to_num(0).max()) if same else float("inf")
        scale = float(one.abs().nan_to_num(0).max())
        absolute, relative = max(absolute, gap), max(relative, gap / scale if scale else gap)
    return relative, absolute


def _has_batch(value: Any, batch: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) == batch


def _resized(inputs: tuple[Any, ...], batch: int, size: int, noise: bool) -> tuple[Any, ...]:
    """Repeat the examples to another batch size; floating-point rows get noise so that they differ."""
    generator = torch.Generator().manual_seed(size)
    result = []
    for value in inputs:
        if _has_batch(value, batch):
            value = value[torch.arange(size, device=value.device) % batch]
            if noise and value.is_floating_point():
                value = value + torch.randn(value.shape, generator=generator).to(value)
        result.append(value)
    return tuple(result)


def _write(content: bytes, target: Path) -> None:
    """Write beside the target, then rename."""
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
            os.chmod(temporary, 0o644)
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ExportError(f"cannot write {target}: {error.strerror or error}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress, warnings and log lines off the terminal."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


def _reason(error: BaseException) -> str:
    """First telling line of an exception, looking at its cause where the exporter wraps it."""
    cause = error.__cause__ or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(cause).__name__
