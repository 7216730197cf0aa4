"""The run directory: which file holds what, and how files are written and read.

Requires: nothing of the rest of the package but atomic files, so that every verb can use it.
Ensures: a file under its final name is complete (see :mod:`rotated_relu.core.files`), and of two processes that want to
write into one run the second is refused.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import math
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from . import files as atomic
from .errors import RotatedReLUError, RunError
from .plain_data import typed

# Attribute of Run -> file name, and the verb that writes it.
FILES = {
    "config": ("config.json", "train"),
    "provenance": ("provenance.json", "train"),
    "metrics": ("metrics.csv", "train"),
    "slopes": ("slopes.safetensors", "train"),
    "timings": ("timings.csv", "train"),
    "profile": ("profile.json", "train"),
    "wandb": ("wandb.json", "train"),
    "weights": ("weights.safetensors", "train"),
    "trained_onnx": ("trained.onnx", "export --weights trained"),
    "trained_openvino": ("trained.xml", "export --weights trained --format openvino"),
    "trained_openvino_weights": ("trained.bin", "export --weights trained --format openvino"),
    "trained_int8": ("trained.int8.onnx", "export --weights trained --int8"),
    "lock": (".lock", "train"),
    "threshold": ("threshold.json", "prune"),
    "search": ("threshold.partial.json", "prune"),
    "compact": ("compact.safetensors", "prune"),
    "finetune_config": ("finetune.json", "finetune"),
    "finetune_metrics": ("finetune_metrics.csv", "finetune"),
    "finetuned": ("finetuned.safetensors", "finetune"),
    "evaluation": ("evaluation.json", "evaluate"),
    "onnx": ("compact.onnx", "export"),
    "openvino": ("compact.xml", "export --format openvino"),
    "openvino_weights": ("compact.bin", "export --format openvino"),
    "int8": ("compact.int8.onnx", "export --int8"),
    "latency": ("latency.json", "calibrate"),
    "measure": ("measure.json", "measure"),
    "attack": ("attack.json", "attack"),
    "shrinking": ("shrinking.json", "shrink"),
    "summary": ("summary.json", "demo"),
    "teacher": ("teacher.safetensors", "shrink"),
    "program": ("classify.py", "shrink"),
    "reproduction": ("reproduction.json", "reproduce"),
    "report": ("report.html", "report"),
}
FOLDERS = ("checkpoints", "tb", "wandb", "finetune", "shrink")
RESULTS = ("measure", "attack", "summary", "reproduction", "report")
EXPORTS = ("onnx", "openvino", "openvino_weights", "int8")
# Weights -> files and folders that were made from them. Once the weights are written anew, these tell of a network that
# is no longer there. Accuracies belong to one network each: see experiments/stages/evaluate.py.
MADE_FROM: dict[str, tuple[str, ...]] = {
    "compact": ("finetuned", "finetune_config", "finetune_metrics", "finetune", *EXPORTS, *RESULTS),
    "finetuned": (*EXPORTS, *RESULTS),
}


@dataclass(frozen=True)
class Run:
    """Paths inside one run directory.

    Attributes:
        path: The directory.
    """

    path: Path

    @classmethod
    def create(cls, path: str | Path) -> Run:
        """Make the directory if need be, and check that it can be written to.

        Raises:
            RunError: If it cannot be made or written to, or a file of that name is in the way.
        """
        run = cls(Path(path))
        with explained(run.path):
            run.path.mkdir(parents=True, exist_ok=True)
        run.check_writable()
        return run

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Return an existing run.

        Raises:
            RunError: If there is no such directory, or it is no run (it has no ``config.json``).
        """
        run = cls(Path(path))
        if not run.path.is_dir():
            raise RunError(
                f"no run directory {run.path}{_nearby(run.path)}; train one: {_train_hint(run.path)}"
            )
        if not run.file("config").is_file():
            raise RunError(
                f"{run.path} is not a run directory: it has no config.json{_inner(run.path)}; "
                f"train one: {_train_hint(run.path)}"
            )
        return run

    @property
    def checkpoints(self) -> Path:
        """Directory of the training checkpoints."""
        return self.path / "checkpoints"

    def file(self, name: str) -> Path:
        """Path of a file of the run, by its key in ``FILES``, whether or not it exists."""
        return self.path / FILES[name][0]

    def has(self, name: str) -> bool:
        """Whether that file has been written."""
        return self.file(name).is_file()

    def need(self, name: str) -> Path:
        """Path of a file that must exist.

        Raises:
            RunError: If it does not; names the verb that writes it.
        """
        path = self.file(name)
        if not path.is_file():
            file, verb = FILES[name]
            where = f"--out {self.path}" if verb in ("train", "demo") else str(self.path)
            raise RunError(f"{self.path} has no {file} yet; write it first: rotated-relu {verb} {where}")
        return path

    def discard(self, *names: str) -> None:
        """Delete files that no longer describe this run, where they exist."""
        for name in names:
            with explained(self.file(name)):
                self.file(name).unlink(missing_ok=True)

    def discard_folder(self, name: str) -> None:
        """Delete one of ``FOLDERS`` with all that is in it, where it exists."""
        with explained(self.path / name):
            if (self.path / name).is_dir():
                shutil.rmtree(self.path / name)

    def retire(self, written: str) -> list[str]:
        """Delete what was made from the former version of a file of ``MADE_FROM``, once the new one is in place.

        Returns:
            Names of the files and folders that were deleted.

        Raises:
            RunError: If some cannot be deleted; the others are, and the message names those that are left.
        """
        retired, left = [], []
        for name in MADE_FROM[written]:
            folder = name in FOLDERS
            path = self.path / name if folder else self.file(name)
            if not path.exists() and not path.is_symlink():
                continue
            try:
                # A folder under the name of a file is not ours: unlink refuses it.
                shutil.rmtree(path) if folder else path.unlink()
                retired.append(path.name)
            except OSError as error:
                left.append(f"{path.name} ({error.strerror or error})")
        if left:
            raise RunError(
                f"{self.file(written)} is new, but what was made from the former one cannot be deleted: "
                f"{', '.join(left)}; delete it yourself, it tells of a network that is no longer there"
            )
        return retired

    def is_writable(self) -> bool:
        """Whether files may be written here: permission, not space."""
        return os.access(self.path, os.W_OK)

    def check_writable(self) -> None:
        """Find out before the work, not after it, that its result cannot be written here.

        Raises:
            RunError: If nothing can be written: no permission, or the disk is full.
        """
        with explained(self.path):
            probe = self.path / f".writable-{os.getpid()}"
            try:
                # Bytes, not just a name: on a full disk an empty file can still be made.
                probe.write_bytes(b"0" * 4096)
            finally:
                probe.unlink(missing_ok=True)

    def _check_files(self) -> None:
        """Find out before the work that a file can neither be written nor retired, as a folder has its name."""
        for name in FILES:
            if self.file(name).is_dir():
                raise RunError(
                    f"{self.file(name)} is a folder, where a file of the run belongs: move it away"
                )

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Within the ``with`` block no other process can claim this run; what a killed one left is cleared away.

        The operating system releases the claim with the process, however it ends. Of several that ``torchrun`` started,
        the first one claims for all.

        Raises:
            RunError: If another process holds it; says which. If a folder lies where a file of the run belongs.
        """
        if not is_first_process():
            yield
            return
        with explained(self.path):
            file = open(self.file("lock"), "a+", encoding="utf-8", opener=_not_through_links)  # noqa: SIM115
        with file:
            with explained(self.path):
                _hold(file, self.path)
            self.check_writable()
            self._check_files()
            for folder in (self.path, self.checkpoints):
                atomic.remove_leftovers(folder)
            yield

    def clear(self) -> None:
        """Delete everything that the verbs write here, and nothing else.

        Raises:
            RunError: If another process is writing here.
        """
        with self.claimed():
            self._clear()

    def _clear(self) -> None:
        self.discard(*FILES)
        for name in FOLDERS:
            self.discard_folder(name)


def _not_through_links(path: str, flags: int) -> int:
    """Open a file that is written in place: a link in a received run could lead to any file of its reader."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _hold(file: IO[str], run: Path) -> None:
    """Lock an open file for as long as it is open, and write into it who holds it."""
    try:
        import fcntl
    except ImportError:  # Windows: there is no such lock
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        raise RunError(
            f"{run} is in use by {holder}; wait for it, stop it, or choose another directory"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP):  # a file system without locks
            raise
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()}")
    file.flush()


