import errno
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

from lorascope.stores import Component, RunSpec, StoreError, create_run, open_place, open_run, resume_run, verify
from lorascope.stores.format.codec import compressors
from lorascope.stores.format.layout import array_specs
from lorascope.stores.places.folder import FolderPlace
from lorascope.stores.writing import create

from ..on_disk import BATCHED, edit_root, go_on, stored

F32 = "model.layers.0.mlp.up_proj"


def test_rows_come_in_any_order_and_say_how_large_they_are(make_run: Any) -> None:
    run = make_run(rows=())
    for row in (2, 0, 1):
        before = sum(f.stat().st_size for f in run.path.rglob("c.*"))
        written = run.writer.write_row(row, run.blocks[row])
        assert (written.row, written.raw_bytes) == (row, sum(block.nbytes for block in run.blocks[row].values()))
        digest = (run.path / f"rows/commit/c.{row}.0").stat().st_size
        assert sum(f.stat().st_size for f in run.path.rglob("c.*")) - before - digest == written.stored_bytes
    assert open_run(run.path).committed_rows.tolist() == [True, True, True]


def test_row_that_no_chunk_can_hold_is_refused(tmp_path: Path) -> None:
    types = {"dtype": "float32", "stored_dtype": "float32"}
    wide = Component(path="lm_head", kind="Linear", layer=-1, d_in=8, d_out=2**19, **types)
    spec = RunSpec(stream="adapted", components=(wide,), adapters=(), n_tokens=5, n_samples=1, n_choices=0)
    with pytest.raises(ValueError, match="a row of 'states/lm_head/base', .* takes 2147483648 bytes; a chunk"):
        create_run(tmp_path / "run.zarr", spec, tables={}, weights={})
    assert not (tmp_path / "run.zarr").exists()


def test_more_rows_than_one_digit_counts_keep_their_order(make_run: Any) -> None:
    run = make_run(n_tokens=12 * 1024)
    assert verify(run.path).ok
    np.testing.assert_array_equal(open_run(run.path).base(F32).values, run.whole(f"states/{F32}/base"))


def test_what_is_no_row_is_refused(make_run: Any) -> None:
    run = make_run(rows=(1,))
    blocks = run.blocks[0]
    nll = blocks["tokens/nll"]
    for row, given, words in (
        (-1, blocks, "row -1 doesn't exist; the run has 3 rows"),
        (3, blocks, "row 3 doesn't exist; the run has 3 rows"),
        (1, run.blocks[1], "row 1 is committed already"),
        (0, {k: v for k, v in blocks.items() if k != "tokens/nll"}, "every array .* no other; 'tokens/nll' differs"),
        (0, {**blocks, "tokens/nll": nll[:-1]}, r"'tokens/nll' of row 0 is float32 .* it must be float32 \(1024,\)"),
        (0, {**blocks, "tokens/nll": nll.astype(float)}, "'tokens/nll' of row 0 is float64 .* it must be float32"),
    ):
        with pytest.raises(StoreError, match=words):
            run.writer.write_row(row, given)
    assert open_run(run.path).committed_rows.tolist() == [False, True, False]


def test_finish_consolidates_and_adds_attributes(make_run: Any) -> None:
    with pytest.raises(StoreError, match="2 rows of .* aren't committed"):
        make_run("part.zarr", rows=(0,)).writer.finish({})
    run = make_run()
    attributes = open_run(run.path).attributes
    assert attributes["finished"] is True
    assert attributes["provenance"] == {"note": "small"}
    found = zarr.open_group(run.path, mode="r").members(max_depth=None)
    own = zarr.open_group(run.path, mode="r", use_consolidated=False).members(max_depth=None)
    assert {k: dict(v.attrs) for k, v in found} == {k: dict(v.attrs) for k, v in own}


