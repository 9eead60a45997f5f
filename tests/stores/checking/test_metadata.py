"""Every byte of a run is under a digest: what stands around its chunks, and all of it at random places."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorascope.stores import StoreError, open_run, pull, resume_run, verify
from lorascope.stores.checking.metadata import WITHOUT_ROOT_DIGEST

from ..on_disk import edit_root, go_on

BASE = "states/model.layers.0.mlp.up_proj/base"
GOLDEN = Path(__file__).parents[1] / "golden/v1.zarr"
PARTS: dict[str, Callable[[str], bool]] = {
    "root": lambda key: key == "zarr.json",
    "nodes": lambda key: key.endswith("/zarr.json"),
    "tables": lambda key: "/c." in key and key.startswith(("samples", "choices", "tokens", "components")),
    "digests": lambda key: key.startswith(("rows/digest/c.", "rows/commit/c.")),
    "chunks": lambda key: "/c." in key and key.startswith(("states", "adapters")),
}


def found_in(path: Path) -> list[str]:
    """Places of what `verify` finds, or what it refuses with."""
    try:
        return [problem.place for problem in verify(path, level="digests").problems]
    except StoreError as error:
        return [str(error)]


@pytest.mark.slow
@pytest.mark.parametrize("rows", [None, (0,)], ids=["finished", "unfinished"])
def test_a_bit_flipped_anywhere_is_found(make_run: Any, rows: Any) -> None:
    root = make_run(n_tokens=1100, states="sample", state_rows=(True, False), kl=True, rows=rows).path
    assert found_in(root) == []
    files = sorted(file for file in root.rglob("*") if file.is_file())
    rng = np.random.default_rng(19)
    for place in range(150):
        part = list(PARTS.values())[place % len(PARTS)]
        file = rng.choice([file for file in files if part(file.relative_to(root).as_posix())])
        content = file.read_bytes()
        broken = bytearray(content)
        position, bit = rng.integers(len(content)), rng.integers(8)
        broken[position] ^= 1 << bit
        file.write_bytes(broken)
        assert found_in(root), f"bit {bit} of byte {position} of {file.relative_to(root)}"
        file.write_bytes(content)
    assert found_in(root) == []


def change(file: Path, old: str, new: str) -> None:
    content = file.read_text()
    assert old in content
    file.write_text(content.replace(old, new))


def test_changed_root_is_found_and_not_gone_on_with(make_run: Any) -> None:
    run = make_run(rows=(0, 1), attributes={"provenance": {"model": {"n_parameters": 134515008}}})
    change(run.path / "zarr.json", "134515008", "134515009")
    assert found_in(run.path) == ["zarr.json", "fingerprint"]
    run.writer.write_row(2, run.blocks[2])
    before = (run.path / "zarr.json").read_bytes()
    words = "can't be resumed: 'zarr.json' isn't what was written: its digest differs; put that file back, or"
    for go_on_with in (lambda: resume_run(run.path), lambda: run.writer.finish({})):
        with pytest.raises(StoreError, match=words):
            go_on_with()
    assert (run.path / "zarr.json").read_bytes() == before
    edit_root(run.path, provenance={"model": {"n_parameters": 134515009}})  # with a digest that is right
    assert found_in(run.path) == ["fingerprint"]


def test_measured_is_covered_once_the_run_is_finished(make_run: Any) -> None:
    run = make_run()
    run.writer.finish({"measured": {"seconds": 12.5}})
    assert found_in(run.path) == []
    change(run.path / "zarr.json", "12.5", "17.5")
    assert found_in(run.path) == ["zarr.json"]


def test_digest_of_the_root_that_is_gone_is_missed(make_run: Any) -> None:
    run = make_run(rows=(0, 1, 2))
    edit_root(run.path, root_digest=None)
    assert [problem.message for problem in verify(run.path).problems] == ["'zarr.json' has lost its `root_digest`"]
    with pytest.raises(StoreError, match="has lost its `root_digest`; put that file back"):
        run.writer.finish({})


NODE_DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "missing; a plain reader of Zarr wouldn't find this part of the run"),
    "torn": (lambda file: file.write_bytes(file.read_bytes()[:-9]), "can't be read: "),
    "large": (
        lambda file: file.write_bytes(bytes(300_000)),
        "can't be read: .* has 300 kB, where at most 262 kB can be",
    ),
    "other shape": (lambda file: change(file, "1100", "1101"), "isn't what the root's consolidated metadata say of it"),
    "no object": (lambda file: file.write_text("[1]"), "isn't what the root's consolidated metadata say of it"),
}


@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
@pytest.mark.parametrize("how", NODE_DAMAGE)
def test_damaged_node_is_named(make_run: Any, how: str, old: bool) -> None:
    run = make_run(n_tokens=1100)
    if old:
        edit_root(run.path, root_digest=None, metadata_digest=None)
    damage, words = NODE_DAMAGE[how]
    damage(run.path / BASE / "zarr.json")
    (problem,) = verify(run.path).problems
    assert problem.place == f"{BASE}/zarr.json"
    with pytest.raises(StoreError, match=words):
        raise StoreError(problem.message)
    assert open_run(run.path).n_rows == 2


@pytest.mark.parametrize("consolidated", [True, False])
def test_node_that_was_changed_in_both_places_is_found(make_run: Any, consolidated: bool) -> None:
    run = make_run(n_tokens=1100)
    content = json.loads((run.path / "zarr.json").read_text())
    for document in (content["consolidated_metadata"]["metadata"][BASE],):
        document["attributes"]["source_dtype"] = "float16"
        (run.path / BASE / "zarr.json").write_text(json.dumps(document))
    if not consolidated:
        del content["consolidated_metadata"]
    (run.path / "zarr.json").write_text(json.dumps(content))
    edit_root(run.path)
    assert found_in(run.path) == ["metadata"]


def test_every_node_may_be_gone_at_once(make_run: Any) -> None:
    run = make_run(n_tokens=1100)
    nodes = [file for file in run.path.rglob("zarr.json") if file.parent != run.path]
    for file in nodes:
        file.unlink()
    assert len(found_in(run.path)) == len(nodes) > 30


def test_of_older_runs_is_said_what_can_not_be_told(make_run: Any, tmp_path: Path) -> None:
    assert verify(make_run("new.zarr").path).uncovered == ()
    golden = verify(GOLDEN)
    assert golden.ok
    assert golden.uncovered == (WITHOUT_ROOT_DIGEST,)
    run = make_run(rows=(0, 1, 2))
    edit_root(run.path, root_digest=None, metadata_digest=None)
    assert verify(run.path).uncovered == (WITHOUT_ROOT_DIGEST,)
    go_on(run.path, run)  # a newer writer that goes on with it gives its root a digest
    assert (verify(run.path).ok, verify(run.path).uncovered) == (True, (WITHOUT_ROOT_DIGEST,))
    change(run.path / "zarr.json", '"small"', '"large"')
    assert found_in(run.path) == ["zarr.json"]


def test_pulled_runs_have_the_fingerprint_of_their_pull(many_rows: Path, tmp_path: Path) -> None:
    first = pull(many_rows, tmp_path / "a.zarr", samples=2)
    second = pull(shutil.copytree(many_rows, tmp_path / "elsewhere.zarr"), tmp_path / "b.zarr", samples=2)
    assert verify(first.path).ok
    assert first.attributes["fingerprint"] == second.attributes["fingerprint"]
    assert len({first.attributes["fingerprint"], open_run(many_rows).attributes["fingerprint"]}) == 2