def is_first_process() -> bool:
    """Whether this process writes the files, of those that ``torchrun`` started; true without it."""
    return os.environ.get("RANK", "0") == "0"


def process_count() -> int:
    """How many processes ``torchrun`` started, on all machines; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """:func:`rotated_relu.core.files.replacing`, with the errors of a run directory.

    Raises:
        RunError: If writing fails: directory missing, no permission, disk full.
    """
    with explained(path), atomic.replacing(path) as beside:
        yield beside


def write_json(path: Path, data: Any) -> None:
    """Write plain data as indented JSON, atomically.

    Raises:
        RunError: If the file cannot be written.
        ValueError: If the data hold NaN or infinity, which JSON cannot.
    """
    text = json.dumps(data, indent=2, allow_nan=False) + "\n"
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def read_json(path: Path, kind: Any = Any) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        kind: What it must hold, as an annotation says it: ``dict[str, float]``.

    Raises:
        RunError: If it is missing, unreadable, not JSON, holds a number that is not finite, or is of another kind.
    """
    with explained(path):
        content = path.read_bytes()
    try:
        data = json.loads(
            content.decode("utf-8"), parse_constant=_finite, parse_float=_finite, parse_int=_whole
        )
    except (ValueError, RecursionError) as error:  # no text, no JSON, or a number of thousands of digits
        raise RunError(f"{path} is not valid JSON ({error}); delete it and run its verb again") from error
    with as_written(path):
        return typed(kind, data, path.name)


