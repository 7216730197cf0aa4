"""From what a person types to a network: ours, torchvision's, timm's, or a function of their own.

Code of the user runs only in :meth:`Architecture.build`, and only where the name says so (``file.py:function``,
``package.module:function``): whoever reads the name from a file asks first, see ``runs_code``.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ...core.errors import RotationError, UnknownNameError
from ...core.extras import needs

TIMM = "timm/"
FORMS = "a name of ours or torchvision's (resnet18), timm/NAME, file.py:function or package.module:function"


@dataclass(frozen=True)
class Architecture:
    """Which network, without weights.

    Attributes:
        kind: ``own``, ``torchvision``, ``timm``, ``file`` or ``import``.
        name: As typed.
        options: Keyword arguments of its builder.
    """

    kind: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def runs_code(self) -> bool:
        """Whether building it runs code that neither we nor a library of models wrote."""
        return self.kind in ("file", "import")

    def build(self, num_classes: int) -> nn.Module:
        """The network with fresh weights.

        Args:
            num_classes: Number of outputs; a function of the user is called with its options alone.

        Raises:
            RotationError: If the function cannot be found, fails, or returns no module.
            MissingPackageError: If the library is not installed.
            UnknownNameError: If the library has no such model.
        """
        builders: dict[str, Callable[[int], nn.Module]] = {
            "own": self._own,
            "torchvision": self._own,
            "timm": self._timm,
            "file": self._user,
            "import": self._user,
        }
        return builders[self.kind](num_classes)

    def _own(self, num_classes: int) -> nn.Module:
        from ...nn.models import create

        return self._called(lambda: create(self.name, num_classes, rotated=False, **self.options))

    def _timm(self, num_classes: int) -> nn.Module:
        needs("timm")
        import timm

        name = self.name.removeprefix(TIMM)
        if not timm.is_model(name):
            raise UnknownNameError(
                "model of timm", name, timm.list_models(pretrained=True) + timm.list_models()
            )
        options = {"num_classes": num_classes, **self.options}
        return self._called(lambda: timm.create_model(name, pretrained=False, **options))

    def _user(self, num_classes: int) -> nn.Module:
        del num_classes
        function = _function(self.kind, self.name)
        return self._called(lambda: function(**self.options))

    def _called(self, build: Callable[[], Any]) -> nn.Module:
        try:
            net = build()
        except Exception as error:
            if type(error).__module__.startswith("rotated_relu."):
                raise
            raise RotationError(
                f"building {self.name} with {dict(self.options) or 'no options'} failed: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not isinstance(net, nn.Module):
            raise RotationError(
                f"{self.name} returned {type(net).__name__}, not a torch.nn.Module; it must return the network"
            )
        return net


def is_brought(name: str) -> bool:
    """Whether a name is neither ours nor torchvision's: timm's, or a function of the user."""
    return name.startswith(TIMM) or ":" in name


def parse(name: str, options: Mapping[str, Any] | None = None) -> Architecture:
    """What a typed name means; nothing is built, and no code of the user runs.

    Raises:
        UnknownNameError: If it is none of the forms and no name of ours or torchvision's.
        RotationError: If a file is named that does not exist.
    """
    options = dict(options or {})
    if name.startswith(TIMM):
        return Architecture("timm", name, options)
    place, colon, function = name.rpartition(":")
    if colon and place and function:
        if not place.endswith(".py"):
            return Architecture("import", name, options)
        if not Path(place).is_file():
            raise RotationError(f"{place}: there is no such file; --model takes {FORMS}")
        # Absolute, so that the run means the same file from wherever it is continued.
        return Architecture("file", f"{Path(place).resolve()}:{function}", options)
    from ...nn.models import names
    from ...nn.models.registry import OWN

    if name in OWN:
        return Architecture("own", name, options)
    if name not in names():
        raise UnknownNameError(f"model (it is {FORMS})", name, names())
    return Architecture("torchvision", name, options)


def _function(kind: str, name: str) -> Callable[..., Any]:
    """The user's function; its module is executed here."""
    place, _, function = name.rpartition(":")
    try:
        module = _from_file(Path(place)) if kind == "file" else importlib.import_module(place)
    except Exception as error:
        raise RotationError(f"{place} cannot be imported: {type(error).__name__}: {error}") from error
    found = getattr(module, function, None)
    if not callable(found):
        there = sorted(key for key, value in vars(module).items() if callable(value) and key[0] != "_")
        raise RotationError(f"{place} has no function {function!r}; it has {', '.join(there[:10]) or 'none'}")
    return found  # type: ignore[no-any-return]


def _from_file(path: Path) -> Any:
    """Import a file under a name of its own; files beside it can be imported by it, as if it were run."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module
