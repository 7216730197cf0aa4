"""Read weights that somebody else wrote, and fill a network with them.

Requires: a file of tensors. Ensures: nothing in it is executed (``weights_only=True``), what wraps the tensors is taken
off, and where they do not fit, the first difference is named. A network that could not be filled is as it was before.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import FileFormatError, PlanError
from ...core.modules import WRAPPER_PREFIXES

SUFFIXES = (".safetensors", ".pt", ".pth", ".th", ".bin", ".ckpt")
# Under which a training script keeps the weights, beside epochs and optimizers; the first that is there counts. A
# moving average comes first: it is what its owner evaluated.
WRAPPERS = (
    "model_ema",
    "ema_state_dict",
    "state_dict_ema",
    "ema",
    "state_dict",
    "model_state_dict",
    "model",
    "params",
    "net",
)


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a file by name.

    Args:
        path: ``.safetensors``, or what ``torch.save`` wrote of a state dict, alone or within a checkpoint.

    Raises:
        FileFormatError: If there is no such file, it cannot be read without executing what it holds, or it holds no
            tensors by name.
    """
    file = Path(path)
    if not file.is_file():
        raise FileFormatError(f"{file}: there is no such file of weights")
    found = _safetensors(file) if file.suffix == ".safetensors" else _torch(file)
    return _without_prefixes(_unwrapped(found, file))


def _safetensors(file: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise FileFormatError(f"{file} is not a safetensors file: {error}") from error


def _torch(file: Path) -> Any:
    try:
        # Weights are often written on a machine with a GPU.
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or foreign archive makes the reader raise
        raise FileFormatError(
            f"{file} cannot be read as tensors alone ({_short(error)}); a file that holds whole modules would have to "
            "be executed: save the weights by themselves, torch.save(net.state_dict(), ...)"
        ) from error


def _unwrapped(found: Any, file: Path) -> dict[str, Tensor]:
    """The mapping of names to tensors, within whatever a training script put around it."""
    for _ in range(3):  # checkpoints nest: {"state_dict": {"model": {...}}}
        if not isinstance(found, Mapping):
            break
        tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
        if tensors:
            return tensors
        inner = next((found[key] for key in WRAPPERS if isinstance(found.get(key), Mapping)), None)
        if inner is None:
            break
        found = inner
    keys = ", ".join(map(repr, list(found)[:6])) if isinstance(found, Mapping) else type(found).__name__
    raise FileFormatError(
        f"{file} holds no tensors by name; found: {keys}; expected a state dict, alone or under {', '.join(WRAPPERS)}"
    )


def _without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as the network itself has them: what wrapped it put the same prefix before all of them."""
    while state:
        prefix = next(
            (prefix for prefix in WRAPPER_PREFIXES if all(name.startswith(prefix) for name in state)), None
        )
        if prefix is None:
            break
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def renamed(state: Mapping[str, Tensor], renames: Mapping[str, str]) -> dict[str, Tensor]:
    """Names that begin with a module of ``renames`` begin with what it maps to.

    Raises:
        PlanError: If no name begins with one of them.
    """
    made = dict(state)
    for old, new in renames.items():
        hit = {name for name in made if name == old or name.startswith(old + ".")}
        if not hit:
            raise PlanError(f"no tensor of the weights begins with {old!r}; they begin with {_heads(made)}")
        made = {new + name.removeprefix(old) if name in hit else name: value for name, value in made.items()}
    return made


def fill(net: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Copy weights into a network, in place.

    ``num_batches_tracked`` of batch norms may be missing: it counts batches, and no output depends on it.

    Raises:
        PlanError: If a name is missing or left over, or a shape differs; names the first and how many there are. The
            network is as it was.
    """
    own = net.state_dict()
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    left = [name for name in state if name not in own and not name.endswith("num_batches_tracked")]
    shapes = [name for name in own if name in state and own[name].shape != state[name].shape]
    if missing or left:
        raise PlanError(_names_differ(own, state, missing, left))
    if shapes:
        name = shapes[0]
        raise PlanError(
            f"{name} has shape {tuple(state[name].shape)} in the weights and {tuple(own[name].shape)} in the network "
            f"({len(shapes)} such difference{'s' if len(shapes) > 1 else ''}); build the network with the options that "
            "the weights were made with, for example its number of classes"
        )
    net.load_state_dict({name: value for name, value in state.items() if name in own}, strict=False)
    return net


def _names_differ(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], missing: list[str], left: list[str]
) -> str:
    said = []
    if missing:
        said.append(f"the weights lack {missing[0]!r} of the network ({len(missing)} in all)")
    if left:
        said.append(f"they hold {left[0]!r} that it has not ({len(left)} in all)")
    hint = "build the network that the weights belong to"
    pair = _same_module(own, state, missing, left)
    if pair:
        hint = f"if both are the same layer, rename it: {pair[0]}={pair[1]}"
    return "; ".join([*said, hint])


def _same_module(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], missing: list[str], left: list[str]
) -> tuple[str, str] | None:
    """The first module of the weights, and one of the network that lacks just its tensors, shapes included."""
    if not (missing and left):
        return None
    old, new = left[0].rpartition(".")[0], missing[0].rpartition(".")[0]
    shapes = {name.removeprefix(old): state[name].shape for name in left if name.rpartition(".")[0] == old}
    wanted = {name.removeprefix(new): own[name].shape for name in missing if name.rpartition(".")[0] == new}
    return (old, new) if old and new and shapes == wanted else None


def _heads(state: Mapping[str, Tensor]) -> str:
    return ", ".join(sorted({name.split(".")[0] for name in state})[:12])


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
