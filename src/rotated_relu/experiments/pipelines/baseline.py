"""A rotated network's run with that of its ReLU network inside, as ``demo`` and ``reproduce`` make them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core import messages
from ...core.errors import RunError
from ...core.formatting import plural
from ...core.messages import Say
from ...core.run_directory import Run, explained, read_json, write_json
from ..run_networks import RunNetworks
from ..stages.measure import measure_networks, networks_of
from ..stages.train import override

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...training import Config

RELU = "relu"  # folder of the ReLU network's run
LOCK = ".lock"  # of a run that was stopped before it began


@dataclass(frozen=True)
class BaselinePair:
    """The two runs.

    Attributes:
        rotated: The run of the rotated network; every verb works on it.
        relu: That of the ReLU network, in a folder of it; None if there is none.
    """

    rotated: RunNetworks
    relu: RunNetworks | None

    @classmethod
    def at(cls, out: Path, relu: bool = True) -> BaselinePair:
        """The runs in a directory, which need not exist yet."""
        return cls(RunNetworks(Run(out)), RunNetworks(Run(out / RELU)) if relu else None)


def relu_baseline(rotated: Config) -> Config:
    """The same settings without slopes, and so without what penalizes them."""
    return override(rotated, {"model.rotated": False})


def train_baseline(
    loaded: RunNetworks,
    config: Config,
    label: str,
    *,
    remedy: str,
    device: str,
    progress: str,
    say: Say = messages.say,
) -> None:
    """Train one of the two, or go on with it, or find it trained.

    Args:
        loaded: Its run.
        config: Its settings.
        label: What to call it.
        remedy: What to do if the directory holds a run with other settings; ends the message.
        device: What to train on.
        progress: How to show progress.
        say: Called with what is about to be done.

    Raises:
        RunError: If it does.
    """
    from ...training import fit

    state = "found trained" if loaded.run.has("weights") else f"training, {plural(config.epochs, 'epoch')}"
    say(f"{label}: {state}")
    _check_same(loaded.run, config, remedy)
    fit(config, loaded.run.path, device=device, progress=progress)


def _check_same(run: Run, config: Config, remedy: str) -> None:
    """Refuse an earlier run with other settings instead of mixing the two."""
    from ...training.engine.checkpoints import differences
    from ...training.images import resolved
    from ...training.precision import with_precision

    if not run.has("config"):
        return
    known = resolved(type(config).from_dict(read_json(run.file("config"))))
    wanted = with_precision(resolved(config), "auto", known.precision)  # a run keeps what it began with
    changed = ", ".join(differences(known.identity(), wanted.identity()))
    if changed:
        raise RunError(f"{run.path} holds a run with other settings ({changed}); {remedy}")


def measure_pair(pair: BaselinePair, batch_sizes: Sequence[int], rounds: int) -> dict[str, Any]:
    """All networks side by side; plain data, kept in ``measure.json``."""
    nets = networks_of(pair.rotated, pair.relu)
    measured = measure_networks(nets, pair.rotated.example_inputs, batch_sizes, repeats=rounds)
    write_json(pair.rotated.run.file("measure"), measured)
    return measured


def _refuse_foreign(run: Run) -> None:
    """Files that have the names of ours are not ours where there is no run."""
    if run.has("config") or not run.path.is_dir():
        return
    with explained(run.path):
        others = sorted(path.name for path in run.path.iterdir() if path.name not in (RELU, LOCK))
    if others:
        raise RunError(
            f"{run.path} is not a run directory: it has no config.json, but {others[0]}; nothing was deleted, "
            "choose another --out"
        )


def clear(out: Path) -> None:
    """Delete both runs' own files and folders, nothing else.

    Raises:
        RunError: If one of the directories holds files but no run: they are somebody else's. Nothing is deleted then.
    """
    runs = Run(out / RELU), Run(out)
    for run in runs:
        _refuse_foreign(run)
    for run in runs:
        if run.path.is_dir():
            run.clear()
    with explained(out):
        if (out / RELU).is_dir() and not any((out / RELU).iterdir()):
            (out / RELU).rmdir()
