"""Whether code that a run directory names may run: only if the person of this very command said so.

A run directory may come from somebody else. Its tensors and JSON cannot do harm; a file of code that it names could.
"""

from __future__ import annotations

from ...core.errors import RunError
from .architectures import Architecture

_named: set[str] = set()
_everything = False


def trust(name: str) -> None:
    """The person named this code in the present command, or a script asked for it by name."""
    _named.add(name)


def trust_everything() -> None:
    """The person said ``--trust-code``."""
    global _everything
    _everything = True


def check_trusted(architecture: Architecture) -> None:
    """Let code of libraries pass, and code of the user that was named.

    Raises:
        RunError: Otherwise; says what would be executed.
    """
    if not architecture.runs_code or _everything or architecture.name in _named:
        return
    raise RunError(
        f"the network of this run is built by {architecture.name}: that code would be executed. If you trust it, say "
        "so: rotated-relu --trust-code VERB ..."
    )
