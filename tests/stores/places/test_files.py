"""Nothing is read before it is known to be a file of a possible size."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from lorascope.stores import StoreError
from lorascope.stores.places.files import DiskFullError, atomic_write, explain_full_disk, open_regular, read_regular

KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "folder": (Path.mkdir, "is a folder, not a file; put the file back"),
    "named pipe": (os.mkfifo, "is a named pipe, not a file"),
    "socket": (lambda path: os.mknod(path, stat.S_IFSOCK | 0o600), "is a socket, not a file"),
    "link to a device": (lambda path: path.symlink_to("/dev/zero"), "is a device, not a file"),
    "too large": (lambda path: path.write_bytes(bytes(1001)), "has 1 kB, where at most 1 kB can be; it isn't what was"),
    "sparse": (lambda path: (path.touch(), os.truncate(path, 40 * 10**9)), "has 40 GB, where at most 1 kB can be"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_of_a_possible_size_is_refused(tmp_path: Path, kind: str) -> None:
    make, words = KINDS[kind]
    make(tmp_path / "x")
    for read in (open_regular, read_regular):
        with pytest.raises(StoreError, match=f"`{tmp_path}/x` {words}"):
            read(tmp_path / "x", at_most=1000)


def test_regular_files_are_read_through_links(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"x" * 1000)
    (tmp_path / "link").symlink_to("there")
    assert read_regular(tmp_path / "link", at_most=1000) == b"x" * 1000
    with open_regular(tmp_path / "there", at_most=1000) as file:
        os.truncate(tmp_path / "there", 40 * 10**9)  # what has grown since isn't taken
        assert file.read(3) == b"xxx"


@pytest.mark.parametrize("name", ["nothing", "loop", "dangling", "n" * 300, "file/below"])
def test_what_leads_nowhere_is_not_there(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nothing")
    with pytest.raises((FileNotFoundError, NotADirectoryError)):
        read_regular(tmp_path / name, at_most=9)


def test_a_file_swapped_for_a_pipe_while_it_is_opened_does_not_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x").touch()
    found = os.stat(tmp_path / "x")
    (tmp_path / "x").unlink()
    os.mkfifo(tmp_path / "x")
    monkeypatch.setattr(os, "stat", lambda path: found)
    with pytest.raises(StoreError, match="is a named pipe"):
        read_regular(tmp_path / "x", at_most=9)


class ForeignError(Exception):
    """An error of a library that isn't one of Python's."""


FULL: dict[str, tuple[Exception, int]] = {
    "number": (OSError(errno.ENOSPC, "No space left on device"), 10**9),
    "quota": (OSError(errno.EDQUOT, "Disk quota exceeded"), 10**9),
    "safetensors": (ForeignError("Error while serializing: I/O error: No space left on device (os error 28)"), 10**9),
    "netCDF": (RuntimeError("NetCDF: HDF error"), 0),
    "netCDF, new file": (PermissionError(errno.EACCES, "Permission denied"), 0),
}


@pytest.mark.parametrize("kind", FULL)
def test_a_full_disk_is_told_whatever_a_library_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    error, n_free = FULL[kind]
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=n_free))
    target = tmp_path / "result"
    words = f"^`{target}` can't be written \\((No space left on device|Disk quota exceeded)\\): "
    for left in ("nothing of it is left", "what was there is unchanged"):
        with pytest.raises(DiskFullError, match=f"{words}{left}; free some space, and give the same command again$"):
            fail_within(error, target)
        assert [path.name for path in tmp_path.iterdir()] == ["result"] * target.exists()
        target.write_text("older")
    assert target.read_text() == "older"


def fail_within(error: Exception, target: Path) -> None:
    """Raise an error after half of a file was written."""
    with atomic_write(target) as partial:
        partial.write_text("half")
        raise error


def test_other_errors_stay_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (RuntimeError("x"), OSError(errno.EIO, "Input/output error"), ForeignError("(os error 5)")):
        with pytest.raises(type(error)) as raised:
            fail_within(error, tmp_path / "result")
        assert raised.value is error
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=0))
    with pytest.raises(KeyError), explain_full_disk(tmp_path / "result", "x"):  # no error of writing
        raise KeyError("x")


def fail_within_folder(error: Exception, folder: Path, *, inside: bool) -> None:
    """Raise an error while a folder is written, at a file in it or next to it."""
    with atomic_write(folder) as partial:
        partial.mkdir()
        fail_within(error, (partial if inside else folder.parent) / "index")


def test_the_file_that_stays_is_named(tmp_path: Path) -> None:
    """A part of an unfinished folder isn't one: that folder is."""
    full = OSError(errno.ENOSPC, "No space left on device")
    for inside, named in ((False, "index"), (True, "bundle")):
        with pytest.raises(DiskFullError, match=f"`{tmp_path}/{named}` can't"):
            fail_within_folder(full, tmp_path / "bundle", inside=inside)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOENT, errno.ENAMETOOLONG, errno.EACCES])
def test_a_disk_without_free_bytes_is_not_called_full_for_other_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Images of disks that can only be read have no free bytes, and neither has /proc."""
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=0))
    monkeypatch.setattr("os.access", lambda *_: number != errno.EACCES)
    error = OSError(number, os.strerror(number))
    with pytest.raises(type(error)) as raised:
        fail_within(error, tmp_path / "result")
    assert raised.value is error
