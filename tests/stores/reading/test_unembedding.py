"""Final norm and output embedding of runs of earlier versions stay readable, checked and copied."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lorascope.stores import Run, StoreError, open_run, pull, verify
from lorascope.stores.format.spec import Unembedding

from ..on_disk import edit_root


@pytest.fixture
def run(make_run: Callable[..., object]) -> Run:
    kind = Unembedding(n_vocabulary=2500, n_features=32, dtype="float32", centred=True)
    return open_run(make_run(unembedding=kind).path)  # type: ignore[attr-defined]  # made by a fixture


def test_it_is_what_was_stored(run: Run) -> None:
    unembedding = run.unembedding()
    assert unembedding.attrs["centred"]
    assert dict(unembedding.sizes) == {"vocabulary": 2500, "feature": 32}
    assert unembedding["weight"].dtype == np.float32
    np.testing.assert_array_equal(unembedding["weight"].values, run.read_static("unembedding/weight"))
    assert np.isfinite(unembedding["weight"].values).all()


def test_copies_keep_it(run: Run, tmp_path: Path) -> None:
    for name, options in (("part", {"samples": 1}), ("whole", {})):
        copy = pull(run.path, tmp_path / f"{name}.zarr", **options)
        assert copy.unembedding().identical(run.unembedding())
        assert verify(copy.path, level="statistics").ok


def test_its_meaning_may_be_missing(run: Run) -> None:
    expected = run.unembedding()
    edit_root(run.path, consolidated=False)
    for name, meaning in (("weight", None), ("text", 5)):
        file = Path(run.path) / "unembedding" / name / "zarr.json"
        document = json.loads(file.read_text())
        document["attributes"]["long_name"] = meaning
        file.write_text(json.dumps(document))
    assert open_run(run.path).unembedding().equals(expected)


def test_a_lost_chunk_is_no_fill(run: Run) -> None:
    (Path(run.path) / "unembedding/weight/c.1.0").unlink()
    with pytest.raises(StoreError, match="'unembedding/weight' announces 2500 entries, but has 2 of 3 chunks"):
        open_run(run.path)
    assert not verify(run.path).ok


def test_a_run_of_this_version_has_none(make_run: Callable[..., object]) -> None:
    with pytest.raises(StoreError, match="holds no unembedding; only runs of earlier versions do"):
        open_run(make_run().path).unembedding()  # type: ignore[attr-defined]  # made by a fixture
