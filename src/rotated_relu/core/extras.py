"""Optional packages: which extra brings which, and one line for who lacks one.

``pip install rotated-relu`` brings torch, numpy, scipy and safetensors. Whatever else is imported, is imported inside
the function that uses it, after :func:`needs` has said so.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import ModuleType

from .errors import MissingPackageError

# Extra of pyproject.toml -> packages that it brings, under the name that they are imported by.
EXTRAS: dict[str, tuple[str, ...]] = {
    "attack": ("torchattack",),
    "cli": ("typer", "rich", "pydantic", "platformdirs"),
    "compare": ("torch_pruning",),
    "huggingface": ("transformers", "accelerate"),
    "lightning": ("lightning",),
    "onnx": ("onnx", "onnx_ir", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "report": ("jinja2", "plotly"),
    "rivals": ("modelopt", "torchprofile", "onnxsim"),
    "timm": ("timm",),
    "train": (
        "pydantic",
        "torchvision",
        "lightning_fabric",
        "datasets",
        "mlxtend",
        "PIL",
        "tensorboard",
        "rich",
    ),
    "wandb": ("wandb",),
}


def needs(*packages: str) -> None:
    """Say that what follows needs these packages.

    Args:
        packages: Top-level names as imported; the message names the extras that bring them (:data:`EXTRAS`).

    Raises:
        MissingPackageError: If one is not installed; names them all and the command that installs them.
    """
    missing = [package for package in packages if not is_installed(package)]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise MissingPackageError(
            f"{', '.join(missing)} {verb} not installed: pip install {' '.join(_to_install(missing))}"
        )


def is_installed(package: str) -> bool:
    """Whether a package can be imported, without importing it."""
    if package in sys.modules:
        return sys.modules[package] is not None
    return find_spec(package) is not None


@contextlib.contextmanager
def only_the_version(package: str) -> Iterator[None]:
    """Let imports within find nothing but the version of a package that nobody has imported.

    For a library that imports another one, and all that this imports in turn, to compare its version.
    """
    found = None if package in sys.modules else _with_version(package)
    if found is None:
        yield
        return
    sys.modules[package] = found
    try:
        yield
    finally:
        sys.modules.pop(package)


def _with_version(package: str) -> ModuleType | None:
    """A module that knows its version and nothing else; None if it is not known without importing it."""
    found = ModuleType(package)
    try:
        found.__version__ = version(package)  # type: ignore[attr-defined]
    except PackageNotFoundError:
        return None
    found.__spec__ = find_spec(package)
    return found


def _to_install(missing: Sequence[str]) -> list[str]:
    """What brings packages: extras of ours, and by name what none of them has, such as the engine of a user."""
    extras = {package: _extra_of(package) for package in missing}
    ours = sorted({extra for extra in extras.values() if extra})
    others = [package for package, extra in extras.items() if not extra]
    return [*([f"'rotated-relu[{','.join(ours)}]'"] if ours else []), *others]


def _extra_of(package: str) -> str | None:
    return next((extra for extra, brought in EXTRAS.items() if package in brought), None)
