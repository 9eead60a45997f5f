"""Next-token changes in a run: read, thinned by `pull`, and checked."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorascope.stores import StoreError, open_run, pull, verify
from lorascope.stores.format.tables import CHANGE_COLUMNS

from ...stored import change_arrays, store_changes
from ..on_disk import damage

N, VOCABULARY = 1100, 50
LENGTHS = [500, 600]


def distributions() -> tuple[np.ndarray, np.ndarray]:
    """P and Q (token, vocabulary); P equals Q at the first ten tokens."""
    rng = np.random.default_rng(0)
    base = rng.dirichlet(np.ones(VOCABULARY), N) + 1e-9
    adapted = base * np.exp(rng.normal(size=base.shape))
    adapted[:10] = base[:10]
    return adapted / adapted.sum(1, keepdims=True), base / base.sum(1, keepdims=True)


def changed_run(path: Path, **options: Any) -> Any:
    ids = np.random.default_rng(1).integers(VOCABULARY, size=N)
    texts = [f" w{index}" for index in range(VOCABULARY)]
    return store_changes(path, *distributions(), lengths=LENGTHS, ids=ids, texts=texts, **options)


def test_changes_are_read_as_they_were_stored(tmp_path: Path) -> None:
    measured = np.arange(N) < 1050
    run = changed_run(tmp_path / "run.zarr", measured=measured)
    changes = run.changes()
    expected = change_arrays(*distributions())
    assert set(changes.data_vars) == set(expected) == {column.name for column in CHANGE_COLUMNS}
    assert all(array.chunks is not None for array in changes.data_vars.values())  # lazy
    for name, values in expected.items():
        array = changes[name]
        assert array.dtype == (np.int32 if values.dtype.kind == "i" else np.float32), name
        np.testing.assert_array_equal(array.values[measured], values[measured].astype(array.dtype), err_msg=name)
        blank = array.values[~measured]
        assert (blank == -1).all() if array.dtype == np.int32 else np.isnan(blank).all()
    assert changes["gain"].attrs["units"] == "nat"
    assert (changes["gain_token"].values[:10] == -1).all()
    one = run.changes(sample="s1")["gain"]
    assert one.shape == (600, 20)
    assert one["position"].values[-1] == 599
    assert list(run.vocabulary()[:2]) == [" w0", " w1"]
    assert run.attributes["optional_groups"] == ["vocabulary"]
    assert verify(run.path).ok


def test_rows_that_are_not_committed_have_no_ids(make_run: Any) -> None:
    run = open_run(make_run(n_tokens=N, rows=(0,), states="none", n_vocabulary=7).path)
    changes = run.changes()
    assert (changes["adapted_draw"].values[1024:] == -1).all()
    assert np.isnan(changes["gain"].values[1024:]).all()
    assert (changes["adapted_draw"].values[:1024] >= 0).all()


def test_a_run_without_changes_says_how_to_get_them(make_run: Any) -> None:
    run = open_run(make_run().path)
    for read in (run.changes, run.vocabulary):
        with pytest.raises(StoreError, match="capture it again with `--changes all`"):
            read()


def test_pull_thins_changes_and_takes_the_vocabulary(tmp_path: Path) -> None:
    run = changed_run(tmp_path / "run.zarr")
    thin = pull(run.path, tmp_path / "thin.zarr", tokens="every:3", seed=1, samples=["s1"])
    places = thin.tokens["position"].values + 500
    assert 0 < len(places) < 250
    for name, array in run.changes().data_vars.items():
        np.testing.assert_array_equal(thin.changes()[name].values, array.values[places])
    np.testing.assert_array_equal(thin.vocabulary(), run.vocabulary())
    assert verify(thin.path).ok


@pytest.mark.parametrize("how", ["flip", "missing"])
@pytest.mark.parametrize("name", ["gain_token/c.1.0", "kl_adapted_base/c.1"])
def test_damaged_changes_are_found(tmp_path: Path, how: str, name: str) -> None:
    run = changed_run(tmp_path / "run.zarr")
    key = f"adapters/default/changes/{name}"
    damage(run.path / key, how)
    assert key in {problem.place for problem in verify(run.path, level="digests").problems}
    with pytest.raises(StoreError, match="changes"):
        open_run(run.path).changes().load()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("gain_token", VOCABULARY, "allowed are -1 to 49"),
        ("adapted_choice", -2, "allowed are -1 to 49"),
        ("gain", -0.5, "has a negative gain"),
        ("base_choice_p", 1.5, "has a probability outside of [0, 1]"),
        ("kl_adapted_base", np.inf, "has a negative kl_adapted_base"),
    ],
)
def test_impossible_values_are_found(tmp_path: Path, name: str, value: float, words: str, monkeypatch: Any) -> None:
    wrong = change_arrays(*distributions())
    wrong[name][7] = value
    monkeypatch.setattr("tests.stored.change_arrays", lambda *_: wrong)
    run = changed_run(tmp_path / "run.zarr")
    (problem,) = verify(run.path).problems
    assert words in problem.message
    if name in ("gain_token", "adapted_choice"):
        with pytest.raises(StoreError, match=words):
            run.changes().load()


def test_changes_without_the_vocabulary_are_refused(make_run: Any) -> None:
    run = make_run(n_tokens=N, states="none", n_vocabulary=7)
    damage(run.path / "vocabulary/text/c.0", "missing")
    (problem,) = verify(run.path).problems
    assert problem.message == "'vocabulary/text' announces 7 entries, but has 0 of 1 chunks"
