import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from lorascope.stores import StoreError, create_run, open_run, verify
from lorascope.stores.digest import replace_file


def test_rows_come_in_any_order(make_run: Any) -> None:
    run = make_run(rows=())
    for row in (2, 0, 1):
        written = run.writer.write_row(row, run.blocks[row])
        assert written.row == row
        assert written.raw_bytes == sum(block.nbytes for block in run.blocks[row].values())
        assert written.stored_bytes > 0
    assert open_run(run.path).committed_rows.tolist() == [True, True, True]


def test_stored_bytes_are_those_on_disk(make_run: Any) -> None:
    run = make_run(rows=())
    before = sum(f.stat().st_size for f in run.path.rglob("c.*"))
    stored = run.writer.write_row(1, run.blocks[1]).stored_bytes
    digest = (run.path / "rows/digest/c.1.0").stat().st_size
    assert sum(f.stat().st_size for f in run.path.rglob("c.*")) - before - digest == stored


@pytest.mark.parametrize("codec", ["zstd", "raw"])
def test_codecs_keep_every_bit(make_run: Any, codec: str) -> None:
    run = make_run(codec=codec)
    assert verify(run.path).ok
    read = open_run(run.path).base("model.layers.0.mlp.up_proj").values
    assert read.tobytes() == run.whole("states/model.layers.0.mlp.up_proj/base").tobytes()


def test_row_is_written_once(make_run: Any) -> None:
    run = make_run(rows=(0,))
    with pytest.raises(StoreError, match="row 0 is committed already"):
        run.writer.write_row(0, run.blocks[0])


@pytest.mark.parametrize("row", [-1, 3])
def test_row_outside_is_refused(make_run: Any, row: int) -> None:
    run = make_run(rows=())
    with pytest.raises(StoreError, match=f"row {row} doesn't exist; the run has 3 rows"):
        run.writer.write_row(row, run.blocks[0])


def test_row_must_bring_every_array(make_run: Any) -> None:
    run = make_run(rows=())
    blocks = {k: v for k, v in run.blocks[0].items() if k != "tokens/nll"}
    with pytest.raises(StoreError, match="must bring every array of the run and no other; 'tokens/nll' differs"):
        run.writer.write_row(0, blocks)
    assert not open_run(run.path).committed_rows.any()


@pytest.mark.parametrize("change", ["short", "dtype"])
def test_wrong_blocks_are_refused(make_run: Any, change: str) -> None:
    run = make_run(rows=())
    blocks = dict(run.blocks[0])
    nll = blocks["tokens/nll"]
    blocks["tokens/nll"] = nll[:-1] if change == "short" else nll.astype(np.float64)
    with pytest.raises(StoreError, match=r"'tokens/nll' of row 0 is float.* it must be float32 \(1024,\)"):
        run.writer.write_row(0, blocks)


def test_unfinished_run_can_not_be_finished(make_run: Any) -> None:
    run = make_run(rows=(0,))
    with pytest.raises(StoreError, match="2 rows of .* aren't committed"):
        run.writer.finish({})


def test_finish_consolidates_and_adds_attributes(make_run: Any) -> None:
    run = make_run()
    attributes = open_run(run.path).attributes
    assert attributes["finished"] is True
    assert attributes["provenance"] == {"note": "small"}
    assert b"consolidated_metadata" in (run.path / "zarr.json").read_bytes()


@pytest.mark.parametrize("kind", ["run", "file", "folder"])
def test_used_folder_is_refused(make_run: Any, tmp_path: Path, kind: str) -> None:
    run = make_run()
    path = run.path
    if kind == "file":
        path = tmp_path / "file"
        path.write_text("x")
    if kind == "folder":
        path = tmp_path / "folder"
        path.mkdir()
        (path / "notes.txt").write_text("x")
    words = {"run": "holds another run", "file": "is a file", "folder": "isn't empty"}[kind]
    with pytest.raises(StoreError, match=words):
        create_run(path, run.spec, tables=run.tables, weights=run.weights)
    assert verify(run.path).ok


def test_empty_folder_is_taken(make_run: Any, tmp_path: Path) -> None:
    run = make_run()
    (tmp_path / "empty").mkdir()
    with create_run(tmp_path / "empty", run.spec, tables=run.tables, weights=run.weights):
        pass
    assert open_run(tmp_path / "empty").n_rows == 3


def test_missing_column_is_named(make_run: Any, tmp_path: Path) -> None:
    run = make_run()
    tables = {**run.tables, "samples": {k: v for k, v in run.tables["samples"].items() if k != "ce"}}
    with pytest.raises(StoreError, match="table `samples` lacks the column 'ce'"):
        create_run(tmp_path / "new", run.spec, tables=tables, weights=run.weights)


