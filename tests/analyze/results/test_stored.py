"""Results next to their run: read back as they were, and only while everything that determines them is the same."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from lorascope.analyze import changes, explain, qualify
from lorascope.analyze.results import stored
from lorascope.analyze.results.stored import COMPUTED, results_folder, stored_or_computed
from lorascope.stores import Run, StoreError, open_run

from ...stored import store_changes
from ..conftest import Small


class Counted:
    """Function that counts its calls; its result has texts, integers, NaN, infinity and an empty table."""

    def __init__(self) -> None:
        self.n_calls = 0

    def __call__(self) -> xr.Dataset:
        self.n_calls += 1
        texts = np.array(["a\x00", "", "✓\n", "x" * 40], object)
        values = {
            "number": ("row", np.array([np.nan, np.inf, 1e-300, 0.1])),
            "count": ("row", np.arange(4, dtype=np.int32), {"units": "1"}),
            "empty": (("none", "row"), np.empty((0, 4), object)),
            "whole": ((), np.float32(0.1)),
        }
        return xr.Dataset(values, {"row": texts}, {"n": np.int64(self.n_calls), "share": np.nan, "names": ["a"]})


def file_of(run: Run) -> Path:
    folder = results_folder(run)
    assert folder is not None
    (file,) = folder.iterdir()
    return file


def changed_run(path: Path) -> Run:
    """Twenty samples whose next tokens the adapter changes; one text is a zero byte."""
    rng = np.random.default_rng(3)
    base = rng.dirichlet(np.ones(8), 600)
    adapted = base * np.exp(rng.normal(size=base.shape) + np.where(np.arange(8) == 5, 2, 0))
    texts = [" the", "\x00", " of", "A", "1", " arr", "\n", " é"]
    ids = rng.integers(0, 8, 600)
    return store_changes(
        path, adapted / adapted.sum(axis=1, keepdims=True), base, lengths=[30] * 20, ids=ids, texts=texts
    )


@pytest.fixture
def run(make_small: Callable[..., Small], tmp_path: Path) -> Run:
    return open_run(shutil.copytree(make_small().run.path, tmp_path / "run.zarr"))


def test_a_result_comes_back_as_it_was(run: Run) -> None:
    compute = Counted()
    first, second = (stored_or_computed(run, "counted", compute) for _ in range(2))
    assert compute.n_calls == 1
    assert COMPUTED not in first.attrs
    assert second.attrs.pop(COMPUTED).endswith(" UTC")
    xr.testing.assert_identical(first, second)
    assert {name: v.dtype for name, v in first.variables.items()} == {n: v.dtype for n, v in second.variables.items()}


def test_trees_of_analysis_come_back_as_they_were(run: Run, tmp_path: Path) -> None:
    """Also their indexes, and labels of tokens."""
    changed = changed_run(tmp_path / "changed.zarr")
    for each, compute in ((run, lambda: qualify(run)), (changed, lambda: changes(changed))):
        first, second = (stored_or_computed(each, "tree", compute) for _ in range(2))
        assert COMPUTED in second.attrs
        del second.attrs[COMPUTED]
        xr.testing.assert_identical(first, second)
        for node, other in zip(first.subtree, second.subtree, strict=True):
            assert set(node.xindexes) == set(other.xindexes)


@pytest.mark.parametrize("place", [0, 31, 32, 40, 0.5, -1])
def test_a_damaged_file_is_computed_and_written_again(run: Run, place: float) -> None:
    compute = Counted()
    stored_or_computed(run, "counted", compute)
    whole = file_of(run).read_bytes()
    damaged = bytearray(whole)
    damaged[int(place * len(whole)) if isinstance(place, float) else place] ^= 1
    for content in (bytes(damaged), whole[: len(whole) // 2], b""):
        file_of(run).write_bytes(content)
        n_calls = compute.n_calls
        assert COMPUTED not in stored_or_computed(run, "counted", compute).attrs
        assert compute.n_calls == n_calls + 1
        assert COMPUTED in stored_or_computed(run, "counted", compute).attrs


def test_another_run_row_choice_or_version_is_not_answered_from_it(
    run: Run, many_rows: Path, unfinished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = Counted()
    stored_or_computed(run, "counted", compute)
    others: list[dict[str, Any]] = [
        {"adapter": "b"}, {"options": ["*.q_proj"]}, {"inputs": "[1]"}, {"name": "of another function"}
    ]  # fmt: skip
    for other in others:
        result = stored_or_computed(run, **{"name": "counted", **other}, compute=compute)
        assert COMPUTED not in result.attrs, other
    n_calls = compute.n_calls
    assert n_calls == 1 + len(others)
    partly = open_run(shutil.copytree(unfinished, tmp_path / "many.zarr"))  # one row fewer, under the same name
    stored_or_computed(partly, "counted", compute)
    shutil.rmtree(partly.path)
    shutil.copytree(many_rows, partly.path)
    assert COMPUTED not in stored_or_computed(open_run(partly.path), "counted", compute).attrs
    assert COMPUTED in stored_or_computed(open_run(partly.path), "counted", compute).attrs
    monkeypatch.setattr(stored, "code_digest", lambda: "of another version")
    assert COMPUTED not in stored_or_computed(run, "counted", compute, inputs="[1]").attrs


def test_what_exchanged_chunks_gave_is_not_answered_once_they_are_back(run: Run) -> None:
    compute = Counted()
    first, second = (Path(run.path, "states", path, "base", "c.0.0") for path in run.component_paths[:2])
    for n in (1, 2, 3):
        stored_or_computed(run, "counted", compute)
        assert compute.n_calls == n
        first.rename(first.with_name("other"))
        second.rename(first)
        first.with_name("other").rename(second)
    assert COMPUTED not in stored_or_computed(run, "counted", compute).attrs
    assert COMPUTED in stored_or_computed(run, "counted", compute).attrs


def test_of_several_adapters_one_is_named_also_where_results_are_stored(
    make_small: Callable[..., Small], tmp_path: Path
) -> None:
    run = open_run(shutil.copytree(make_small(adapters=("a", "b")).run.path, tmp_path / "two.zarr"))
    compute = Counted()
    stored_or_computed(run, "counted", compute, adapter="a")
    for adapter in (None, ""):
        with pytest.raises(StoreError, match="this run holds"):
            stored_or_computed(run, "counted", compute, adapter=adapter)
    assert COMPUTED in stored_or_computed(run, "counted", compute, adapter="a").attrs


def test_components_may_be_an_array(run: Run) -> None:
    compute, names = Counted(), run.components["path"].values[:2]
    assert COMPUTED not in stored_or_computed(run, "counted", compute, options=names).attrs
    assert COMPUTED in stored_or_computed(run, "counted", compute, options=names.tolist()).attrs
    assert COMPUTED not in stored_or_computed(run, "counted", compute, options=names[:1]).attrs
    assert explain(run, component=names).qualified["component"].values.tolist() == names.tolist()


def test_the_code_has_a_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    own = stored.code_digest.__wrapped__()
    assert own == stored.code_digest()
    for name, value in (("CODE", ("stores", "kernels")), ("NUMERIC_PACKAGES", ("numpy",))):
        with monkeypatch.context() as patch:
            patch.setattr(stored, name, value)
            assert stored.code_digest.__wrapped__() != own


def test_where_nothing_can_be_written_results_are_computed(run: Run, s3: Any) -> None:
    compute = Counted()
    folder = results_folder(run)
    assert folder is not None
    folder.write_text("a file in its place")
    for _ in range(2):
        stored_or_computed(run, "counted", compute)
    assert compute.n_calls == 2
    assert folder.read_text() == "a file in its place"
    from lorascope.stores import pull

    pull(run.path, f"{s3.prefix}/run.zarr")
    remote = open_run(f"{s3.prefix}/run.zarr")
    assert results_folder(remote) is None
    for _ in range(2):
        stored_or_computed(remote, "counted", compute)
    assert compute.n_calls == 4


def test_no_result_is_nothing_to_store(run: Run) -> None:
    assert stored_or_computed(run, "nothing", lambda: None) is None
    folder = results_folder(run)
    assert folder is not None
    assert not folder.exists()


def test_an_error_is_never_stored(run: Run) -> None:
    def fail() -> xr.Dataset:
        raise StoreError("a chunk is broken")

    for _ in range(2):
        with pytest.raises(StoreError, match="a chunk is broken"):
            stored_or_computed(run, "fails", fail)


def test_files_are_data(run: Run) -> None:
    """Numbers in safetensors, all else in JSON: nothing in it could be run."""
    stored_or_computed(run, "counted", Counted())
    content = file_of(run).read_bytes()[stored.DIGEST_BYTES :]
    n_bytes = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + n_bytes])
    assert set(header) == {"/:number", "/:count", "/:whole", stored.STRUCTURE}
    start, stop = header[stored.STRUCTURE]["data_offsets"]
    assert json.loads(content[8 + n_bytes :][start:stop])["is_tree"] is False
    assert os.listdir(file_of(run).parent) == [file_of(run).name]
