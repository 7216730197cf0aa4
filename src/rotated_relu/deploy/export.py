"""Export a network to one ONNX file, verified in onnxruntime before the file appears under its name."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..core.errors import ExportError, FileFormatError
from ..core.extras import EXTRAS, needs
from ..core.files import replacing
from ..core.graph_layout import GraphLayout
from ..core.modules import Call, Flat, Inputs, as_inputs, unwrap
from ..core.nested import tensors_in
from ..core.state import check_fit, trial
from ..nn.folding import as_plain
from .layout import EXACT_WIDTHS
from .onnx_model import KeptSlopes, OnnxModel
from .sessions import OnnxRuntimeSession, OpenVinoSession, openvino

OPSET = 20
MAX_FILE_BYTES = 2**31 - 1  # protobuf's limit for one message


@dataclass(frozen=True)
class ExportReport:
    """What was exported and how closely it matches.

    Attributes:
        path: The file.
        file_bytes: Its size.
        opset: Version of the ONNX operator set.
        folded_slopes: Activations whose slopes went into the weights around them: they cost nothing.
        kept_slopes: Activations whose slopes the file still multiplies by, each with the reason.
        batch_sizes: Batch sizes at which the engine was compared with torch.
        image_sizes: Height and width of images at which it was, for a file with dynamic size.
        max_relative_difference: Largest difference of any output entry, over the largest entry of that
            output.
        max_absolute_difference: Largest difference of any output entry.
        tolerance: The relative difference that was allowed.
    """

    path: str
    file_bytes: int
    opset: int
    folded_slopes: int
    kept_slopes: tuple[KeptSlopes, ...]
    batch_sizes: tuple[int, ...]
    image_sizes: tuple[tuple[int, ...], ...]
    max_relative_difference: float
    max_absolute_difference: float
    tolerance: float

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain data."""
        data = asdict(self)
        lists = {key: list(value) for key, value in data.items() if isinstance(value, tuple)}
        return {**data, **lists}


def export_onnx(
    net: nn.Module,
    example_inputs: Inputs,
    path: str | os.PathLike[str],
    *,
    tolerance: float = 1e-4,
    batch_sizes: Sequence[int] = (1, 3),
    dynamic_size: bool = False,
    layout: GraphLayout | None = None,
) -> ExportReport:
    """Export a network in eval mode to one ONNX file with a dynamic batch dimension.

    Batch norms are folded into convolutions, slopes into the weights around them where that is exact, and residual
    streams become as narrow as their consumers allow. The result is compared with the network in onnxruntime at every
    batch size, and only then renamed into place.

    Args:
        net: Any module that ``torch.export`` accepts; unchanged, training flags restored.
        example_inputs: As in :func:`rotated_relu.rotate`; the first dimension of each tensor is the batch if they
            share it.
        path: The ``.onnx`` file; its folder must exist. An older file stays in place until the new one is
            verified.
        tolerance: Largest relative difference allowed between onnxruntime and torch.
        batch_sizes: Batch sizes to compare at, beside that of the examples.
        dynamic_size: Leave height and width of images (inputs of rank 4) free as well; also compared at a larger size.
        layout: How residual streams and widths are laid out; :func:`~rotated_relu.deploy.fastest.fastest_layout`
            finds the best for an engine. The default adds no padding.

    Returns:
        A report with the difference found, the slopes that stayed, the opset and the file size.

    Raises:
        ShapeError: If the network does not run on the inputs.
        ExportError: If it cannot be exported, differs by more than the tolerance, or cannot be written.
    """
    net, inputs = unwrap(net), as_inputs(example_inputs)
    model = to_onnx(net, inputs, layout=layout, dynamic_size=dynamic_size)
    try:
        session = OnnxRuntimeSession(model.content)
    except FileFormatError as error:
        raise ExportError(f"the exported model does not load: {error}") from error
    verified = verify(
        net,
        inputs,
        session.run,
        "onnxruntime",
        tolerance,
        batch_sizes,
        dynamic_size,
    )
    target = Path(path)
    _write(model.content, target)
    return report_of(target, len(model.content), model, verified)


