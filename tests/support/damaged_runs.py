"""Finished directories, each of their files damaged in ten ways, and what the verbs do with them.

Whatever is in a directory, a verb ends with exit code 0, 1 or 2 and no traceback, touches nothing outside the
directory, and loses nothing: after a failure every other file is as it was, after a success there is none less, but for
those that the verb says it retires. Verbs of several stages keep the files of those that they had done when they fail.
A directory that a verb makes out of a damaged one is not there as a run when it fails.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import os
import random
import shutil
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.onnx._internal.exporter._registration import ONNXRegistry

from rotated_relu import cli
from rotated_relu.core.run_directory import FILES, MADE_FROM
from rotated_relu.experiments.pipelines import reproduce as reproduction
from rotated_relu.experiments.shrinking import delivery
from rotated_relu.training import fit
from support.training_data import CONFIG


def trained(run: Path, hidden: int, verbs: bool = True) -> None:
    """A run with every kind of file, or that of the training alone, on digits that need no download."""
    from rotated_relu.training import DataConfig, ModelConfig

    config = dataclasses.replace(
        CONFIG,
        model=ModelConfig("fcnn", options={"hidden": hidden}),
        data=DataConfig("mnist5k", validation=0.02, flip=False, crop_padding=0),
        epochs=2,
        batch_size=50,
    )
    fit(config, run, progress="none", device="cpu")
    if not verbs:
        return
    for arguments in (
        ("prune", run, "--round-to", "1", "--keep-macs", "0.5"),
        ("finetune", run, "--epochs", "1", "--device", "cpu", "--progress", "none"),
        ("evaluate", run),
        ("export", run, "--no-tune"),
        ("measure", run, "--engine", "torch", "--repeats", "1", "--batch-size", "1"),
        ("attack", run, "--images", "4", "--steps", "1", "--device", "cpu", "--progress", "none"),
        ("calibrate", run, "--engine", "torch", "--minutes", "0.01", "--progress", "none"),
        ("report", run),
    ):
        code, said = called(arguments)
        assert code == 0, said


def finished(folder: Path, *kinds: str) -> dict[str, Path]:
    """Directories of these kinds; a shrunken one is made from the run."""
    made = {kind: folder / kind for kind in ("run", *kinds)}
    trained(made["run"], 8)
    for kind in kinds:
        words = {"RUN": str(made[kind]), "SOURCE": str(made["run"])}
        code, said = called(tuple(words.get(part, part) for part in RESUMED[kind]))
        assert code == 0, said
    return made


SHORT = ("--epochs", "1", "--device", "cpu", "--progress", "none")
# Kind of directory -> the command that made it, which goes on with it.
RESUMED: dict[str, tuple[str, ...]] = {
    "shrunken": ("shrink", "SOURCE", "--keep-macs", "0.9", *SHORT, "--out", "RUN"),
    "curve": ("shrink", "SOURCE", "--keep-macs", "0.9", "0.8", *SHORT, "--out", "RUN"),
    "comparison": (
        "compare", "fcnn_mnist", "--data", "mnist5k", "--model-option", "hidden=8", "--method", "rotated",
        "--level", "0.5", "--finetune-level", "0.5", "--finetune-epochs", "1", "--repeats", "1", *SHORT, "--out", "RUN",
    ),
    "reproduction": ("reproduce", "fcnn_mnist", "--data", "mnist5k", "--no-baseline", *SHORT, "--out", "RUN"),
}  # fmt: skip
# Every verb that reads a run, at its cheapest. NEW is a directory that it makes.
OF_A_RUN: dict[str, tuple[str, ...]] = {
    "train": ("train", "--out", "RUN", "--progress", "none", "--device", "cpu"),
    "prune": ("prune", "RUN", "--round-to", "1", "--threshold", "0.1"),
    "finetune": ("finetune", "RUN", *SHORT),
    "evaluate": ("evaluate", "RUN"),
    "export": ("export", "RUN", "--no-tune"),
    "measure": ("measure", "RUN", "--engine", "torch", "--repeats", "1", "--batch-size", "1"),
    "attack": ("attack", "RUN", "--images", "4", "--steps", "1", "--progress", "none", "--device", "cpu"),
    "calibrate": ("calibrate", "RUN", "--engine", "torch", "--minutes", "0.01", "--progress", "none"),
    "report": ("report", "RUN"),
    "shrink": ("shrink", "RUN", "--keep-macs", "0.9", *SHORT, "--out", "NEW"),
}
VERBS: dict[str, dict[str, tuple[str, ...]]] = {
    "run": OF_A_RUN,
    "shrunken": {
        "resume": RESUMED["shrunken"],
        **{verb: OF_A_RUN[verb] for verb in ("evaluate", "export", "measure", "report", "shrink")},
    },
    **{kind: {"resume": RESUMED[kind]} for kind in ("curve", "comparison", "reproduction")},
}
# What a verb may delete when it succeeds.
RETIRES = {
    "prune": {*MADE_FROM["compact"], "search"},
    "finetune": {*MADE_FROM["finetuned"], "finetune"},
    "resume": {*MADE_FROM["compact"], "search"},
}
OF_SEVERAL_STAGES = ("resume",)
# Of all directories that are damaged; runs are given to ten verbs, most others to one.
SHARES = {"run": 44, "shrunken": 22, "curve": 12, "comparison": 12, "reproduction": 10}


@cache
def _tables() -> tempfile.TemporaryDirectory[str]:
    """Where measured times are kept, in place of the cache directory of whoever runs this."""
    return tempfile.TemporaryDirectory()


@cache
def _operations(make: Callable[..., Any], **version: Any) -> Any:
    """Torch's table of operations for exports, which it makes anew each time: half of the time of a small one."""
    return make(**version)


