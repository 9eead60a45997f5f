"""One suite of promises over every kind of place."""

import mmap
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest

from lorascope.stores import Place, StoreError, open_place
from lorascope.stores.places import folder, remote
from lorascope.stores.places.folder import DIRECT_BYTES, PIECE_BYTES
from lorascope.stores.places.place import with_cache


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        (tmp_path / "run").mkdir()
        return open_place(tmp_path / "run")
    return open_place(request.getfixturevalue("s3").prefix + "/run")


def test_what_is_written_is_read(place: Place) -> None:
    place.write("a/b/c.0", b"hello")
    place.write("a/b/c.0", memoryview(b"wor"), b"ld!")
    place.flush("a/b")
    assert place.read("a/b/c.0", at_most=2**31) == b"world!"
    assert place.size("a/b/c.0") == 6
    ends = ((-2, None, b"d!"), (-99, None, b"world!"))
    for start, stop, part in ((0, 2, b"wo"), (4, 100, b"d!"), (6, 9, b""), (99, 100, b""), *ends):
        assert place.read_part("a/b/c.0", start, stop, at_most=2**31) == part


def test_what_is_not_there(place: Place) -> None:
    place.write("there/x", b"")
    assert place.size("nothing") is None
    assert place.size("there/x/below") is None
    assert list(place.keys("nothing")) == []
    for read in (place.read, lambda key, at_most: place.read_part(key, 0, 5, at_most=at_most)):
        with pytest.raises(FileNotFoundError):
            read("nothing", at_most=9)
    assert place.read("there/x", at_most=2**31) == place.read_part("there/x", 0, 16, at_most=2**31) == b""
    assert place.read_part("there/x", -16, None, at_most=2**31) == b""


def test_keys_are_listed_below_a_folder(place: Place) -> None:
    for key in ("zarr.json", "a/c.0", "a/b/c.0", "ab/c.0"):
        place.write(key, key.encode())
    assert sorted(place.keys()) == ["a/b/c.0", "a/c.0", "ab/c.0", "zarr.json"]
    assert dict(place.sizes("a")) == {"a/c.0": 5, "a/b/c.0": 7}


def test_deleting_takes_what_is_there(place: Place) -> None:
    for key in ("a/b/c.0", "a/d"):
        place.write(key, b"x")
    place.delete(["a/b/c.0", "nothing", "no/such/folder"])
    assert list(place.keys()) == ["a/d"]
    if isinstance(place.path, Path):
        assert not (place.path / "a/b").exists()


def test_it_can_be_pickled_and_named(place: Place) -> None:
    place.write("c", b"x")
    copy = pickle.loads(pickle.dumps(place))
    assert copy == place
    assert copy.read("c", at_most=2**31) == b"x"
    assert copy.name == str(place.path)


def test_every_length_comes_back(place: Place) -> None:
    for n_bytes in (0, 1, DIRECT_BYTES - 1, DIRECT_BYTES, DIRECT_BYTES + 1, 2 * PIECE_BYTES + 5):
        content = os.urandom(n_bytes)
        place.write("c", content)
        assert place.read("c", at_most=2**31) == content


def test_what_is_larger_than_it_can_be_is_not_taken(place: Place) -> None:
    place.write("c", bytes(2000))
    assert place.read("c", at_most=2000) == bytes(2000)
    for one in (place, with_cache(place)):
        with pytest.raises(StoreError, match=f"`{place.name}/c` has 2 kB, where at most 2 kB can be; it isn't what"):
            one.read("c", at_most=1999)


def test_free_space_is_known_of_folders_alone(place: Place) -> None:
    free = place.free_bytes()
    assert free is None if place.remote else free > 0  # type: ignore[operator]


def test_temporary_file_is_no_key_and_is_found(tmp_path: Path) -> None:
    place = open_place(tmp_path)
    (tmp_path / "a").mkdir()
    for name in ("a/.c.0.0123.partial", "zarr.json.4567.partial", "a/c.0"):
        (tmp_path / name).write_bytes(b"x")
    assert list(place.keys()) == ["a/c.0"]
    assert list(place.sizes()) == [("a/c.0", 1)]
    assert sorted(place.temporary_files()) == ["a/.c.0.0123.partial", "zarr.json.4567.partial"]


