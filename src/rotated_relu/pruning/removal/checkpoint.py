"""Save a compacted network and load it into a fresh copy of the original; never a pickle.

Format: one safetensors file. The tensors are the compacted state dict; the header's metadata holds the plan and the
certificate as JSON. Loading builds on the user's own network: rotate if needed, apply the plan, fill in the tensors.
"""

from __future__ import annotations

import itertools
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from ...core.arguments import check_fields, checked, need_path
from ...core.errors import (
    ArgumentError,
    CaptureError,
    FileFormatError,
    PlanError,
    RotatedReLUWarning,
    RotationError,
    ShapeError,
)
from ...core.files import replacing
from ...core.graph_layout import Tuned
from ...core.modules import (
    WRAPPER_PREFIXES,
    Call,
    check_values,
    eval_mode,
    first_line,
    has_lazy,
    initialise_lazy,
    unwrap,
)
from ...core.plain_data import build
from ...core.state import copy_of, ordinary_tensors
from ...nn.folding import plain_training
from ...nn.rotate import rotate, unrotate
from ...nn.slopes import rotated_modules, slopes
from .compact import Compacted
from .plan import Plan
from .plan_checks import check_numbers
from .recorded_inputs import replay
from .surgery import apply, earlier_plans, named_states
from .verify import Certificate

_PLAN, _CERTIFICATE, _FORMAT = "rotated_relu.plan", "rotated_relu.certificate", "rotated_relu.format"
_TUNED = "rotated_relu.tuned"


@checked("result", "path")
def save(
    result: Compacted, path: str | os.PathLike[str], *, metadata: Mapping[str, str] | None = None
) -> Path:
    """Write a compacted network: tensors, plan and certificate in one safetensors file.

    Args:
        result: From :func:`compact`; or the same with a ``model`` that was trained on since.
        path: File to write. It is written beside and renamed, so that an existing file stays whole on failure.
        metadata: Further text for the file's header, by key: what the network's inputs are, for example.

    Returns:
        The path.

    Raises:
        ArgumentError: If it is no result of :func:`compact`, its plan has been tampered with, or metadata is no text.
        PlanError: If its ``model`` is not the network that its plan made.
        FileFormatError: If the file cannot be written (directory missing, read-only, disk full).
    """
    if not isinstance(result, Compacted):
        raise ArgumentError(
            f"save takes the result of rotated_relu.compact, which holds the plan, got {type(result).__name__}: pass "
            "the result itself, not its model"
        )
    check_fields(result.plan)
    model = unwrap(result.model)
    _check_made_by(result.plan, model)
    header = {
        **(metadata or {}),
        _FORMAT: "1",
        _PLAN: json.dumps(result.plan.to_dict()),
        _CERTIFICATE: json.dumps(result.certificate.to_dict()),
    }
    if result.tuned is not None:
        header[_TUNED] = json.dumps(result.tuned.to_dict())
    return write_tensors(model.state_dict(), path, header)


def load(path: str | os.PathLike[str], fresh_net: nn.Module) -> nn.Module:
    """Load a compacted network.

    Args:
        path: File written by :func:`save`.
        fresh_net: The original network, rotated or not; its weights do not matter. It is not changed, but that
            layers without a width yet (``nn.LazyLinear``) get theirs. Of a network that was compacted several times,
            any stage will do.

    Returns:
        A compacted network of the same class in ``fresh_net``'s mode and on its device, with the saved tensors.

    Raises:
        FileFormatError: If the file is missing, truncated, no safetensors file, or has no plan.
        PlanError: If the plan is for another network; names the first difference.
    """
    return load_compacted(path, fresh_net).model


@ordinary_tensors()
def load_compacted(path: str | os.PathLike[str], fresh_net: nn.Module) -> Compacted:
    """:func:`load`, with plan, certificate, and what was timed to choose it."""
    plan, certificate = read_plan(path)
    check_values(unwrap(fresh_net))
    _give_widths(plan, unwrap(fresh_net))
    net = plain_training(copy_of(unwrap(fresh_net)))
    prefix = _foreign_prefix(plan, net)
    plan = _without_prefix(plan, prefix)
    net = _rotated_like(plan.earlier[0] if plan.earlier else plan, net)
    for step in [*plan.earlier, plan][len(earlier_plans(net)) :]:
        _carry_out(step, net)
    tensors = {name.removeprefix(prefix): value for name, value in read_tensors(path).items()}
    with eval_mode(net):
        net.train()  # so modules learn that their weights will be others, and drop what they keep of them
        _fill(net, tensors, path)
    return Compacted(net, plan, certificate, tuned=read_tuned(path))


