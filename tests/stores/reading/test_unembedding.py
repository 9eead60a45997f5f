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


def read(run: Run) -> dict[str, np.ndarray]:
    return {name: run.read_static(f"unembedding/{name}") for name in ("weight", "norm", "text")}


def test_copies_keep_it(run: Run, tmp_path: Path) -> None:
    whole = read(run)
    assert (whole["weight"].shape, whole["norm"].shape) == ((2500, 32), (32,))
    assert run.vocabulary().tolist() == whole["text"].tolist()
    for name, options in (("part", {"samples": 1}), ("whole", {})):
        copy = pull(run.path, tmp_path / f"{name}.zarr", **options)
        for column, values in read(copy).items():
            np.testing.assert_array_equal(values, whole[column])
        assert copy.arrays["unembedding/norm"].attributes["centred"] is True
        assert verify(copy.path, level="statistics").ok


def test_its_meaning_may_be_missing(run: Run) -> None:
    expected = read(run)
    edit_root(run.path, consolidated=False)
    for name, meaning in (("weight", None), ("text", 5)):
        file = Path(run.path) / "unembedding" / name / "zarr.json"
        document = json.loads(file.read_text())
        document["attributes"]["long_name"] = meaning
        file.write_text(json.dumps(document))
    for column, values in read(open_run(run.path)).items():
        np.testing.assert_array_equal(values, expected[column])


def test_a_lost_chunk_is_no_fill(run: Run) -> None:
    (Path(run.path) / "unembedding/weight/c.1.0").unlink()
    with pytest.raises(StoreError, match="'unembedding/weight' announces 2500 entries, but has 2 of 3 chunks"):
        open_run(run.path)
    assert not verify(run.path).ok
