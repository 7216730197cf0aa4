"""Export a network to files for engines, verified in their engine before they appear under their names.

Bad arguments, an unwritable place and missing packages are found before the work; what existed stays until the new file
is verified.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..core.arguments import checked, need_path
from ..core.errors import ExportError, FileFormatError
from ..core.extras import EXTRAS, needs
from ..core.files import check_place, replacing
from ..core.graph_layout import GraphLayout
from ..core.modules import Inputs, as_inputs, unwrap
from .conversion import OPSET, to_onnx
from .onnx_model import KeptSlopes, with_metadata
from .sessions import OnnxRuntimeSession, OpenVinoSession, Session, openvino, read_openvino
from .verification import BATCH_SIZES, TOLERANCE, CheckOptions, Checks, verify

if TYPE_CHECKING:
    from typing_extensions import Unpack  # Python has it from 3.11 on


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
        max_relative_difference: Largest difference of any output entry, relative to its size or, if that is larger, the
            common size of entries of that output.
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


@checked("path")
def export_onnx(
    net: nn.Module,
    example_inputs: Inputs,
    path: str | os.PathLike[str],
    *,
    tolerance: float = TOLERANCE,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    dynamic_size: bool = False,
    layout: GraphLayout | None = None,
    metadata: Mapping[str, str] | None = None,
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
        metadata: Text by key for the model's ``metadata_props``, which every engine can read.

    Returns:
        A report with the difference found, the slopes that stayed, the opset and the file size.

    Raises:
        ShapeError: If the network does not run on the inputs.
        ExportError: If it cannot be exported, differs by more than the tolerance, or cannot be written.
    """
    checks = Checks(tolerance, batch_sizes, dynamic_size)
    return _export(net, example_inputs, need_path(path), ONNX, checks, layout, metadata)


@checked("path")
def export_openvino(
    net: nn.Module,
    example_inputs: Inputs,
    path: str | os.PathLike[str],
    *,
    layout: GraphLayout | None = None,
    metadata: Mapping[str, str] | None = None,
    **checks: Unpack[CheckOptions],
) -> ExportReport:
    """Export a network to OpenVINO's own format: an ``.xml`` file and the ``.bin`` file of weights beside it.

    The arguments, the comparison with torch and the report are those of :func:`export_onnx`, with OpenVINO in place of
    onnxruntime.

    Args:
        net: As there.
        example_inputs: As there.
        path: The ``.xml`` file.
        layout: As there.
        metadata: As there.
        **checks: ``tolerance``, ``batch_sizes`` and ``dynamic_size``, as there.

    Raises:
        ShapeError: If the network does not run on the inputs.
        MissingPackageError: If OpenVINO is not installed.
        ExportError: As :func:`export_onnx`.
    """
    target = need_path(path)
    if target.suffix != ".xml":
        raise ExportError(
            f"an OpenVINO model is a pair of files, .xml and .bin: name the .xml file, not {target.name}"
        )
    return _export(net, example_inputs, target, OPENVINO, Checks(**checks), layout, metadata)


@dataclass(frozen=True)
class _Format:
    """A kind of file.

    Attributes:
        engine: What it is verified in, as messages call it.
        packages: What must be installed.
        open: Opens a serialised ONNX model in that engine.
        write: Writes a serialised ONNX model as such a file; returns the bytes written.
    """

    engine: str
    packages: tuple[str, ...]
    open: Callable[[bytes], Session]
    write: Callable[[bytes, Path], int]


def _export(
    net: nn.Module,
    example_inputs: Inputs,
    target: Path,
    format: _Format,
    checks: Checks,
    layout: GraphLayout | None,
    metadata: Mapping[str, str] | None,
) -> ExportReport:
    net, inputs = unwrap(net), as_inputs(example_inputs)
    checks.check(inputs)
    needs(*format.packages)
    check_target(target)
    model = to_onnx(net, inputs, layout=layout, dynamic_size=checks.dynamic_size)
    try:
        session = format.open(model.content)
    except FileFormatError as error:
        raise ExportError(f"the exported model does not load: {error}") from error
    verified = verify(net, inputs, session.run, format.engine, checks)
    with writing(target):
        file_bytes = format.write(with_metadata(model.content, metadata or {}), target)
    return ExportReport(
        path=str(target),
        file_bytes=file_bytes,
        opset=OPSET,
        folded_slopes=model.folded_slopes,
        kept_slopes=model.kept_slopes,
        batch_sizes=verified.batch_sizes,
        image_sizes=verified.image_sizes,
        max_relative_difference=verified.relative,
        max_absolute_difference=verified.absolute,
        tolerance=checks.tolerance,
    )


def check_target(target: Path) -> None:
    """Find out before the work whether a file can be written.

    Raises:
        ExportError: If not; says why.
    """
    with writing(target):
        check_place(target)


@contextlib.contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn what the disk says into an :class:`ExportError` that names the file."""
    try:
        yield
    except OSError as error:
        raise ExportError(f"cannot write {target}: {error.strerror or error}") from error


def _write_onnx(content: bytes, target: Path) -> int:
    with replacing(target) as beside:
        beside.write_bytes(content)
    return len(content)


def _write_openvino(content: bytes, target: Path) -> int:
    """Write the pair of files, both beside and then renamed: the weights before the graph that reads them."""
    package = openvino()
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        written = Path(folder) / target.name
        try:
            package.save_model(read_openvino(content), written, compress_to_fp16=False)
        except RuntimeError as error:
            last = str(error).strip().splitlines()[-1]
            raise ExportError(f"OpenVINO cannot convert the model: {last}") from error
        weights = target.with_suffix(".bin")
        # Both are complete before the first gets its name; the inner one does first.
        with replacing(target) as graph_beside, replacing(weights) as weights_beside:
            os.replace(written, graph_beside)
            os.replace(written.with_suffix(".bin"), weights_beside)
    return target.stat().st_size + weights.stat().st_size


ONNX = _Format("onnxruntime", EXTRAS["onnx"], OnnxRuntimeSession, _write_onnx)
OPENVINO = _Format("OpenVINO", (*EXTRAS["onnx"], "openvino"), OpenVinoSession, _write_openvino)