def test_unknown_column_is_named(make_run: Any, tmp_path: Path) -> None:
    run = make_run()
    tables = {**run.tables, "samples": {**run.tables["samples"], "colour": ["a", "b"]}}
    with pytest.raises(StoreError, match=r"table `samples` has columns that the format doesn't know: \['colour'\]"):
        create_run(tmp_path / "new", run.spec, tables=tables, weights=run.weights)


def test_wrong_table_length_is_named(make_run: Any, tmp_path: Path) -> None:
    run = make_run()
    tables = {**run.tables, "samples": {**run.tables["samples"], "ce": [0.5]}}
    with pytest.raises(StoreError, match=r"'samples/ce' has shape \(1,\); the run needs \(2,\)"):
        create_run(tmp_path / "new", run.spec, tables=tables, weights=run.weights)


def test_missing_and_unknown_weights_are_named(make_run: Any, tmp_path: Path) -> None:
    run = make_run()
    with pytest.raises(StoreError, match="weight 'adapters/default/lora_B/model.layers.0.mlp.up_proj' is missing"):
        create_run(tmp_path / "new", run.spec, tables=run.tables, weights={})
    with pytest.raises(StoreError, match="no place in this run for 'adapters/other/lora_B/x'"):
        create_run(
            tmp_path / "new",
            run.spec,
            tables=run.tables,
            weights={**run.weights, "adapters/other/lora_B/x": np.zeros(2)},
        )
    assert not (tmp_path / "new").exists()


KILLED = textwrap.dedent(
    """
    import os, pathlib, signal, sys
    sys.path.insert(0, sys.argv[1])
    import numpy as np
    import conftest
    from lorascope.stores import create_run, write
    make = next(conftest.make_run._get_wrapped_function()(pathlib.Path(sys.argv[2])))
    n_files = int(sys.argv[3])
    original, calls = write.hash_file, iter(range(10**9))
    def dying(path, *, flush=False):
        if next(calls) == n_files:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(path, flush=flush)
    write.hash_file = dying
    make()
    """
)


@pytest.mark.parametrize("n_files", [0, 3, 7, 8, 15, 20])
def test_sigkill_leaves_whole_rows_only(tmp_path: Path, n_files: int) -> None:
    """Killed before the n-th flush of the writing: 8 a row, 7 chunks and the digest, so row n // 8 is never there."""
    folder = Path(__file__).parent
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(tmp_path), str(n_files)], check=False)
    assert done.returncode == -signal.SIGKILL
    run = open_run(tmp_path / "run.zarr")
    assert not run.finished
    n_committed = int(run.committed_rows.sum())
    # The digest of the row under way may already have its name when its flush is interrupted.
    assert n_committed in {n_files // 8, n_files // 8 + (n_files % 8 == 7)}
    verdict = verify(run.path)
    assert [p for p in verdict.problems if p.kind != "nothing"] == []
    states = run.base("model.layers.0.mlp.up_proj").values
    assert np.isnan(states[n_committed * 1024 :]).all()
    assert not np.isnan(states[: n_committed * 1024]).any()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_full_disk_is_an_oserror_and_keeps_committed_rows(make_run: Any, tmp_path: Path) -> None:
    source = make_run(rows=())
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=640k", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount a tmpfs")
    try:
        with create_run(disk / "run", source.spec, tables=source.tables, weights=source.weights) as writer:
            writer.write_row(0, source.blocks[0])
            with pytest.raises(OSError, match="No space left on device"):
                writer.write_row(1, source.blocks[1])
        run = open_run(disk / "run")
        assert run.committed_rows.tolist() == [True, False, False]
        assert verify(run.path).ok
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
        patch.setattr(*((os, "fsync", cut) if step == "fsync" else (Path, "replace", cut)))
        with pytest.raises(OSError, match="cut"):
            run.writer.finish({})
    assert (run.path / ".zarr.json.partial").exists()
    assert (run.path / "zarr.json").read_bytes() == before
    assert not open_run(run.path).finished
    run.writer.finish({})
    assert open_run(run.path).finished


def test_root_is_flushed_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    flush, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("flush"), flush(fd))[1])
    monkeypatch.setattr(Path, "replace", lambda self, to: (calls.append("rename"), replace(self, to))[1])
    replace_file(tmp_path / "x", b"new")
    assert calls == ["flush", "rename", "flush"]
    assert [file.name for file in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"new"


def test_consolidated_metadata_are_those_of_every_node(make_run: Any) -> None:
    run = make_run()
    found = zarr.open_group(run.path, mode="r").members(max_depth=None)
    own = zarr.open_group(run.path, mode="r", use_consolidated=False).members(max_depth=None)
    assert {k: dict(v.attrs) for k, v in found} == {k: dict(v.attrs) for k, v in own}


def test_columns_left_out_are_not_made_and_others_always_have_a_chunk(make_run: Any) -> None:
    run = make_run()
    assert not list(run.path.glob("*/base_*"))
    for file in run.path.rglob("zarr.json"):
        if json.loads(file.read_text())["node_type"] == "array":
            assert list(file.parent.glob("c.*")), file.parent
