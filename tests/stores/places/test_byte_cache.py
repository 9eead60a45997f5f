"""Chunks of an object store kept by their reader: how many requests that takes, and that nobody is misled by it."""

import os
import pickle
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorascope.stores import create_run, open_place, open_run, verify
from lorascope.stores.places import byte_cache
from lorascope.stores.places.byte_cache import ENTRY_BYTES, ByteCache
from lorascope.stores.places.place import with_cache
from lorascope.stores.places.remote import _is_unchanging_key
from lorascope.stores.reading.read import checked_run, open_root

COMPONENTS = tuple(f"model.layers.{i}.mlp.up_proj" for i in range(3))
F32 = COMPONENTS[0]
BASE = f"states/{F32}/base/c.0.0"


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch) -> ByteCache:
    """A small one that begins with nothing."""
    fresh = ByteCache(2**20)
    monkeypatch.setattr(byte_cache, "_cache", fresh)
    return fresh


@pytest.fixture
def place(s3: Any) -> Any:
    found = with_cache(open_place(f"{s3.prefix}/run"))
    found.write("a/c.0", b"hello")
    s3.counted_from_now(lambda index, method: None)
    return found


@pytest.fixture
def remote(make_run: Any, s3: Any) -> Any:
    """A run of three factored components, in a bucket."""
    run = make_run(factored=(True, True, True))
    with create_run(s3.prefix, run.spec, tables=run.tables, weights=run.weights) as writer:
        for row in range(3):
            writer.write_row(row, run.blocks[row])
        writer.finish({})
    return run


def requests_of(s3: Any) -> Counter[str]:
    return Counter(request.split()[0] for request in s3.requests)


def read_row(run: Any, row: int) -> None:
    for component in run.component_paths:
        run.base_rows(component).read_row(row)
        run.delta_arrays(component).rows.read_row(row)


def test_row_of_n_components_takes_n_requests_and_one(remote: Any, s3: Any) -> None:
    run = open_run(s3.prefix)
    read_row(run, 0)  # tables are asked for once
    s3.counted_from_now(lambda index, method: None)
    read_row(run, 1)
    assert requests_of(s3) == {"GET": 4}
    assert len(set(s3.requests)) == 4
    plain = checked_run(*open_root(s3.prefix))
    read_row(plain, 0)
    s3.counted_from_now(lambda index, method: None)
    read_row(plain, 1)
    assert requests_of(s3) == {"GET": 2 * 3}  # each component asks for the shard of factors again


def test_parts_of_a_chunk_are_one_request(place: Any, s3: Any) -> None:
    assert [
        place.size("a/c.0"),
        place.read_part("a/c.0", 1, 3, at_most=2**31),
        place.read_part("a/c.0", 9, 11, at_most=2**31),
    ] == [5, b"el", b""]
    assert place.read("a/c.0", at_most=2**31) == b"hello"
    assert requests_of(s3) == {"GET": 1}
    assert place.size("a/c.1") is None
    with pytest.raises(FileNotFoundError):
        place.read("a/c.1", at_most=2**31)


def test_only_chunks_that_never_change_are_kept(place: Any, s3: Any) -> None:
    names = {"states/x/base/c.0.0": True, "tokens/nll/c.7": True, "zarr.json": False, "states/x/base/zarr.json": False}
    assert {key: _is_unchanging_key(key) for key in names} == names
    assert not _is_unchanging_key("rows/digest/c.0.0")
    for key in ("zarr.json", "rows/digest/c.0.0"):
        for content in (b"one", b"other"):
            open_place(place.path).write(key, content)
            assert place.read(key, at_most=2**31) == content
            assert place.read_part(key, 0, 2, at_most=2**31) == content[:2]
            assert place.size(key) == len(content)


def test_what_is_written_or_deleted_through_it_drops_out(place: Any) -> None:
    assert place.read("a/c.0", at_most=2**31) == b"hello"
    place.write("a/c.0", b"other")
    assert place.read("a/c.0", at_most=2**31) == b"other"
    place.delete(["a/c.0"])
    assert place.size("a/c.0") is None


def test_folders_are_not_kept(tmp_path: Path) -> None:
    folder = open_place(tmp_path)
    assert with_cache(folder) is folder


def test_verify_and_who_opens_anew_see_what_is_there_now(remote: Any, s3: Any) -> None:
    run = open_run(s3.prefix)
    before = run.base(F32).values
    assert verify(s3.prefix).ok
    place = open_place(s3.prefix)
    content = bytearray(place.read(BASE, at_most=2**31))
    content[-9] ^= 1
    place.write(BASE, bytes(content))
    np.testing.assert_array_equal(run.base(F32).values, before)
    assert [problem.place for problem in verify(s3.prefix).problems][:1] == [BASE]
    with pytest.raises(ValueError, match="is broken"):
        open_run(s3.prefix).base(F32).values