def export_openvino(
    net: nn.Module,
    example_inputs: Inputs,
    path: str | os.PathLike[str],
    *,
    tolerance: float = 1e-4,
    batch_sizes: Sequence[int] = (1, 3),
    dynamic_size: bool = False,
    layout: GraphLayout | None = None,
) -> ExportReport:
    """Export a network to OpenVINO's own format: an ``.xml`` file and the ``.bin`` file of weights beside it.

    The arguments, the comparison with torch and the report are those of :func:`export_onnx`, with OpenVINO in place of
    onnxruntime; the path must end in ``.xml``.

    Raises:
        ShapeError: If the network does not run on the inputs.
        MissingPackageError: If OpenVINO is not installed.
        ExportError: As :func:`export_onnx`.
    """
    net, inputs, target = unwrap(net), as_inputs(example_inputs), Path(path)
    if target.suffix != ".xml":
        raise ExportError(
            f"an OpenVINO model is a pair of files, .xml and .bin: name the .xml file, not {target.name}"
        )
    model = to_onnx(net, inputs, layout=layout, dynamic_size=dynamic_size)
    session = OpenVinoSession(model.content)
    verified = verify(net, inputs, session.run, "OpenVINO", tolerance, batch_sizes, dynamic_size)
    return report_of(target, save_openvino(model.content, target), model, verified)


def to_onnx(
    net: nn.Module, example_inputs: Inputs, *, layout: GraphLayout | None = None, dynamic_size: bool = False
) -> OnnxModel:
    """Convert a network to a serialised ONNX model, unchecked.

    Raises:
        ShapeError: If the network does not run on the inputs.
        ExportError: If torch cannot export the network, or the model exceeds 2 GB.
    """
    return apply_layout(raw_onnx(net, example_inputs, dynamic_size=dynamic_size), layout)


def raw_onnx(net: nn.Module, example_inputs: Inputs, *, dynamic_size: bool = False) -> OnnxModel:
    """The first half of :func:`to_onnx`: what torch exports, with slopes folded, before any layout is given to it."""
    needs(*EXTRAS["onnx"])
    from .passes.pipelines import fold_slopes

    net, inputs = as_plain(unwrap(net)), as_inputs(example_inputs)
    check_fit(net, inputs)
    # A batch of one would be taken for a constant.
    examples = inputs.of_size(max(inputs.batch_size, 2))
    shapes: Any = tuple(_free_dimensions(value, inputs, dynamic_size) for value in inputs.args)
    exported, arguments = net, examples.copied().args
    if not _is_plain(net, inputs):
        exported, arguments = Flat(net, examples), tuple(examples.copied().tensors)
        shapes = (tuple(_free_dimensions(value, inputs, dynamic_size) for value in inputs.tensors),)
    try:
        with trial(net), _quiet():
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
    return OnnxModel(content, folded, kept)


def apply_layout(raw: OnnxModel, layout: GraphLayout | None = None) -> OnnxModel:
    """The second half of :func:`to_onnx`: narrow the graph of :func:`raw_onnx`."""
    import onnx
    import onnx_ir

    from .passes.pipelines import lay_out

    model = onnx_ir.serde.deserialize_model(onnx.load_from_string(raw.content))
    with _quiet():
        kept = lay_out(model, layout or EXACT_WIDTHS)
    content = onnx_ir.serde.serialize_model(model).SerializeToString()
    return OnnxModel(content, raw.folded_slopes + len(raw.kept_slopes) - len(kept), kept)


def _is_plain(net: nn.Module, inputs: Call) -> bool:
    """Whether the exporter takes inputs and outputs as they are: tensors by position, and containers that it knows."""
    if inputs.kwargs or not all(isinstance(value, (Tensor, type(None), bool)) for value in inputs.args):
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


class Proof(NamedTuple):
    """Where an engine was compared with torch, and the largest differences found."""

    relative: float
    absolute: float
    tolerance: float
    batch_sizes: tuple[int, ...]
    image_sizes: tuple[tuple[int, ...], ...]