def called(arguments: tuple[Any, ...]) -> tuple[int | str, str]:
    """Exit code of a verb, or its traceback; and what it said."""
    said = io.StringIO()
    own = mock.patch.dict(os.environ, {"XDG_CACHE_HOME": _tables().name})
    quick = [mock.patch.multiple(module, ROUNDS=1, BATCH_SIZES=(1,)) for module in (delivery, reproduction)]
    registry = mock.patch.object(
        ONNXRegistry, "from_torchlib", partial(_operations, ONNXRegistry.from_torchlib)
    )
    with contextlib.ExitStack() as within:
        for one in (
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
            own,
            registry,
            *quick,
        ):
            within.enter_context(one)
        within.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        try:
            cli.main(list(map(str, arguments)))
        except SystemExit as stopped:
            return int(stopped.code or 0), said.getvalue()
        except BaseException as error:
            return f"{type(error).__name__}: {error} at {_place(error)}", said.getvalue()
    raise AssertionError("cli.main always exits")


def _place(error: BaseException) -> str:
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if "rotated_relu" in frame.filename
    ]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "outside"


# --- damages: each takes a file of a run, the same file of another run, a folder outside, and chance ------------------


def truncate(path: Path, other: Path, outside: Path, chance: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: chance.randrange(max(1, len(content)))])


def empty(path: Path, other: Path, outside: Path, chance: random.Random) -> None:
    path.write_bytes(b"")


def random_bytes(path: Path, other: Path, outside: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes() or b"0")
    for _ in range(min(len(content), 16)):
        content[chance.randrange(len(content))] = chance.randrange(256)
    path.write_bytes(content)


def _with_leaf(path: Path, chance: random.Random, value: Any) -> None:
    """Replace one entry of a JSON file; the whole content of another."""
    try:
        data = json.loads(path.read_text())
    except ValueError:
        path.write_text(json.dumps(value))
        return
    places = list(_entries(data))
    if places and chance.random() < 0.8:
        container, key = chance.choice(places)
        container[key] = value
    else:
        data = value
    path.write_text(json.dumps(data))