def test_pickled_places_bring_nothing_and_share_what_they_find(remote: Any, s3: Any, cache: ByteCache) -> None:
    run = open_run(s3.prefix)
    read_row(run, 0)
    rows = [run.base_rows(component) for component in COMPONENTS]
    sources = [run.delta_arrays(component) for component in COMPONENTS]
    sent = pickle.dumps((rows, sources))
    assert len(sent) < 3000 * len(COMPONENTS)
    assert b"a-secret" not in sent
    byte_cache._cache = ByteCache(2**20)  # as in another process; `cache` puts it back
    rows, sources = pickle.loads(sent)
    s3.counted_from_now(lambda index, method: None)
    for one, source in zip(rows, sources, strict=True):
        one.read_row(0)
        source.rows.read_row(0)
    assert requests_of(s3) == {"GET": 4}


def test_large_objects_are_read_by_parts_and_not_kept(place: Any, s3: Any, cache: ByteCache) -> None:
    large = bytes(cache.largest_bytes + 1)
    place.write("a/c.1", large)
    s3.counted_from_now(lambda index, method: None)
    for _ in range(2):
        assert place.read_part("a/c.1", 5, 9, at_most=2**31) == bytes(4)
        assert place.size("a/c.1") == len(large)
        assert place.read("a/c.1", at_most=2**31) == large
    assert cache.n_bytes < 10 * ENTRY_BYTES
    assert requests_of(s3) == {"GET": 1 + 1 + 2, "HEAD": 2}  # a part is kept, and that it is large
    place.write("a/c.1", b"small now")
    assert place.read("a/c.1", at_most=2**31) == place.read_part("a/c.1", 0, 9, at_most=2**31) == b"small now"


def test_memory_is_bounded_and_the_latest_used_stay() -> None:
    cache = ByteCache(10 * (100 + ENTRY_BYTES))
    fetched: list[int] = []

    def get(key: int) -> None:
        cache.get((key,), lambda: fetched.append(key) or bytes(100))

    for key in range(40):
        get(key)
        get(0)
        assert cache.n_bytes <= cache.max_bytes
        assert cache.n_bytes == sum(ENTRY_BYTES + len(one or b"") for one in cache._entries.values())
    assert fetched == list(range(40))
    get(39)
    get(1)
    assert fetched[40:] == [1]
    cache.discard((1,))
    cache.discard(("nothing",))
    assert cache.n_bytes == 9 * (100 + ENTRY_BYTES)


@pytest.mark.parametrize("how", ["answered", "failed", "interrupted"])
def test_who_asks_meanwhile_waits_for_the_first(how: str) -> None:
    """A failure is everybody's and isn't kept; an interrupt is its own thread's alone."""
    cache = ByteCache(2**20)
    begun, answered = threading.Event(), threading.Event()
    fetched = []

    def fetch() -> bytes:
        fetched.append(1)
        begun.set()
        assert answered.wait(10)
        if how == "failed":
            raise OSError("lost")
        if how == "interrupted" and len(fetched) == 1:
            raise KeyboardInterrupt
        return b"x"

    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(cache.get, ("key",), fetch)
        assert begun.wait(10)
        others = [pool.submit(cache.get, ("key",), fetch) for _ in range(7)]
        time.sleep(0.05)  # for the others to be waiting
        answered.set()
        if how != "answered":
            with pytest.raises(OSError if how == "failed" else KeyboardInterrupt):
                first.result(10)
        for one in others:
            if how == "failed":
                with pytest.raises(OSError, match="lost"):
                    one.result(10)
            else:
                assert one.result(10) == b"x"
    assert len(fetched) == (2 if how == "interrupted" else 1)
    assert cache.get(("key",), lambda: b"there") == (b"there" if how == "failed" else b"x")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_waits_for_nobody(cache: ByteCache) -> None:
    """Neither for a fetch that was under way in the old process, nor for its lock."""
    begun, answered = threading.Event(), threading.Event()
    old = byte_cache._cache

    def fetch() -> bytes:
        begun.set()
        assert answered.wait(20)
        return b"x"

    thread = threading.Thread(target=old.get, args=(("key",), fetch))
    thread.start()
    assert begun.wait(10)
    with old._lock:
        child = os.fork()
        if child == 0:
            signal.alarm(5)  # ends it where it waits
            new = byte_cache._cache
            os._exit(0 if new.max_bytes == old.max_bytes and new.get(("key",), lambda: b"y") == b"y" else 1)
    _, status = os.waitpid(child, 0)
    answered.set()
    thread.join(10)
    assert os.waitstatus_to_exitcode(status) == 0
    assert byte_cache._cache is old


def test_what_is_discarded_while_it_is_fetched_is_not_kept() -> None:
    cache = ByteCache(2**20)

    def fetch() -> bytes:
        cache.discard(("key",))  # written by another thread meanwhile
        return b"old"

    assert cache.get(("key",), fetch) == b"old"
    assert cache.get(("key",), lambda: b"new") == b"new"