def _give_widths(plan: Plan, net: nn.Module) -> None:
    """Run layers without a width yet (``nn.LazyLinear``) once, on inputs of the shapes that the plan recorded."""
    if not has_lazy(net):
        return
    inputs = (plan.earlier[0] if plan.earlier else plan).inputs
    try:
        initialise_lazy(net, replay(inputs, torch.device("cpu")))
    except ShapeError as error:
        raise PlanError(
            f"the network has layers without a width yet, and the plan's inputs do not give them one ({error}); run it "
            "once on inputs of yours, then load"
        ) from error


def _carry_out(plan: Plan, net: nn.Module) -> None:
    try:
        apply(plan, net)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise PlanError(f"the plan cannot be carried out on this network: {first_line(error)}") from error


def _foreign_prefix(plan: Plan, net: nn.Module) -> str:
    """What a wrapper around the network put before all names of a plan; files of 0.1.0 may have it."""
    for prefix in WRAPPER_PREFIXES:
        inside = all(name.startswith(prefix) for name in plan.states)
        if plan.states and inside and not all(name.startswith(prefix) for name in named_states(net)):
            return prefix
    return ""


def _without_prefix(plan: Plan, prefix: str) -> Plan:
    def stripped(value: Any) -> Any:
        if isinstance(value, str):
            return value.removeprefix(prefix)
        if isinstance(value, list):
            return [stripped(item) for item in value]
        if isinstance(value, dict):
            return {stripped(key): stripped(item) for key, item in value.items()}
        return value

    return Plan.from_dict(stripped(plan.to_dict())) if prefix else plan


def _check_made_by(plan: Plan, model: nn.Module) -> None:
    states = named_states(model)
    for cut in plan.cuts:
        value = states.get(cut.name)
        sizes = [_kept(size, keep) for size, keep in itertools.zip_longest(cut.shape, cut.keep)]
        if value is None or list(value.shape) != sizes:
            raise PlanError(
                f"the model is not the one that the plan made: {cut.name} is "
                f"{'missing' if value is None else list(value.shape)}, by the plan it is {sizes}"
            )


def _kept(size: int, keep: Any) -> int:
    if keep is None:
        return size
    return len(keep[0]) if keep and isinstance(keep[0], list) else len(keep)


def read_plan(path: str | os.PathLike[str]) -> tuple[Plan, Certificate]:
    """Plan and certificate of a file, without its tensors.

    Raises:
        FileFormatError: If the file is missing, truncated, no safetensors file, or has no plan.
        PlanError: If the plan's format is newer than this library.
    """
    with _opened(path) as file:
        metadata = file.metadata() or {}
    if _PLAN not in metadata or _CERTIFICATE not in metadata:
        raise FileFormatError(
            f"{path} is a safetensors file without a compaction plan: not written by rotated-relu"
        )
    try:
        plan = Plan.from_dict(json.loads(metadata[_PLAN]))
        certificate = build(Certificate, json.loads(metadata[_CERTIFICATE]), "the certificate")
    except (json.JSONDecodeError, RecursionError, TypeError) as error:
        raise FileFormatError(f"{path}: the plan in its header cannot be read ({error})") from error
    check_numbers(plan)
    return plan, certificate


def is_compacted(path: str | os.PathLike[str]) -> bool:
    """Whether a file holds a compacted network, with its plan, rather than a whole one.

    Raises:
        FileFormatError: If the file is missing, truncated or no safetensors file.
    """
    with _opened(path) as file:
        return _PLAN in (file.metadata() or {})