def _entries(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from _entries(item)


def wrong_type(path: Path, other: Path, outside: Path, chance: random.Random) -> None:
    _with_leaf(path, chance, chance.choice([None, "text", {}, [], True, [[]], {"a": None}]))


def huge_numbers(path: Path, other: Path, outside: Path, chance: random.Random) -> None:
    if path.suffix == ".csv":
        path.write_text(path.read_text().replace("0", "9" * 400))
        return
    _with_leaf(
        path, chance, chance.choice([10**400, -1e308, 1e308, float("inf"), float("nan"), 2**63, -(2**63)])
    )


def invalid_utf8(path: Path, other: Path, outside: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes()[:40] + b"\xff\xfe\x00\xc3" + path.read_bytes()[40:])


def folder(path: Path, other: Path, outside: Path, chance: random.Random) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside.txt").write_text("what somebody put here")


def link(path: Path, other: Path, outside: Path, chance: random.Random) -> None:
    target = outside / f"target-{path.name}"
    shutil.copyfile(path, target)
    path.unlink()
    path.symlink_to(target)


def of_another_run(path: Path, other: Path, outside: Path, chance: random.Random) -> None:
    if other.is_file():
        shutil.copyfile(other, path)
    else:
        path.unlink()


def missing(path: Path, other: Path, outside: Path, chance: random.Random) -> None:
    path.unlink()


DAMAGES: tuple[Callable[[Path, Path, Path, random.Random], None], ...] = (
    truncate, empty, random_bytes, wrong_type, huge_numbers, invalid_utf8, folder, link, of_another_run, missing,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Damaged:
    """One damaged directory."""

    kind: str
    file: str
    damage: Callable[..., None]
    number: int

    def __str__(self) -> str:
        return f"{self.kind}, {self.file}, {self.damage.__name__}, {self.number}"


def files_of(run: Path) -> list[str]:
    return sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())


def all_damaged(wholes: dict[str, Path], count: int, number: int = 0) -> list[Damaged]:
    """So many, by the shares of their kinds: every file in every way, in a random order, again until there are enough.

    Args:
        wholes: Directories by kind.
        count: How many.
        number: Of the random order.
    """
    found: list[tuple[str, str, Callable[..., None]]] = []
    whole_share = sum(SHARES[kind] for kind in wholes)
    for kind, whole in wholes.items():
        every = [(kind, file, damage) for file in files_of(whole) for damage in DAMAGES]
        random.Random(f"{number}/{kind}").shuffle(every)
        found += itertools.islice(itertools.cycle(every), round(count * SHARES[kind] / whole_share))
    random.Random(number).shuffle(found)
    return [Damaged(*one, index) for index, one in enumerate(found)]


def digests(folder: Path, *without: Path) -> dict[str, str]:
    """Content of every file below a folder, but for those below some others."""
    found = {}
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if Path(place, name) not in without]
        for name in names:
            path = Path(place, name)
            content = os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
            found[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return found


def complaints(case: Damaged, verb: str, wholes: dict[str, Path], other: Path, place: Path) -> list[str]:
    """What one verb does wrong with one damaged directory; nothing if all is well.

    Args:
        case: What is damaged.
        verb: One of ``VERBS`` of that kind.
        wholes: The directories before, by kind, and the run that a shrunken one was made from.
        other: Another run, of a larger network, with files of the same names.
        place: An empty folder to work in.
    """
    run, new, outside = place / "run", place / "new", place / "outside"
    shutil.copytree(wholes[case.kind], run)
    outside.mkdir()
    (outside / "precious.txt").write_text("not yours")
    if case.file.startswith("checkpoints"):
        (run / FILES["weights"][0]).unlink()  # a run that was stopped: only that one reads them
    case.damage(run / case.file, other / case.file, outside, random.Random(case.number))
    before, around = digests(run), digests(place, run, new)
    torch.manual_seed(0)
    words = {"RUN": str(run), "NEW": str(new), "SOURCE": str(wholes["run"])}
    code, said = called(tuple(words.get(part, part) for part in VERBS[case.kind][verb]))
    after = digests(run)
    found = [f"traceback {code}"] if isinstance(code, str) else []
    if code not in (0, 1, 2) and not found:
        found.append(f"exit code {code}: {said[-200:]}")
    if "Traceback" in said:
        found.append(f"prints a traceback: {said[-300:]}")
    if digests(place, run, new) != around:
        found.append("touched what lies outside")
    if code != 0 and (new / FILES["config"][0]).exists():
        found.append(f"failed and left a run: {said[-200:]}")
    found += _losses(verb, code, "is new, but what was made" in said, before, after, case.file)
    shutil.rmtree(place)
    return [f"{verb} on {case}: {one}" for one in found]


def _losses(
    verb: str, code: int | str, late: bool, before: dict[str, str], after: dict[str, str], damaged: str
) -> list[str]:
    """What is gone; ``late``: the result is in place, but something that it retires could not be deleted."""
    untouched = {name for name in before if name != damaged and not name.endswith(".lock")}
    if code == 0 or late or verb in OF_SEVERAL_STAGES:
        retired = {FILES[key][0] if key in FILES else key for key in RETIRES.get(verb, ())}
        gone = {name for name in untouched - after.keys() if not retired & set(Path(name).parts)}
        return [f"lost {', '.join(sorted(gone))}"] if gone else []
    changed = {name for name in untouched if after.get(name) != before[name]}
    return [f"changed {', '.join(sorted(changed))} and failed"] if changed else []
