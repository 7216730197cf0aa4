"""Files are whole or not there, and no link leads a writer elsewhere."""

import os
import stat

import pytest

from rotated_relu.core.files import PART, remove_leftovers, replacing


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_failure_keeps_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail():
        with replacing(path) as beside:
            beside.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_success_replaces_it_with_ordinary_permissions(tmp_path):
    path = tmp_path / "a.txt"
    before = os.umask(0o022)
    try:
        with replacing(path) as beside:
            beside.write_text("new")
    finally:
        os.umask(before)
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert names(tmp_path) == ["a.txt"]


def test_a_link_in_its_place_is_replaced_not_followed(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("keep")
    path = tmp_path / "a.txt"
    path.symlink_to(precious)
    with replacing(path) as beside:
        beside.write_text("new")
    assert precious.read_text() == "keep"
    assert path.read_text() == "new"
    assert not path.is_symlink()


def test_two_writers_do_not_share_a_file(tmp_path):
    path = tmp_path / "a.txt"
    with replacing(path) as one, replacing(path) as other:
        assert one != other
        one.write_text("1")
        other.write_text("2")
    assert path.read_text() == "1"


def test_leftovers_are_found_by_their_name(tmp_path):
    with replacing(tmp_path / "a.txt") as beside:
        assert beside.name.startswith(".a.txt.")
        assert beside.name.endswith(PART)
        beside.write_text("x")
    (tmp_path / f".b.txt.123{PART}").write_text("half")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["a.txt"]