def test_interrupted_write_leaves_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = open_place(tmp_path)
    place.write("c", b"old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    for content in (b"new", b"n" * DIRECT_BYTES):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="No space left"):
                place.write("c", content)
        assert place.read("c", at_most=2**31) == b"old"
        assert list(place.temporary_files()) == []  # what was begun is gone, so that there is room again


@pytest.mark.parametrize("step", ["open", "write", "short"])
def test_file_system_without_direct_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    original = os.open

    def refusing(path: Any, flags: int, *rest: Any) -> int:
        if flags & folder._O_DIRECT and step == "open":
            raise OSError(22, "Invalid argument")
        return original(path, flags, *rest)

    def failing(descriptor: int, content: Any) -> int:
        if step == "write":
            raise OSError(22, "Invalid argument")
        return 4096

    monkeypatch.setattr(os, "open", refusing)
    if step != "open":
        monkeypatch.setattr(os, "write", failing)
    content = os.urandom(DIRECT_BYTES + 100)
    open_place(tmp_path).write("c", content)
    assert (tmp_path / "c").read_bytes() == content


@pytest.mark.parametrize("start", [0, 1], ids=["from a page on", "from elsewhere"])
@pytest.mark.parametrize("n_bytes", [DIRECT_BYTES, DIRECT_BYTES + 5, PIECE_BYTES - 2, PIECE_BYTES, 2 * PIECE_BYTES + 7])
def test_pieces_follow_each_other(tmp_path: Path, start: int, n_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "MAX_WRITE_BYTES", 2**20)
    memory = memoryview(mmap.mmap(-1, n_bytes + 1))
    memory[:] = os.urandom(n_bytes + 1)
    pieces = (memory[start : start + n_bytes], b"seal", b"", bytes(PIECE_BYTES))
    open_place(tmp_path).write("c", *pieces)
    assert (tmp_path / "c").read_bytes() == b"".join(pieces)


def test_failing_to_open_is_no_lack_of_direct_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*_: Any) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(OSError, match="Too many open files"):
        open_place(tmp_path).write("c", bytes(DIRECT_BYTES))


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/precious").write_text("x")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/link").symlink_to(tmp_path / "outside")
    place = open_place(tmp_path / "run")
    assert list(place.keys()) == ["link"]
    place.delete(place.keys())
    assert (tmp_path / "outside/precious").exists()


def test_one_key_from_many_threads_is_one_of_theirs(tmp_path: Path) -> None:
    place = open_place(tmp_path)
    contents = [bytes([i]) * 100_000 for i in range(8)]
    threads = [threading.Thread(target=place.write, args=("c", content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert place.read("c", at_most=2**31) in contents


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://key:secret@bucket/x", "a url of kind 's3' with credentials or options in it isn't accepted"),
        ("s3://bucket/x?secret=1", "with credentials or options in it"),
        ("s3://", "`path` is 's3://', without a bucket; name one"),
        ("ftp://host/x", "`path` is 'ftp://host/x'; name a folder, or an object store"),
        ("memory://x", "name a folder, or an object store"),
    ],
)
def test_urls_of_no_use_are_refused(url: str, words: str) -> None:
    with pytest.raises(StoreError, match=words) as refused:
        open_place(url)
    assert "secret" not in str(refused.value)
    for path in ("runs/x", Path("runs/x"), "file:///tmp/runs/x"):
        assert isinstance(open_place(path), folder.FolderPlace)


def test_options_of_the_environment_reach_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_TIMEOUT", "7s")
    monkeypatch.setenv("GOOGLE_ALLOW_HTTP", "true")
    assert remote._client_options("s3://b/x") == {"connect_timeout": "10s", "timeout": "7s"}
    assert remote._client_options("gs://b/x") == {**remote.CLIENT_DEFAULTS, "allow_http": "true"}