def read_tuned(path: str | os.PathLike[str]) -> Tuned | None:
    """What was timed to choose the compaction in a file; None if nothing was, or the file is of 0.1.0.

    Raises:
        FileFormatError: If the file is missing, truncated, no safetensors file, or its header is damaged.
    """
    with _opened(path) as file:
        metadata = file.metadata() or {}
    try:
        return Tuned.from_dict(json.loads(metadata[_TUNED])) if _TUNED in metadata else None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"{path}: the layout in its header cannot be read ({error})") from error


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU.

    Raises:
        FileFormatError: If the file is missing, truncated or no safetensors file.
    """
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict


def write_tensors(
    tensors: Mapping[str, Tensor], path: str | os.PathLike[str], metadata: dict[str, str] | None = None
) -> Path:
    """Write a state dict as safetensors, beside and then renamed. Shared tensors are written once per name.

    Raises:
        FileFormatError: If the file cannot be written; what existed is kept.
    """
    path = need_path(path)
    other = next((name for name, value in tensors.items() if not isinstance(value, Tensor)), None)
    if other is not None:
        raise FileFormatError(
            f"cannot write {path}: the state dict holds {other}, a {type(tensors[other]).__name__}, and a safetensors "
            "file holds tensors alone"
        )
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    try:
        with replacing(path) as beside:
            # Not by save_file, which words a full disk as an error of its own.
            beside.write_bytes(to_bytes(plain, metadata=metadata))
    except (KeyError, OSError, RuntimeError, SafetensorError, ValueError) as error:
        raise FileFormatError(
            f"cannot write {path}: {getattr(error, 'strerror', None) or error}; check that the directory exists, is "
            "writable and has space left"
        ) from error
    return path


def _opened(path: str | os.PathLike[str]) -> Any:
    path = need_path(path)
    try:
        return safe_open(os.fspath(path), framework="pt")
    except FileNotFoundError as error:
        raise FileFormatError(f"{path} does not exist") from error
    except (SafetensorError, OSError) as error:
        raise FileFormatError(f"{path} is truncated, corrupt, or no safetensors file: {error}") from error


def _rotated_like(plan: Plan, net: nn.Module) -> nn.Module:
    """Put slopes into an unrotated network, on inputs of the shapes that the plan recorded."""
    if slopes(net) or not plan.slopes:
        return net
    device = next((parameter.device for parameter in net.parameters()), torch.device("cpu"))
    inputs = _in_precision_of(net, replay(plan.inputs, device))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RotatedReLUWarning)
            rotate(net, inputs)
            # A stem that stays plain, for example.
            unrotate(net, [name for name in rotated_modules(net) if f"{name}.slope" not in plan.slopes])
            return net
    except (ShapeError, CaptureError, RotationError) as error:
        raise PlanError(
            f"the plan is for another network, or it takes other inputs than {inputs.described()}: slopes cannot be "
            f"put into this one ({error}); if it is the right one, rotate it first, with "
            "rotated_relu.rotate(net, example_inputs)"
        ) from error


def _in_precision_of(net: nn.Module, inputs: Call) -> Call:
    """Inputs in the precision of the network: a fresh one is in float32 still, or the other way round."""
    floats = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
    own = next((value.dtype for value in net.parameters() if value.dtype in floats), torch.float32)
    return inputs.map(lambda value: value.to(own) if value.dtype in floats else value)


def _fill(net: nn.Module, tensors: Mapping[str, Tensor], path: Any) -> None:
    own = net.state_dict()
    for name, value in own.items():
        if name not in tensors:
            raise PlanError(f"{path} has no tensor {name}: the plan is for another network")
        if tensors[name].shape != value.shape:
            raise PlanError(
                f"{path}: {name} is {tuple(tensors[name].shape)}, the network needs {tuple(value.shape)}"
            )
    extra = next((name for name in tensors if name not in own), None)
    if extra is not None:
        raise PlanError(
            f"{path} has a tensor {extra} that the network does not: the plan is for another network"
        )
    for name, value in tensors.items():
        own_dtype = own[name].dtype
        if own_dtype != value.dtype:
            _set_dtype(net, name, value.dtype)
    net.load_state_dict(dict(tensors))


def _set_dtype(net: nn.Module, name: str, dtype: torch.dtype) -> None:
    """Keep the dtype of the file: loading must give bitwise what was saved."""
    path, _, leaf = name.rpartition(".")
    module = net.get_submodule(path)
    if leaf in module._parameters:
        parameter = module._parameters[leaf]
        assert parameter is not None
        parameter.data = parameter.data.to(dtype)
    else:
        buffer = module._buffers[leaf]
        assert buffer is not None
        module._buffers[leaf] = buffer.to(dtype)
