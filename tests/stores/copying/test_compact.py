import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lorascope.stores import StoreError, open_run, run_state, verify
from lorascope.stores.copying.compact import compact
from lorascope.stores.places.folder import FolderPlace

HOW = """
import sys
from lorascope.stores.copying.compact import compact
compact(sys.argv[1], sys.argv[2])
"""


def contents(root: Path) -> dict[str, bytes]:
    """Every file of a run, its root without attributes and what is consolidated into it."""
    found = {file.relative_to(root).as_posix(): file.read_bytes() for file in root.rglob("*") if file.is_file()}
    document = json.loads(found.pop("zarr.json"))
    attributes = document.pop("attributes")
    return {**found, "root": json.dumps([document, attributes["static_digest"], attributes["n_tokens"]]).encode()}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"states": "none", "kl": True, "ablate": "layers", "ablation_parts": ("0", "1")},
        {"stream": "pair"},
        {"base_ce": [1.0, 2.0], "columns": {"written": [" B.", "ü"], "base_written_correct": [1, 0]}},
    ],
    ids=["all", "none", "pair", "columns"],
)
def test_result_is_what_a_capture_without_raw_writes(make_run: Any, tmp_path: Path, options: dict[str, Any]) -> None:
    source, direct = make_run("raw.zarr", codec="raw", **options), make_run("zstd.zarr", **options)
    before = contents(source.path)
    calls: list[tuple[int, int]] = []
    run = compact(source.path, tmp_path / "out.zarr", progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert contents(tmp_path / "out.zarr") == contents(direct.path)
    assert contents(source.path) == before
    assert verify(run.path).ok
    (step,) = run.attributes["provenance"]["copied"]
    assert (step["how"], step["source"]) == ("compact", str(source.path))
    assert run.attributes["provenance"]["note"] == "small"
    assert compact(source.path, tmp_path / "out.zarr").attributes == run.attributes


def wait_for(file: Path, process: subprocess.Popen[bytes]) -> None:
    while not file.exists() and process.poll() is None:
        time.sleep(0.001)


@pytest.mark.parametrize("key", ["zarr.json", "tokens/nll/c.0", "rows/digest/c.0.0"])
def test_killed_anywhere_it_goes_on_to_the_same_bytes(make_run: Any, tmp_path: Path, key: str) -> None:
    source, direct = make_run("raw.zarr", codec="raw"), make_run("zstd.zarr")
    out = tmp_path / "out.zarr"
    with subprocess.Popen([sys.executable, "-c", HOW, source.path, out]) as process:
        wait_for(out / key, process)
        os.kill(process.pid, signal.SIGKILL)
    compact(source.path, out)
    assert contents(out) == contents(direct.path)


def test_row_that_is_read_back_otherwise_is_not_committed(
    make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = make_run("raw.zarr", codec="raw"), tmp_path / "out.zarr"
    read = FolderPlace.read
    lying = "states/model.layers.1.mlp.up_proj/base/c.1.0"

    def misread(self: FolderPlace, key: str, *, at_most: int) -> bytes:
        content = read(self, key, at_most=at_most)
        return content[:-1] if key == lying and self.path == out else content

    with monkeypatch.context() as patch:
        patch.setattr(FolderPlace, "read", misread)
        with pytest.raises(
            StoreError, match=f"chunk '{lying}' of `.*` isn't what was written; its row wasn't committed"
        ):
            compact(source.path, out)
    assert open_run(out).committed_rows.tolist() == [True, False, False]
    assert compact(source.path, out).finished


def test_values_that_compression_changed_are_found(
    make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lorascope.stores.writing import write

    source = make_run("raw.zarr", codec="raw")
    encode = write.ChunkEncoder.encode

    def spoil(self: Any, path: str, block: Any) -> Any:
        return encode(self, path, -block if path == "tokens/nll" else block)

    monkeypatch.setattr(write.ChunkEncoder, "encode", spoil)
    with pytest.raises(StoreError, match="chunk 'tokens/nll/c.0' of `.*` isn't what was written"):
        compact(source.path, tmp_path / "out.zarr")
    assert run_state(tmp_path / "out.zarr") == "unfinished"
    assert not open_run(tmp_path / "out.zarr").committed_rows.any()


def test_what_cannot_be_compacted(make_run: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    with pytest.raises(StoreError, match="isn't finished; let its capture come to an end first"):
        compact(make_run("part.zarr", codec="raw", rows=(0,)).path, out)
    whole = make_run("whole.zarr", codec="raw")
    with pytest.raises(StoreError, match="is compressed already; there is nothing to gain"):
        compact(make_run("zstd.zarr").path, out)
    lost = shutil.copytree(whole.path, tmp_path / "lost.zarr")
    (lost / "rows/digest/c.1.0").unlink()
    with pytest.raises(StoreError, match="isn't finished"):
        compact(lost, out)
    broken = shutil.copytree(whole.path, tmp_path / "broken.zarr")
    shutil.copy(broken / "tokens/nll/c.0", broken / "tokens/nll/c.1")
    assert not out.exists()
    with pytest.raises(StoreError, match="row 1 of `.*` can't be copied: its digest differs from what was committed"):
        compact(broken, out)
    other = make_run("other.zarr", codec="raw", n_tokens=1500)
    with pytest.raises(StoreError, match="holds another run; name a new folder, or delete this one first"):
        compact(other.path, out)


def test_into_and_out_of_an_object_store(make_run: Any, s3: Any, tmp_path: Path) -> None:
    source = make_run("raw.zarr", codec="raw", n_tokens=1100)
    remote = f"{s3.prefix}/out.zarr"
    assert compact(source.path, remote).finished
    assert verify(remote).ok