def test_used_folder_is_refused_and_an_empty_one_is_taken(make_run: Any, tmp_path: Path) -> None:
    run = make_run()
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    for path, words in (("run.zarr", "holds another run"), ("file", "is a file"), ("folder", "isn't empty")):
        with pytest.raises(StoreError, match=words):
            create_run(tmp_path / path, run.spec, tables=run.tables, weights=run.weights)
    assert verify(run.path).ok
    with create_run(tmp_path / "empty", run.spec, tables=run.tables, weights=run.weights):
        pass
    assert open_run(tmp_path / "empty").n_rows == 3


def test_wrong_tables_and_weights_are_named(make_run: Any, tmp_path: Path) -> None:
    run = make_run()
    samples, strange = run.tables["samples"], {**run.weights, "adapters/other/lora_B/x": np.zeros(2)}
    without = {name: column for name, column in samples.items() if name != "ce"}
    for table, weights, words in (
        (without, run.weights, "'samples/ce' is missing; give it in the run's tables or weights"),
        ({**samples, "hue": ["a", "b"]}, run.weights, "no place in this run for 'samples/hue'"),
        ({**samples, "ce": [0.5]}, run.weights, r"'samples/ce' has shape \(1,\); the run needs \(2,\)"),
        (samples, {}, f"'adapters/default/lora_B/{F32}' is missing"),
        (samples, strange, "no place in this run for 'adapters/other/lora_B/x'"),
    ):
        with pytest.raises(StoreError, match=words):
            create_run(tmp_path / "new", run.spec, tables={**run.tables, "samples": table}, weights=weights)
    assert not (tmp_path / "new").exists()
    with pytest.raises(StoreError, match=r"'rows/states' has shape \(2,\); the run needs \(3,\)"):
        make_run("sample.zarr", states="sample", state_rows=(True, False))


def test_row_without_states_brings_fewer_arrays(make_run: Any) -> None:
    run = make_run(states="sample", state_rows=(False, True, True), rows=())
    with_states = run.blocks[1].keys() - run.blocks[0].keys()
    assert with_states == {
        *(f"states/{c.path}/base" for c in run.spec.components),
        "adapters/default/factor",
        "adapters/default/delta/model.layers.2.mlp.up_proj",
    }
    with pytest.raises(StoreError, match="row 0 must bring every array of its own and no other"):
        run.writer.write_row(0, run.blocks[1])
    with resume_run(run.path) as writer:
        for row in range(3):
            assert writer.row_arrays(row) == run.writer.row_arrays(row)
            writer.write_row(row, run.blocks[row])
        writer.finish({})
    assert verify(run.path).ok


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_full_disk_is_an_oserror_and_the_run_goes_on_once_there_is_room(make_run: Any, tmp_path: Path) -> None:
    source = make_run()
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount a tmpfs")
    try:
        with create_run(disk / "run", source.spec, tables=source.tables, weights=source.weights) as writer:
            writer.write_row(0, source.blocks[0])
            (disk / "other").write_bytes(bytes(shutil.disk_usage(disk).free - 100_000))
            full = rf"^'.*' of `{disk}/run` can't be written \(No space left on device\); free some space, and the"
            with pytest.raises(OSError, match=full) as found:
                writer.write_row(1, source.blocks[1])
            assert found.value.errno == errno.ENOSPC
        run = open_run(disk / "run")
        assert run.committed_rows.tolist() == [True, False, False]
        assert verify(run.path).ok
        (disk / "other").unlink()
        go_on(disk / "run", source)
        assert stored(disk / "run") == stored(source.path)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_interrupted_finish_leaves_the_unfinished_root(
    make_run: Any, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    run = make_run(rows=())
    for row in range(3):
        run.writer.write_row(row, run.blocks[row])
    before = (run.path / "zarr.json").read_bytes()

    def cut(*_: Any) -> None:
        raise OSError("cut")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, cut)
        with pytest.raises(OSError, match="cut"):
            run.writer.finish({})
    assert (run.path / "zarr.json").read_bytes() == before
    assert not open_run(run.path).finished
    run.writer.finish({})
    assert open_run(run.path).finished
    once = stored(run.path)
    run.writer.finish({})
    assert stored(run.path) == once


