"""The run directory: every file whole or absent, every failure one message with the path and the remedy."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rotated_relu.core import run_directory as run_module
from rotated_relu.core.errors import RunError
from rotated_relu.core.run_directory import (
    FILES,
    Run,
    explained,
    read_json,
    read_metrics,
    replacing,
    write_json,
)
from support.undeletable import refuse_deletion


def test_json_round_trip_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "summary.json"
    write_json(path, {"threshold": 0.1, "names": ["a", "é"]})
    assert read_json(path) == {"threshold": 0.1, "names": ["a", "é"]}
    assert [child.name for child in tmp_path.iterdir()] == ["summary.json"]


def test_nan_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"score": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_full_disk_keeps_the_previous_version(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_json(path, {"version": 1})

    def half_a_write(self, text, **_):
        with self.open("w") as file:
            file.write(text[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Path, "write_text", half_a_write)
    with pytest.raises(RunError, match=r"summary\.json.*No space left on device; free some space"):
        write_json(path, {"version": 2})
    monkeypatch.undo()
    assert read_json(path) == {"version": 1}
    assert [child.name for child in tmp_path.iterdir()] == ["summary.json"]


def test_files_are_readable_by_whom_the_umask_allows(tmp_path):
    previous = os.umask(0o027)
    try:
        with replacing(tmp_path / "weights") as beside:
            beside.touch(mode=0o600)
    finally:
        os.umask(previous)
    assert (tmp_path / "weights").stat().st_mode & 0o777 == 0o640


def test_interrupted_write_leaves_nothing(tmp_path):
    def write():
        with replacing(tmp_path / "report.html") as beside:
            beside.write_text("<html>")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert list(tmp_path.iterdir()) == []


def test_full_file_system_is_found_when_the_run_is_created(tmp_path):
    """A real full disk, where this process may mount one."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    try:
        with pytest.raises(OSError, match="No space"), (tmp_path / "filler").open("wb") as file:
            file.write(b"0" * (1 << 20))
        with pytest.raises(RunError, match="No space left on device; free some space"):
            Run.create(tmp_path)
        assert [child.name for child in tmp_path.iterdir()] == ["filler"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_unwritable_directory(tmp_path, monkeypatch):
    def denied(self, *_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "write_bytes", denied)
    with pytest.raises(RunError, match="Permission denied; choose a directory that you may write to"):
        Run.create(tmp_path / "run")


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(RunError, match="a file is in the way"):
        Run.create(tmp_path / "run")
    with pytest.raises(RunError, match="a file is in the way"):
        Run.create(tmp_path / "run" / "inner")
    assert (tmp_path / "run").read_text() == "mine"


def test_create_leaves_an_empty_directory_and_accepts_an_existing_one(tmp_path):
    assert Run.create(tmp_path / "a" / "b").path == tmp_path / "a" / "b"
    assert list(Run.create(tmp_path / "a" / "b").path.iterdir()) == []


def test_opening_what_is_not_there_names_what_is(tmp_path):
    write_json(Run.create(tmp_path / "first").file("config"), {})
    with pytest.raises(
        RunError, match=r"no run directory .*third \(there are: .*first\); train one: rotated-relu"
    ):
        Run.open(tmp_path / "third")


def test_opening_a_directory_of_runs_suggests_the_run_inside(tmp_path):
    write_json(Run.create(tmp_path / "demo" / "relu").file("config"), {})
    with pytest.raises(RunError, match=r"is not a run directory.*did you mean .*relu\?"):
        Run.open(tmp_path / "demo")


def test_missing_file_names_the_verb_that_writes_it(tmp_path):
    run = Run.create(tmp_path / "run")
    assert not run.has("compact")
    with pytest.raises(RunError, match=r"no compact\.safetensors yet.*rotated-relu prune"):
        run.need("compact")
    run.file("compact").write_bytes(b"x")
    assert run.need("compact") == run.path / "compact.safetensors"
    run.discard("compact", "onnx")
    assert not run.has("compact")


def test_only_what_was_made_from_the_former_weights_is_retired(tmp_path):
    """Of a new compacted network the trained one stays, of a new fine-tuned one the compacted one and its settings."""
    exported = {"compact.onnx", "compact.xml", "compact.bin", "compact.int8.onnx"}
    results = {"measure.json", "attack.json", "summary.json", "reproduction.json", "report.html"}
    finetuned = {"finetuned.safetensors", "finetune.json", "finetune_metrics.csv", "finetune"}
    for written, expected in (("compact", exported | results | finetuned), ("finetuned", exported | results)):
        run = Run.create(tmp_path / written)
        for name in FILES:
            run.file(name).write_text("x")
        (run.path / "finetune").mkdir()
        before = {path.name for path in run.path.iterdir()}
        assert set(run.retire(written)) == expected
        assert {path.name for path in run.path.iterdir()} == before - expected
        assert run.retire(written) == []


def test_what_cannot_be_retired_is_named_and_the_rest_goes(tmp_path, monkeypatch):
    run = Run.create(tmp_path / "run")
    for name in ("compact", "finetuned", "onnx", "report"):
        run.file(name).write_text("x")
    refuse_deletion(monkeypatch, "compact.onnx")
    with pytest.raises(RunError, match=r"cannot be deleted: compact\.onnx \(Operation not permitted\)"):
        run.retire("compact")
    assert run.has("compact")
    assert not run.has("finetuned")
    assert not run.has("report")


def test_clear_deletes_what_the_verbs_write_and_nothing_else(tmp_path):
    run = Run.create(tmp_path / "run")
    for name in FILES:
        run.file(name).write_text("x")
    (run.path / "checkpoints").mkdir()
    (run.path / "checkpoints" / "last.ckpt").write_text("x")
    (run.path / "notes.txt").write_text("mine")
    run.clear()
    assert [child.name for child in run.path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999", "-1e999", "9" * 400])
def test_numbers_that_no_verb_writes_are_no_json(tmp_path, number):
    """Infinite ones spread to every file that is made from them, and huge whole numbers become infinite there."""
    (tmp_path / "measure.json").write_text(f'{{"seconds": {number}}}')
    with pytest.raises(RunError, match=r"measure\.json is not valid JSON .*no finite number"):
        read_json(tmp_path / "measure.json")


def test_broken_json_says_which_file(tmp_path):
    (tmp_path / "config.json").write_text('{"model": ')
    with pytest.raises(RunError, match=r"config\.json is not valid JSON"):
        read_json(tmp_path / "config.json")
    with pytest.raises(RunError, match=r"gone\.json: No such file or directory; check the path"):
        read_json(tmp_path / "gone.json")


def test_metrics_are_numbers_and_empty_cells_are_left_out(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,train_loss,validation_loss\n0,0.5,\n1,0.25,0.75\n")
    assert read_metrics(path) == [
        {"epoch": 0.0, "train_loss": 0.5},
        {"epoch": 1.0, "train_loss": 0.25, "validation_loss": 0.75},
    ]
    path.write_text("epoch,train_loss\n0,oops\n")
    with pytest.raises(RunError, match="other than numbers"):
        read_metrics(path)


def test_unknown_system_error_still_has_advice(tmp_path):
    with pytest.raises(RunError, match="check the disk"), explained(tmp_path):
        raise OSError(errno.EIO, "Input/output error")


def test_every_file_has_a_verb_of_the_command_line():
    from rotated_relu.cli.app import VERBS

    assert {verb.split()[0] for _, verb in FILES.values()} <= VERBS.keys()


def test_importing_it_is_cheap():
    heavy = {"lightning", "lightning_fabric"}
    code = f"import sys, rotated_relu.core.run_directory; print(bool({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert Path(run_module.__file__).name == "run_directory.py"


def test_a_lock_that_is_a_link_is_not_written_through(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    run = Run.create(tmp_path / "run")
    run.file("lock").symlink_to(precious)
    with pytest.raises(RunError, match="it is a link, which is not followed: remove it"), run.claimed():
        pass
    assert precious.read_text() == "keep me"
