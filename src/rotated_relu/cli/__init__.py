"""The command line: one file per verb, each a thin shell over a function on a run directory.

Every error that the package raises on purpose becomes one message on stderr and exit code 1; a wrong option
is exit code 2; Ctrl-C is 130. Libraries that take seconds to import are imported by the verbs that need them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import typer

from ..core.errors import RotatedReLUError
from ..core.run_directory import explained, is_first_process
from . import (
    attack,
    compare,
    console,
    demo,
    evaluate,
    export,
    finetune,
    measure,
    prune,
    recipes,
    report,
    reproduce,
    train,
)

# Verb -> function and an example of its use; the order is that of a first run through.
VERBS: dict[str, tuple[Callable[..., Any], str]] = {
    "demo": (demo.demo, demo.EXAMPLE),
    "recipes": (recipes.recipes, recipes.EXAMPLE),
    "train": (train.train, train.EXAMPLE),
    "prune": (prune.prune, prune.EXAMPLE),
    "finetune": (finetune.finetune, finetune.EXAMPLE),
    "evaluate": (evaluate.evaluate, evaluate.EXAMPLE),
    "export": (export.export, export.EXAMPLE),
    "measure": (measure.measure, measure.EXAMPLE),
    "attack": (attack.attack, attack.EXAMPLE),
    "report": (report.report, report.EXAMPLE),
    "compare": (compare.compare, compare.EXAMPLE),
    "reproduce": (reproduce.reproduce, reproduce.EXAMPLE),
}


# What all processes do that torchrun started; everything else happens once, in the first.
TOGETHER = {"train", "finetune"}


def build_app() -> typer.Typer:
    """Assemble the verbs."""
    app = typer.Typer(
        name="rotated-relu",
        help="Train a network with one slope per filter, drop the filters whose slope is small, prove the "
        "smaller network equal, and measure it. A run is a directory that every verb understands.",
        epilog="Start with: rotated-relu demo. Help for a verb, with an example: rotated-relu prune --help",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for name, (verb, example) in VERBS.items():
        app.command(name, epilog=f"Example: {example}")(verb)
    return app


def _options(
    version: bool = typer.Option(
        False,
        "--version",
        help="Print the version and exit.",
        callback=lambda value: _version(value),
        is_eager=True,
    ),
) -> None:
    del version


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        console.show(f"rotated-relu {version('rotated-relu')}")
        raise typer.Exit


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
        with explained(Path.cwd()):
            build_app()(args=given, prog_name="rotated-relu")
    except RotatedReLUError as error:
        console.fail(str(error))
        sys.exit(1)
    sys.exit(0)
