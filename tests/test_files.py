"""plumbing/files.py: checkpoints that are whole, or are called damaged; locks."""

import errno
import os

import pytest
import torch

from plumbing import files
from plumbing.files import (
    FORMAT,
    beside,
    load_checkpoint,
    lock,
    read_json,
    save_checkpoint,
    write_file,
)


def test_checkpoint_round_trip_and_damage(tmp_path):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"weights": torch.arange(300.0), "plain": [1, "a", {"b": None}]})
    loaded = load_checkpoint(path)
    assert torch.equal(loaded["weights"], torch.arange(300.0))
    assert loaded["plain"] == [1, "a", {"b": None}]
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    other = tmp_path / "other.pt"
    for damaged in (whole[: len(whole) // 2], bytes(flipped), b"", b"hello"):
        other.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged"):
            load_checkpoint(other)
    torch.save({"model": 1}, other)
    with pytest.raises(ValueError, match="no checkpoint of this program"):
        load_checkpoint(other)
    with pytest.raises(ValueError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "none.pt")


class Evil:
    def __reduce__(self):
        return print, ("code from a checkpoint ran",)


def test_a_checkpoint_cannot_run_code(tmp_path, capsys):
    torch.save({"format": FORMAT, "evil": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="damaged, or no checkpoint"):
        load_checkpoint(tmp_path / "evil.pt")
    assert "ran" not in capsys.readouterr().out


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"step": 1})

    def half(contents, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError):
        save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path)["step"] == 1


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_file(path, b"old")
    write_file(path, b"new")
    assert path.read_bytes() == b"new" and [*tmp_path.iterdir()] == [path]

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        write_file(path, b"newer")
    assert path.read_bytes() == b"new" and [*tmp_path.iterdir()] == [path]


def test_what_a_link_points_to_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    link = tmp_path / "link"
    link.symlink_to("there/file")
    for data in (b"old", b"new"):  # at first there is no such file
        write_file(link, data)
        assert link.is_symlink() and (tmp_path / "there" / "file").read_bytes() == data
    assert len([*tmp_path.iterdir()]) == 2


def test_a_device_or_a_pipe_is_never_replaced(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(OSError, match=f"not a file that can be replaced: '{path}'"):
        write_file(path, b"data")
    assert path.is_fifo() and [*tmp_path.iterdir()] == [path]


def test_a_file_where_a_folder_should_be_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    path = tmp_path / "file" / "page.html"
    with pytest.raises(OSError, match=f"Not a directory: '{path}'"):
        write_file(path, b"data")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff"])
def test_json_that_is_damaged_is_named(tmp_path, data):
    path = tmp_path / "config.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"{path} is damaged: "):
        read_json(path)


def test_a_file_system_without_fsync_is_told(tmp_path, monkeypatch):
    def fsync(_):
        raise OSError(errno.ENOTSUP, "not offered")

    monkeypatch.setattr(files.os, "fsync", fsync)
    with pytest.warns(UserWarning, match="no fsync on this file system"):
        write_file(tmp_path / "file", b"data")
    assert (tmp_path / "file").read_bytes() == b"data"


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, capsys):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", flock)
    path = tmp_path / "lock"
    lock(path, "taken").close()
    said = f"{path}: No locks available: start no second process here\n"
    assert capsys.readouterr().err == said


def test_a_lock_is_for_one_until_it_is_closed(tmp_path):
    path = beside(tmp_path / "new" / "base.pt", ".lock")
    assert path.name == "base.pt.lock"
    with lock(path, "taken"), pytest.raises(ValueError, match="taken"):
        lock(path, "taken")
    lock(path, "taken").close()
