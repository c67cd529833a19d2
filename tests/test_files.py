"""Whole files or none, and strict JSON."""

import errno
import os

import pytest

from lipdiag import files
from lipdiag.errors import CheckpointError, StorageError
from lipdiag.files import (
    aside,
    atomic_write,
    make_folder,
    open_regular,
    parse_json,
    read_json,
    replace_folder,
    restore,
    shown,
    staged,
)


def test_a_file_is_written_with_the_permissions_of_a_new_one_and_nothing_beside_it(tmp_path):
    atomic_write(tmp_path / "x", b"abc")
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "x").read_bytes() == b"abc"
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert {file.name for file in tmp_path.iterdir()} == {"x", "plain"}


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "sub" / "x")
    atomic_write(tmp_path / "link", b"1")
    atomic_write(tmp_path / "link", b"2")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "sub" / "x").read_bytes() == b"2"


@pytest.mark.parametrize("stage", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, stage):
    atomic_write(tmp_path / "x", b"old")

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, stage, fail)
    with pytest.raises(StorageError, match=r"x: no space left on device \(\d+ bytes are free\)"):
        atomic_write(tmp_path / "x", b"new")
    monkeypatch.undo()
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("x", b"old")]


def test_a_folder_made_by_a_dead_process_is_removed_and_one_that_is_being_made_is_not(tmp_path):
    (tmp_path / ".x.0123456789ab" / "new").mkdir(parents=True)
    with staged(tmp_path / "x") as alive:
        alive.mkdir()
        with staged(tmp_path / "x") as other:
            other.mkdir()
            replace_folder(other, tmp_path / "x")
        assert {file.name for file in tmp_path.iterdir()} == {"x", alive.parent.name}
    assert {file.name for file in tmp_path.iterdir()} == {"x"}


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_folder_is_replaced_or_stays(tmp_path, monkeypatch, stage):
    """A disk that is full at any of the renames; what it leaves is brought back, or removed."""
    for name in ("x", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    real, calls = os.rename, []

    def full(source, target):
        calls.append(target)
        if len(calls) == stage:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match="space"):
        replace_folder(tmp_path / "new", tmp_path / "x")
    assert [file.name for file in (tmp_path / "x").iterdir()] == ["new" if stage == 3 else "x"]
    restore(tmp_path / "x")
    assert not aside(tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("place", "word"), [("missing/x", "no such file"), (".", "not a regular file"), ("file/x", "not a directory")]
)
def test_a_place_that_cannot_be_written_is_named(tmp_path, place, word):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=word):
        atomic_write(tmp_path / place, b"")


def test_a_folder_in_the_way_of_a_file_is_named(tmp_path):
    (tmp_path / "x").write_text("")
    make_folder(tmp_path / "a" / "b")
    with pytest.raises(StorageError, match="in the way"):
        make_folder(tmp_path / "x")


@pytest.mark.parametrize(
    ("kind", "word"), [("missing", "no file"), ("folder", "a folder"), ("pipe", "not a regular file"),
                       ("empty", "0 bytes"), ("loop", "links"), ("zero", "null byte")]
)  # fmt: skip
def test_what_is_no_file_is_refused_at_once(tmp_path, kind, word):
    path = tmp_path / "x"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "empty":
        path.touch()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "zero":
        path = tmp_path / "a\0b"
    with pytest.raises(CheckpointError, match=word), open_regular(path):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(tmp_path):
    (tmp_path / "x").write_text("{}")
    (tmp_path / "x").chmod(0)
    with pytest.raises(CheckpointError, match="permission denied"):
        read_json(tmp_path / "x")


def test_json_is_read_with_a_byte_order_mark(tmp_path):
    (tmp_path / "x").write_bytes(b'\xef\xbb\xbf{"a": [1, 2.5, null]}')
    assert read_json(tmp_path / "x") == {"a": [1, 2.5, None]}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('{"a": NaN}', "NaN"), ('{"a": -Infinity}', "Infinity"), ('{"a": 1e999}', "too large"), ("[1]", "list"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' appears twice"), ('{"a": ', "JSON"), (b"\xff\xfe{", "JSON"),
        ('{"a":' * 100_000 + "1", "deeply"), ('{"a": ' + "9" * 5000 + "}", "JSON"), (" " * 1_000_001, "larger"),
        ('"' + "x" * 10 + '"', "str"),
    ],
)  # fmt: skip
def test_loose_json_is_refused(text, word):
    with pytest.raises(CheckpointError, match=word):
        parse_json(text, "the file")


def test_control_characters_are_not_printed():
    assert shown("a\x1b[31m\nb\u202e\udcff") == "a\\x1b[31m\\nb\\u202e\\udcff"
    assert len(shown("x" * 10_000)) == 200
