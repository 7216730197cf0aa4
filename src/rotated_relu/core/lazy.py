"""Names of a package that are imported at their first use, so that help and settings do not wait for torch."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_names(
    package: str, homes: Mapping[str, Sequence[str]], modules: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The ``__getattr__`` and ``__dir__`` of a package (PEP 562).

    Args:
        package: Its ``__name__``; ``__all__`` of it is what ``dir`` lists.
        homes: Module below the package -> the names that it brings.
        modules: Name -> the module below the package that it is.
    """
    home_of = {name: home for home, names in homes.items() for name in names}

    def get(name: str) -> Any:
        if name in modules:
            return importlib.import_module(f".{modules[name]}", package)
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f".{home_of[name]}", package), name)
        vars(sys.modules[package])[name] = value
        return value

    return get, lambda: sorted(vars(sys.modules[package])["__all__"])
