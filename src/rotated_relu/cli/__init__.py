"""The command line: options, help and printing; each verb calls one function of ``experiments``.

Every error that the package raises on purpose becomes one message on stderr and exit code 1; a wrong option
is exit code 2; Ctrl-C is 130.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ..core.errors import RotatedReLUError
from ..core.extras import EXTRAS, needs
from ..core.run_directory import explained, is_first_process

# What all processes do that torchrun started; everything else happens once, in the first.
TOGETHER = {"train", "finetune"}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Args:
        arguments: Instead of ``sys.argv[1:]``.

    Raises:
        SystemExit: Always.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    if not is_first_process() and not TOGETHER.intersection(given[:1]):
        sys.exit(0)
    try:
        needs(*EXTRAS["cli"])
    except RotatedReLUError as error:
        sys.exit(f"error: {error}")
    from . import app, console

    try:
        with explained(Path.cwd()):
            app.build_app(given)(args=given, prog_name="rotated-relu")
    except RotatedReLUError as error:
        console.fail(str(error))
        sys.exit(1)
    sys.exit(0)
