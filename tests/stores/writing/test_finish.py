"""The last step of a run: the digests of all rows in one object, then the root, then those of single rows go."""

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from lorascope.stores import StoreError, create_run, open_run, pull, verify
from lorascope.stores.places.folder import FolderPlace
from lorascope.stores.reading.read import missing_chunks

from ..on_disk import damage, go_on, stored, unfinish

DIGEST = "rows/digest/c.0.0"


class Killed(BaseException):
    """Stands for a signal that nothing catches."""


def kill_at(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    """Let only n more writes, flushes and deletions at places happen."""
    done: list[str] = []
    for name in ("write", "flush", "delete"):
        original: Callable[..., None] = getattr(FolderPlace, name)

        def step(place: FolderPlace, key: Any, *rest: Any, original: Any = original) -> None:
            if len(done) == n:
                raise Killed
            done.append(str(key))
            original(place, key, *rest)

        monkeypatch.setattr(FolderPlace, name, step)


def digest_keys(path: Any) -> list[str]:
    return sorted(key for key in stored(path) if key.startswith("rows/") and "/c." in key)


def test_finished_run_has_one_object_of_digests(make_run: Any) -> None:
    run, before = make_run(), make_run("before.zarr")
    unfinish(before.path)
    assert digest_keys(run.path) == [DIGEST]
    assert digest_keys(before.path) == [f"rows/commit/c.{row}.0" for row in range(3)]
    one, other = open_run(run.path), open_run(before.path)
    assert [one.digest(row).tolist() for row in range(3)] == [other.digest(row).tolist() for row in range(3)]
    assert missing_chunks(run.path) == missing_chunks(before.path) == []
    go_on(before.path, before)
    assert stored(before.path) == stored(run.path)
    assert other.committed_rows.all()  # which were read before the run was finished
    (run.path / DIGEST).unlink()
    assert missing_chunks(run.path) == [DIGEST]


def test_run_that_was_finished_since_it_was_opened_is_read(make_run: Any) -> None:
    run = make_run()
    unfinish(run.path, 1)
    opened, writer = open_run(run.path), open_run(run.path)
    assert writer.committed_rows.tolist() == [True, False, True]
    go_on(run.path, run)
    assert opened.committed_rows.all()
    assert run.writer.committed_rows.all()
    run.writer.finish({"measured": {"seconds": 1}})
    assert open_run(run.path).attributes["measured"] == {"seconds": 1}
    assert verify(run.path).ok


def test_killed_at_every_operation_of_the_last_step(make_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is unfinished as before, or finished; the same step again makes it what it would have been."""
    whole = stored(make_run("whole.zarr").path)
    states = []
    for n in count():
        run = make_run(f"{n}.zarr")
        unfinish(run.path)
        with monkeypatch.context() as patch:
            kill_at(patch, n)
            try:
                run.writer.finish({})
                killed = False
            except Killed:
                killed = True
        opened = open_run(run.path)
        states.append(opened.finished)
        assert opened.committed_rows.all()
        assert verify(run.path).ok
        run.writer.finish({})
        assert stored(run.path) == whole
        if not killed:
            break
    # The object and its folder, the root and its folder, the digests of single rows.
    assert states == [False, False, False, True, True, True]


def test_copy_that_was_killed_after_it_was_finished_is_cleaned(
    make_run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    source, out = make_run().path, tmp_path / "out.zarr"

    def killed(place: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("lorascope.stores.writing.write.delete_commits", killed)
        with pytest.raises(Killed):
            pull(source, out)
    assert len(digest_keys(out)) == 4
    assert verify(out).ok
    pull(source, out)
    assert digest_keys(out) == [DIGEST]


def test_run_is_finished_where_nobody_may_delete(make_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run()
    unfinish(run.path)

    def refuse(place: FolderPlace, keys: Any) -> None:
        raise PermissionError("deletions are refused")

    monkeypatch.setattr(FolderPlace, "delete", refuse)
    run.writer.finish({})
    assert len(digest_keys(run.path)) == 4
    assert open_run(run.path).finished
    assert verify(run.path).ok


def test_digests_are_in_chunks_of_their_array(make_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorascope.stores.format.layout.TABLE_CHUNK", 2)
    monkeypatch.setattr("lorascope.stores.reading.read.layout_problems", lambda *_, **__: [])  # chunks so short
    run = make_run()
    assert digest_keys(run.path) == ["rows/digest/c.0.0", "rows/digest/c.1.0"]
    assert run.writer.committed_rows.all()


@pytest.mark.parametrize("how", ["missing", "empty", "truncated", "flip"])
def test_damaged_object_of_digests_is_found(make_run: Any, how: str) -> None:
    run = make_run()
    damage(run.path / DIGEST, how)
    for level in ("digests", "statistics"):
        (problem,) = verify(run.path, level=level).problems
        assert problem.place == "rows/digest"
        assert DIGEST in problem.message
    with pytest.raises(StoreError, match=DIGEST):
        open_run(run.path).base("model.layers.0.mlp.up_proj")


def test_digests_of_another_run_are_found_though_their_checksum_is_right(make_run: Any) -> None:
    run, other = make_run(), make_run("other.zarr", dtypes=("float32",) * 3)
    (run.path / DIGEST).write_bytes((other.path / DIGEST).read_bytes())
    with pytest.raises(StoreError, match="digests of rows, 'rows/digest', aren't what was written"):
        open_run(run.path).committed_rows
    assert [problem.place for problem in verify(run.path).problems] == ["rows/digest"]


def test_digests_of_a_finished_run_are_read_by_one_request(make_run: Any, s3: Any) -> None:
    requests = []
    for n_tokens in (1000, 5000):
        run, url = make_run(f"{n_tokens}.zarr", n_tokens=n_tokens), f"{s3.prefix}/{n_tokens}.zarr"
        with create_run(url, run.spec, tables=run.tables, weights=run.weights) as writer:
            for row in range(run.spec.n_rows):
                writer.write_row(row, run.blocks[row])
            writer.finish({})
        opened = open_run(url)
        s3.counted_from_now(lambda index, method: None)
        assert opened.committed_rows.all()
        requests.append([request.split()[0] for request in s3.requests])
        assert digest_keys(url) == [DIGEST]
    assert requests == [["GET"], ["GET"]]