def verify(
    net: nn.Module,
    inputs: Call,
    execute: Callable[[Call], list[Tensor]],
    engine: str,
    tolerance: float,
    batch_sizes: Sequence[int],
    dynamic_size: bool = False,
) -> Proof:
    """Compare an engine with torch at several batch sizes, and at larger images if their size is free.

    Raises:
        ExportError: If one of the two does not run, or they differ by more than the tolerance.
    """
    sizes = tuple(dict.fromkeys([*batch_sizes, inputs.batch_size]))
    trials = [(f"batch size {size}", _resized(inputs, size)) for size in sizes]
    images = []
    if dynamic_size:
        grown = _larger_images(inputs)
        images = [tuple(value.shape[2:]) for value in (inputs.tensors[0], grown.tensors[0])]
        trials.append((f"image size {images[1]}", grown))
    relative = absolute = 0.0
    with trial(net):
        for where, call in trials:
            found = _compared(net, execute, call, engine, where)
            relative, absolute = max(relative, found[0]), max(absolute, found[1])
            if not found[0] <= tolerance:
                raise ExportError(
                    f"{engine} and torch differ by {found[0]:.3g} relative ({found[1]:.3g} absolute) at "
                    f"{where}, more than the tolerance of {tolerance:g}; nothing was written"
                )
    return Proof(relative, absolute, tolerance, sizes, tuple(images))


def report_of(target: Path, file_bytes: int, model: OnnxModel, proof: Proof) -> ExportReport:
    """The report on a file that was verified and written."""
    return ExportReport(
        path=str(target),
        file_bytes=file_bytes,
        opset=OPSET,
        folded_slopes=model.folded_slopes,
        kept_slopes=model.kept_slopes,
        batch_sizes=proof.batch_sizes,
        image_sizes=proof.image_sizes,
        max_relative_difference=proof.relative,
        max_absolute_difference=proof.absolute,
        tolerance=proof.tolerance,
    )


def _compared(
    net: nn.Module,
    execute: Callable[[Call], list[Tensor]],
    call: Call,
    engine: str,
    where: str,
) -> tuple[float, float]:
    try:
        expected = tensors_in(call.run(net))
    except Exception as error:
        raise ExportError(
            f"the network itself does not run at {where}: {_reason(error)}; pass what it accepts"
        ) from error
    try:
        found = execute(call)
    except Exception as error:
        raise ExportError(
            f"{engine} cannot run the exported model at {where}: {_reason(error)}; "
            "the network may have its batch size written into a reshape"
        ) from error
    return _difference(expected, found, where, engine)


def _larger_images(inputs: Call) -> Call:
    """The inputs with images of half as much again in height, twice in width."""
    return inputs.map(
        lambda value: (
            torch.nn.functional.interpolate(value, size=(value.shape[2] * 3 // 2, value.shape[3] * 2))
            if value.dim() == 4
            else value
        )
    )


def _difference(
    expected: Sequence[Tensor], found: Sequence[Tensor], where: str, engine: str
) -> tuple[float, float]:
    if [value.shape for value in expected] != [value.shape for value in found]:
        shapes = [[tuple(value.shape) for value in values] for values in (expected, found)]
        raise ExportError(f"at {where} torch returns shapes {shapes[0]}, {engine} {shapes[1]}")
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


def _resized(inputs: Call, size: int) -> Call:
    """Repeat the examples to another batch size; floating-point rows get noise so that they differ."""
    generator = torch.Generator().manual_seed(size)

    def other(value: Tensor) -> Tensor:
        if not inputs.has_batch(value):
            return value
        value = inputs.repeated(value, size)
        if not value.is_floating_point():
            return value
        return value + torch.randn(value.shape, generator=generator).to(value)

    return inputs.map(other)


def _write(content: bytes, target: Path) -> None:
    """Write beside the target, then rename."""
    try:
        with replacing(target) as beside:
            beside.write_bytes(content)
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
