"""The verbs, put together: one file per verb, each a thin shell over a function on a run directory.

Libraries that take seconds to import are imported by the verbs that need them.
"""

from __future__ import annotations

import functools
import inspect
import shlex
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import typer
from rich.markup import escape

from .. import __version__
from . import (
    attack,
    calibrate,
    compare,
    console,
    demo,
    evaluate,
    export,
    finetune,
    measure,
    models,
    prune,
    recipes,
    report,
    reproduce,
    shrink,
    train,
)

# Verb -> function and an example of its use; the order is that of a first run through.
VERBS: dict[str, tuple[Callable[..., Any], str]] = {
    "demo": (demo.demo, demo.EXAMPLE),
    "shrink": (shrink.shrink, shrink.EXAMPLE),
    "recipes": (recipes.recipes, recipes.EXAMPLE),
    "models": (models.models, models.MODELS_EXAMPLE),
    "datasets": (models.datasets, models.DATASETS_EXAMPLE),
    "train": (train.train, train.EXAMPLE),
    "calibrate": (calibrate.calibrate, calibrate.EXAMPLE),
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


# Verbs that read their arguments in a way of their own.
COMMANDS = {"shrink": shrink.SeveralBudgets}

# Verb -> what there is of it after Ctrl-C. Verbs that are not here word it themselves: they train.
KEPT = {
    "calibrate": "what was measured is kept",
    "prune": "the thresholds that were evaluated are kept",
    "finetune": "its state is kept",
    "evaluate": "nothing is kept of it",
    "export": "a file that was there stays as it was",
    "measure": "nothing is kept of it",
    "attack": "nothing is kept of it",
    "report": "a page that was there stays as it was",
    "compare": "all finished networks are kept",
}


def build_app(given: Sequence[str] = ()) -> typer.Typer:
    """Assemble the verbs.

    Args:
        given: The arguments of the command line: for the line that says how to go on after Ctrl-C, and since ``train``
            has an option for every setting, which take time to put together: it has them if it is asked for, or
            nothing is.
    """
    columns = shutil.get_terminal_size().columns
    app = typer.Typer(
        name="rotated-relu",
        help="Train a network with one slope per filter, drop the filters whose slope is small, verify the "
        "smaller network, and measure it. A run is a directory that every verb understands.",
        epilog="Start with: rotated-relu demo. Help for a verb, with an example: rotated-relu prune --help",
        no_args_is_help=True,
        # Boxes with three columns cut the names of options where the terminal is narrow.
        rich_markup_mode=None if columns < console.NARROW else "rich",
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={
            "help_option_names": ["-h", "--help"],
            "terminal_width": columns if columns < console.NARROW else None,
        },
    )
    app.callback()(_options)
    for name, (verb, example) in VERBS.items():
        if verb is train.train and (not given or given[0] == name):
            verb = train.with_settings()
        register = app.command(
            name, cls=COMMANDS.get(name), help=_help_of(verb, app), epilog=f"Example: {example}"
        )
        register(_stoppable(name, verb, given) if name in KEPT else verb)
    return app


def _help_of(verb: Callable[..., Any], app: typer.Typer) -> str:
    """A verb's docstring, a paragraph a line: boxes keep breaks within one, and read an extra's brackets as colour."""
    paragraphs = (inspect.getdoc(verb) or "").split("\n\n")
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    return escape(text) if app.rich_markup_mode == "rich" else text


def _stoppable(name: str, verb: Callable[..., Any], given: Sequence[str]) -> Callable[..., Any]:
    """A verb that ends in one line on Ctrl-C."""

    @functools.wraps(verb)
    def stoppable(*arguments: Any, **options: Any) -> Any:
        with console.stoppable(name, shlex.join(["rotated-relu", *given]), KEPT[name]):
            return verb(*arguments, **options)

    return stoppable


def _options(
    version: bool = typer.Option(
        False,
        "--version",
        help="Print the version and exit.",
        callback=lambda value: _version(value),
        is_eager=True,
    ),
    trust_code: bool = typer.Option(
        False,
        "--trust-code",
        help="Execute the code that a run directory names for its network.",
    ),
) -> None:
    del version
    if trust_code:
        from ..training.brought.trust import trust_everything

        trust_everything()


def _version(wanted: bool) -> None:
    if wanted:
        console.show(f"rotated-relu {__version__}")
        raise typer.Exit
