"""Nothing is read before it is known to be a file of a possible size."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from lorascope.stores import StoreError
from lorascope.stores.places.files import open_regular, read_regular

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