def test_everything_lasts_before_the_digest_is_begun(make_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(rows=())
    calls: list[tuple[str, str]] = []
    for name in ("write", "flush"):
        original = getattr(FolderPlace, name)

        def noted(place: FolderPlace, key: str, *rest: Any, name: str = name, original: Any = original) -> None:
            original(place, key, *rest)
            calls.append((name, key))

        monkeypatch.setattr(FolderPlace, name, noted)
    run.writer.write_row(0, run.blocks[0])
    assert calls[-2:] == [("write", "rows/commit/c.0.0"), ("flush", "rows/commit")]
    chunks = calls[:-2]
    assert {key for name, key in chunks if name == "flush"} == set(run.blocks[0])
    for path in run.blocks[0]:
        key = next(key for name, key in chunks if name == "write" and key.startswith(f"{path}/c."))
        assert chunks.index(("write", key)) < chunks.index(("flush", path))


def test_file_is_flushed_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    flush, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("flush"), flush(fd))[1])
    monkeypatch.setattr(os, "replace", lambda this, to: (calls.append("rename"), rename(this, to))[1])
    for content in (b"new", bytes(100_000)):
        calls.clear()
        place = FolderPlace(tmp_path / "run")
        place.write("x", content)
        place.flush("")
        assert calls == ["flush", "rename", "flush", "flush"]  # the file; the name in its folder; the folder's own
        assert (tmp_path / "run/x").read_bytes() == content


@pytest.mark.parametrize("codec", ["default", "zstd", "lz4", "raw"])
def test_chunks_are_what_zarr_itself_would_write(make_run: Any, tmp_path: Path, codec: str) -> None:
    run = make_run(codec=codec, biased=(True, False, False))
    assert verify(run.path).ok
    assert open_run(run.path).base(F32).values.tobytes() == run.whole(f"states/{F32}/base").tobytes()
    shutil.copytree(run.path, tmp_path / "copy")
    for chunk in (tmp_path / "copy").rglob("c.*"):
        chunk.unlink()
    settings = {"codec_pipeline.path": BATCHED, "array.write_empty_chunks": True}
    with zarr.config.set(settings):
        for path, array in zarr.open_group(tmp_path / "copy", mode="r+").members(max_depth=None):
            if isinstance(array, zarr.Array) and path != "rows/commit":  # empty once the run is finished
                array[...] = zarr.open_array(run.path / path, mode="r")[...]
    assert stored(tmp_path / "copy") == stored(run.path)