def _finite(text: str) -> float:
    """A number of a JSON file: infinity and NaN are none, and no verb writes them."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no finite number")
    return value


def _whole(text: str) -> int:
    _finite(text)
    return int(text)


@contextlib.contextmanager
def as_written(*paths: Path) -> Iterator[None]:
    """Within the ``with`` block files are read as their verbs write them; what they lack or hold wrongly is one error.

    Raises:
        RunError: Then; names the files.
    """
    try:
        yield
    except RotatedReLUError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        names = " or ".join(str(path) for path in paths)
        raise RunError(
            f"{names} does not hold what its verb writes ({type(error).__name__}: {error}); delete it and run its verb "
            "again"
        ) from error


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read ``metrics.csv``: one dictionary of numbers per epoch; empty cells are left out.

    Raises:
        RunError: If it is missing, no text, no table, or a cell is not a number.
    """
    with explained(path):
        content = path.read_bytes()
    try:
        rows = list(csv.DictReader(io.StringIO(content.decode("utf-8"), newline="")))
        return [{key: float(cell) for key, cell in row.items() if key and cell} for row in rows]
    except (TypeError, ValueError, csv.Error) as error:
        raise RunError(f"{path} holds something other than numbers ({error}); train the run again") from error


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` into a :class:`RunError` that says where and what to do.

    Wraps the writers of other modules too: some report a full disk as an error of their own with the
    system's text.
    """
    try:
        yield
    except OSError as error:
        raise RunError(
            f"cannot use {error.filename or path}: {error.strerror or error}; {_advice(error)}"
        ) from error


def _advice(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space or choose another directory, then run the same command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "choose a directory that you may write to"
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return "a file is in the way: move it or choose another directory"
    if error.errno == errno.ELOOP:
        return "it is a link, which is not followed: remove it"
    if error.errno == errno.ENOENT:
        return "check the path"
    return "check the disk, then run the same command again"


def _train_hint(path: Path) -> str:
    return f"rotated-relu train RECIPE --out {path}"


def _runs_in(directory: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted(child.parent for child in directory.glob("*/config.json"))
    return []


def _nearby(path: Path) -> str:
    runs = _runs_in(path.parent)
    return f" (there are: {', '.join(map(str, runs[:5]))})" if runs else ""


def _inner(path: Path) -> str:
    runs = _runs_in(path)
    return f" (did you mean {' or '.join(map(str, runs[:3]))}?)" if runs else ""
