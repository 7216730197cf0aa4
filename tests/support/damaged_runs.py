"""A finished run, each of its files damaged in ten ways, and what the verbs do with it.

Whatever is in a run directory, a verb ends with exit code 0, 1 or 2 and no traceback, touches nothing outside the
directory, and loses nothing: after a failure every other file is as it was, after a success there is none less, but for
those that the verb says it retires.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import random
import shutil
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from rotated_relu import cli
from rotated_relu.core.run_directory import FILES, MADE_FROM
from rotated_relu.training import fit
from support.training_data import CONFIG


def trained(run: Path, hidden: int, verbs: bool = True) -> None:
    """A run with every kind of file, or that of the training alone, on digits that need no download."""
    from rotated_relu.training import DataConfig, ModelConfig

    config = dataclasses.replace(
        CONFIG,
        model=ModelConfig("fcnn", options={"hidden": hidden}),
        data=DataConfig("mnist5k", validation=0.02, flip=False, crop_padding=0),
        epochs=1,
        batch_size=500,
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
        ("report", run),
    ):
        code, said = called(arguments)
        assert code == 0, said


# Every verb that reads a run, at its cheapest.
VERBS: dict[str, tuple[Any, ...]] = {
    "train": ("train", "--out", "RUN", "--progress", "none", "--device", "cpu"),
    "prune": ("prune", "RUN", "--round-to", "1", "--threshold", "0.1"),
    "finetune": ("finetune", "RUN", "--epochs", "1", "--progress", "none", "--device", "cpu"),
    "evaluate": ("evaluate", "RUN"),
    "export": ("export", "RUN", "--no-tune"),
    "measure": ("measure", "RUN", "--engine", "torch", "--repeats", "1", "--batch-size", "1"),
    "attack": ("attack", "RUN", "--images", "4", "--steps", "1", "--progress", "none", "--device", "cpu"),
    "report": ("report", "RUN"),
}
# What a verb may delete when it succeeds.
RETIRES = {
    "prune": {*MADE_FROM["compact"], "search"},
    "finetune": {*MADE_FROM["finetuned"], "finetune"},
}


def called(arguments: tuple[Any, ...]) -> tuple[int | str, str]:
    """Exit code of a verb, or its traceback; and what it said."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
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
    """One damaged run directory."""

    file: str
    damage: Callable[..., None]
    number: int

    def __str__(self) -> str:
        return f"{self.file}, {self.damage.__name__}, {self.number}"


def files_of(run: Path) -> list[str]:
    return sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())


def all_damaged(run: Path, count: int) -> list[Damaged]:
    """So many: every file in every way, again with other chances until there are enough."""
    every = [(file, damage) for file in files_of(run) for damage in DAMAGES]
    return [Damaged(*every[number % len(every)], number) for number in range(count)]


def digests(folder: Path, without: Path | None = None) -> dict[str, str]:
    """Content of every file below a folder, but for those below another one."""
    found = {}
    for place, folders, names in os.walk(folder):
        if without is not None:
            folders[:] = [name for name in folders if Path(place, name) != without]
        for name in names:
            path = Path(place, name)
            content = os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
            found[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return found


def complaints(case: Damaged, verb: str, whole: Path, other: Path, place: Path) -> list[str]:
    """What one verb does wrong with one damaged run; nothing if all is well.

    Args:
        case: What is damaged.
        verb: One of ``VERBS``.
        whole: The run before.
        other: Another run, of a larger network.
        place: An empty folder to work in.
    """
    run, outside = place / "run", place / "outside"
    shutil.copytree(whole, run)
    outside.mkdir()
    (outside / "precious.txt").write_text("not yours")
    if case.file.startswith("checkpoints"):
        (run / FILES["weights"][0]).unlink()  # a run that was stopped: only that one reads them
    case.damage(run / case.file, other / case.file, outside, random.Random(case.number))
    before, around = digests(run), digests(place, without=run)
    torch.manual_seed(0)
    code, said = called(tuple(str(run) if part == "RUN" else part for part in VERBS[verb]))
    after = digests(run)
    found = [f"traceback {code}"] if isinstance(code, str) else []
    if code not in (0, 1, 2) and not found:
        found.append(f"exit code {code}: {said[-200:]}")
    if "Traceback" in said:
        found.append(f"prints a traceback: {said[-300:]}")
    if digests(place, without=run) != around:
        found.append("touched what lies outside")
    found += _losses(verb, code, "is new, but what was made" in said, before, after, case.file)
    shutil.rmtree(place)
    return [f"{verb} on {case}: {one}" for one in found]


def _losses(
    verb: str, code: int | str, late: bool, before: dict[str, str], after: dict[str, str], damaged: str
) -> list[str]:
    """What is gone; ``late``: the result is in place, but something that it retires could not be deleted."""
    untouched = {name for name in before if name != damaged and not name.endswith(".lock")}
    if code == 0 or late:
        retired = {FILES[key][0] if key in FILES else key for key in RETIRES.get(verb, ())}
        gone = {name for name in untouched - after.keys() if Path(name).parts[0] not in retired}
        return [f"lost {', '.join(sorted(gone))}"] if gone else []
    changed = {name for name in untouched if after.get(name) != before[name]}
    return [f"changed {', '.join(sorted(changed))} and failed"] if changed else []