def test_failing_chunk_leaves_nothing_under_way(make_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(rows=())
    original, under_way, begun = FolderPlace.write, set(), threading.Event()

    def failing(place: FolderPlace, key: str, *content: Any) -> None:
        if key.endswith("nll/c.0"):
            assert begun.wait(10)
            raise OSError("lost")
        under_way.add(key)
        begun.set()
        time.sleep(0.05)
        original(place, key, *content)
        under_way.remove(key)

    with monkeypatch.context() as patch:
        patch.setattr(FolderPlace, "write", failing)
        with pytest.raises(OSError, match="lost"):
            run.writer.write_row(0, run.blocks[0])
        assert not under_way
    assert not run.writer.committed_rows.any()
    run.writer.write_row(0, run.blocks[0])
    assert run.writer.committed_rows.tolist() == [True, False, False]


def test_interrupted_run_is_resumed_from_its_missing_rows(make_run: Any) -> None:
    whole = make_run()
    part = make_run("part.zarr", rows=(1,))
    stale = part.path / f"states/{F32}/base/c.0.0"
    stale.write_bytes(b"half a chun")
    left = part.path / f"states/{F32}/base/.c.2.0.0123.partial"
    left.write_bytes(b"half")
    with resume_run(part.path) as writer:
        assert (writer.n_tokens, writer.n_rows) == (2148, 3)
        assert writer.row_arrays(0) == part.writer.row_arrays(0)
        writer.delete_unfinished_files()
        assert not left.exists()
        assert writer.committed_rows.tolist() == [False, True, False]
        with pytest.raises(StoreError, match="row 1 is committed already"):
            writer.write_row(1, part.blocks[1])
    go_on(part.path, part)
    assert stored(part.path) == stored(whole.path)


def test_resuming_looks_at_the_run(make_run: Any) -> None:
    with pytest.raises(StoreError, match="is finished; there is no row to write"):
        resume_run(make_run("whole.zarr").path)
    run = make_run(rows=(0,))
    edit_root(run.path, n_tokens=5, n_rows=1)
    with pytest.raises(StoreError, match="isn't laid out as a run"):
        resume_run(run.path)


def test_rows_of_other_writers_count(make_run: Any) -> None:
    run = make_run(rows=(0,))
    with resume_run(run.path) as one, resume_run(run.path) as other:
        one.write_row(1, run.blocks[1])
        with pytest.raises(StoreError, match="1 rows of .* aren't committed"):
            one.finish({})
        other.write_row(2, run.blocks[2])
        assert run.writer.committed_rows.all()
        one.finish({"provenance": {"note": "small"}})
    assert stored(run.path) == stored(make_run("whole.zarr").path)


PROCESS = """
import pickle, sys
from lorascope.stores import resume_run
path, row, blocks = pickle.load(sys.stdin.buffer)
with resume_run(path) as writer:
    writer.write_row(row, blocks)
"""


def test_processes_write_rows_of_one_run_at_once(make_run: Any) -> None:
    run = make_run(rows=())
    processes = [subprocess.Popen([sys.executable, "-c", PROCESS], stdin=subprocess.PIPE) for _ in range(3)]
    for row, process in enumerate(processes):
        assert process.stdin is not None
        process.stdin.write(pickle.dumps((run.path, row, run.blocks[row])))
        process.stdin.close()
    assert [process.wait() for process in processes] == [0, 0, 0]
    go_on(run.path, run)
    assert stored(run.path) == stored(make_run("whole.zarr").path)


def test_columns_left_out_are_not_made_and_others_always_have_a_chunk(make_run: Any) -> None:
    run = make_run()
    assert not list(run.path.glob("*/base_*"))
    for file in run.path.rglob("zarr.json"):
        if json.loads(file.read_text())["node_type"] == "array" and file.parent.name != "commit":
            assert list(file.parent.glob("c.*")), file.parent


LIMITED = """
import pickle, resource, sys
from lorascope.stores import resume_run
path, blocks = pickle.load(sys.stdin.buffer)
with resume_run(path) as writer:
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
    try:
        writer.write_row(1, blocks)
    except OSError as error:
        print(error)
"""


def test_what_the_system_refuses_is_one_line_and_the_run_goes_on(make_run: Any) -> None:
    """A process that may write no larger file, which nobody has to be root for."""
    run, whole = make_run(rows=(0,)), make_run("whole.zarr")
    given = pickle.dumps((run.path, run.blocks[1]))
    done = subprocess.run([sys.executable, "-c", LIMITED], input=given, capture_output=True, check=True)
    said = (
        rf"'states/\S+/c.1.0' of `{run.path}` can't be written \(File too large\); fix that, and the same command goes"
    )
    assert re.match(said, done.stdout.decode())
    assert done.stdout.count(b"\n") == 1
    assert open_run(run.path).committed_rows.tolist() == [True, False, False]
    go_on(run.path, run)
    assert stored(run.path) == stored(whole.path)


def test_folder_where_a_chunk_is_to_be(make_run: Any) -> None:
    run, whole = make_run(rows=(0,)), make_run("whole.zarr")
    (run.path / "tokens/nll/c.1").mkdir()
    said = f"'tokens/nll/c.1' of `{run.path}` is a folder, but must be a file; move it away, and the same command"
    with pytest.raises(IsADirectoryError, match=said):
        run.writer.write_row(1, run.blocks[1])
    (run.path / "tokens/nll/c.1").rmdir()
    go_on(run.path, run)
    assert stored(run.path) == stored(whole.path)


def at_a_chunk(patch: pytest.MonkeyPatch, what: Any) -> None:
    """Let something happen when the first chunk of a row is written."""
    original, begun = FolderPlace.write, threading.Lock()

    def write(place: FolderPlace, key: str, *content: Any) -> None:
        with begun:
            if what:
                what.pop()()
        original(place, key, *content)

    patch.setattr(FolderPlace, "write", write)


MOVED = (
    "^`.*run.zarr` was deleted or moved away while it was written; put it back and the same command goes on, or delete"
)
GONE: dict[str, tuple[type[Exception], str]] = {
    "deleted": (FileNotFoundError, MOVED),
    "moved": (FileNotFoundError, MOVED),
    "swapped": (StoreError, "^another run took the place of `.*run.zarr` while it was written; move that"),
}


@pytest.mark.parametrize("step", ["before a row", "in a row", "before the end"])
@pytest.mark.parametrize("how", GONE)
def test_run_that_is_gone_or_another_stops_its_writer(
    make_run: Any, monkeypatch: pytest.MonkeyPatch, how: str, step: str
) -> None:
    run, whole = make_run(rows=(0, 1)), make_run("whole.zarr")
    other = make_run("other.zarr", rows=(0, 1), base_ce=[1.0, 2.0])
    away, before = run.path.with_name("away"), stored(other.path)

    def take() -> None:
        shutil.rmtree(run.path) if how == "deleted" else run.path.rename(away)
        if how == "swapped":
            other.path.rename(run.path)

    if step == "before the end":
        run.writer.write_row(2, run.blocks[2])
    error, words = GONE[how]
    with monkeypatch.context() as patch:
        at_a_chunk(patch, [take] if step == "in a row" else [])
        if step != "in a row":
            take()
        with pytest.raises(error, match=words):
            run.writer.finish({}) if step == "before the end" else run.writer.write_row(2, run.blocks[2])
    assert run.path.exists() == (how == "swapped")
    if how == "swapped":
        assert open_run(run.path).committed_rows.tolist() == [True, True, False]
        if step != "in a row":
            assert stored(run.path) == before
        run.path.rename(other.path)
    if how != "deleted":
        away.rename(run.path)
    go_on(run.path, run)
    assert stored(run.path) == stored(whole.path)


@pytest.mark.parametrize("how", ["deleted", "swapped"])
def test_remote_run_that_is_gone_or_swapped(make_run: Any, s3: Any, how: str) -> None:
    run, other = make_run(n_tokens=1100), make_run("other.zarr", n_tokens=1100, base_ce=[1.0, 2.0])
    with create_run(s3.prefix, run.spec, tables=run.tables, weights=run.weights) as writer:
        writer.write_row(0, run.blocks[0])
        place = open_place(s3.prefix)
        root = (other.path / "zarr.json").read_bytes()
        place.delete(place.keys()) if how == "deleted" else place.write("zarr.json", root)
        words = "was deleted or moved away" if how == "deleted" else "another run took the place"
        with pytest.raises((FileNotFoundError, StoreError), match=words):
            writer.write_row(1, run.blocks[1])
        assert not [key for key in list(place.keys()) if key.endswith(("c.1", "c.1.0"))]


@pytest.mark.parametrize("where", ["folder", "s3"])
def test_two_that_set_up_at_the_same_moment(
    make_run: Any, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Both had found nothing there: on a file system without locks, or in an object store."""
    run = make_run(n_tokens=1100)
    path = tmp_path / "both.zarr" if where == "folder" else request.getfixturevalue("s3").prefix
    original, others = create._write_static_array, [1]
    begun = threading.Lock()

    def set_up() -> None:
        with create_run(path, run.spec, tables=run.tables, weights=run.weights) as writer:
            for row in range(2):
                writer.write_row(row, run.blocks[row])

    def overtaken(*given: Any, **options: Any) -> Any:
        with begun:
            first = others and others.pop()
        if first:
            set_up()
        return original(*given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(create, "_require_unused", lambda place: None)
        patch.setattr(create, "_write_static_array", overtaken)
        with pytest.raises((StoreError, FileNotFoundError), match="another process (set up a run at|or by hand)"):
            set_up()
    go_on(path, run)
    assert stored(path) == stored(run.path)


@pytest.mark.parametrize("codec", ["zstd", "raw"])
@pytest.mark.parametrize("states", ["all", "sample", "none"])
def test_metadata_is_what_zarr_writes(make_run: Any, codec: str, states: str) -> None:
    """Zarr's own functions, which take longer, write the same bytes."""
    rows = {"state_rows": (True, False)} if states == "sample" else {}
    run = make_run(n_tokens=1100, codec=codec, states=states, **rows)
    specs = [*array_specs(run.spec)]
    documents = create._node_documents(run.spec, {entry.path: create._array_metadata(entry, codec) for entry in specs})
    memory: dict[str, Any] = {}
    group = zarr.create_group(MemoryStore(memory), attributes=documents[""]["attributes"])
    for entry in specs:
        group.create_array(
            entry.path,
            shape=entry.shape,
            chunks=entry.chunks,
            shards=entry.shards,
            dtype=entry.dtype,
            fill_value=entry.fill,
            dimension_names=entry.dims,
            compressors=compressors(entry.dtype, codec),
            chunk_key_encoding={"name": "default", "separator": "."},
            attributes={**entry.attributes, "written": "by row" if entry.by_row else "once"},
        )
    assert {key: content.to_bytes() for key, content in memory.items()} == {
        f"{path}/zarr.json".lstrip("/"): json.dumps(node, indent=2).encode() for path, node in documents.items()
    }
    group.attrs.update({"a": "b"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # consolidated metadata are no part of Zarr's version 3 yet
        zarr.consolidate_metadata(MemoryStore(memory))
    wanted = json.loads(memory["zarr.json"].to_bytes())
    nodes = wanted["consolidated_metadata"]["metadata"]
    wanted["consolidated_metadata"]["metadata"] = {path: nodes[path] for path in sorted(nodes)}
    assert json.dumps(create._consolidated_root(documents, {"a": "b"})) == json.dumps(wanted)


def test_the_one_that_comes_later_touches_nothing(
    make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had found nothing there before the other one began."""
    run, path = make_run(n_tokens=1100), tmp_path / "both.zarr"
    original, before = create._node_documents, []

    def overtaken(*given: Any) -> Any:
        if not before:
            before.append(None)
            go_on(path, run)
            before.append(stored(path))
        return original(*given)

    monkeypatch.setattr(create, "_node_documents", overtaken)
    with pytest.raises(StoreError, match="holds another run; name a new folder"):
        create_run(path, run.spec, tables=run.tables, weights=run.weights)
    assert stored(path) == before[1]


def test_texts_that_would_not_be_read_again_are_refused(make_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorascope.stores.format.stored_array.MAX_TEXT_BYTES", 4 + 4 + 1 + 4 + 2)  # of "a" and "ü"
    words = "4 texts of 'choices/text' take 32 B, where at most 15 B can be kept; put shorter ones into the run"
    with pytest.raises(StoreError, match=words):
        make_run(n_tokens=100, columns={name: ["a", "ü"] for name in ("dataset", "split", "prompt")})


def test_long_texts_lie_in_short_chunks(make_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorascope.stores.format.stored_array.MAX_TEXT_BYTES", 10_000)
    run = make_run()
    found = open_run(run.path)
    assert found.arrays["tokens/text"].chunks == (1074,)
    assert found.tokens["text"].values.tolist() == [f"t{i}" for i in range(2148)]
    assert verify(run.path).ok


def test_more_metadata_than_would_be_read_again_are_refused(
    make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    n_bytes = (run.path / "zarr.json").stat().st_size
    monkeypatch.setattr(create, "MAX_BYTES", n_bytes - 1 + create.RESERVED_ROOT_BYTES)  # one byte too few
    with pytest.raises(StoreError, match="arrays and groups take .* of metadata, where at most .* can be kept"):
        create_run(tmp_path / "other", run.spec, tables=run.tables, weights=run.weights)
    assert not (tmp_path / "other").exists()
    monkeypatch.setattr(create, "MAX_BYTES", n_bytes * 5 // 4 + create.RESERVED_ROOT_BYTES)
    with create_run(tmp_path / "other", run.spec, tables=run.tables, weights=run.weights):
        pass
