"""`forgetting` of stored runs: the divergence of two Markov chains from their texts, errors, and refusals."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from lorascope.analyze import changes, forgetting, open_result, save
from lorascope.analyze.changes.forgetting import describe_forgetting, next_token_kl
from lorascope.stores import Run, StoreError, open_run
from lorascope.stores.reading.read import open_neutral

from ...stored import store_changes
from .distributions import random_distributions

VOCABULARY, LONGEST, END = 7, 12, 0
BY_BASE = {"settings": {"data": ["texts (in the run)"]}}


def chains(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """P and Q of the next token given the last one, (token, next token); token 0 ends a text."""
    rng = np.random.default_rng(seed)
    p = random_distributions(rng, VOCABULARY, VOCABULARY)
    q = p * np.exp(0.7 * rng.normal(size=p.shape))
    return p, q / q.sum(1, keepdims=True)


def exact(p: np.ndarray, q: np.ndarray) -> float:
    """KL(P || Q) of whole texts from token 1, each cut after LONGEST tokens, by the mean number of their tokens."""
    reach, divergence, length = np.eye(VOCABULARY)[1], 0.0, 0.0
    for _ in range(LONGEST):
        divergence += float(reach @ (p * np.log(p / q)).sum(1))
        length += float(reach.sum())
        reach = reach @ p
        reach[END] = 0
    return divergence / length


def store(folder: Path, p: np.ndarray, q: np.ndarray, n_texts: int, seed: int, **options: Any) -> Run:
    """A run of texts that P draws, of which every place has P and Q."""
    rng = np.random.default_rng(seed)
    texts = []
    for _ in range(n_texts):
        text = [1]
        while len(text) < LONGEST and (following := int(rng.choice(VOCABULARY, p=p[text[-1]]))) != END:
            text.append(following)
        texts.append(text)
    ids = np.concatenate(texts)
    names = [f" {letter}" for letter in "abcdefghijkl"[:VOCABULARY]]
    return store_changes(folder, q[ids], p[ids], lengths=[*map(len, texts)], ids=ids, texts=names, **options)


def with_neutral(folder: Path, seed: int = 0, n_texts: int = 300, provenance: Any = BY_BASE) -> Run:
    """A run of 40 texts of one pair of chains, whose neutral texts are of another."""
    run = store(folder / "run.zarr", *chains(8), 40, seed=1)
    store(folder / "run.zarr/neutral", *chains(seed), n_texts, seed=seed, provenance=provenance)
    return run


@pytest.mark.parametrize("seed", range(3))
def test_mean_kl_is_the_divergence_of_whole_texts(tmp_path: Path, seed: int) -> None:
    result = forgetting(with_neutral(tmp_path, seed))
    kl, error = (float(result[name].sel(texts="neutral")) for name in ("kl", "kl_se"))
    assert abs(kl - exact(*chains(seed))) < 3 * error
    assert 0 < error < 0.05 * kl
    # A beginning counts as often as it is drawn.
    values = open_run(tmp_path / "run.zarr/neutral").reduction("kl").values
    assert kl == pytest.approx(values.astype(float).mean())
    assert result.attrs["source"] == "that the base wrote itself"
    assert result["n_tokens"].sel(texts="neutral") == len(values)
    assert result["n_samples"].sel(texts="neutral") == 300


def test_error_is_the_spread_over_draws_of_texts(tmp_path: Path) -> None:
    run = store(tmp_path / "run.zarr", *chains(1), 100, 1, provenance=BY_BASE)
    kl, sample = run.reduction("kl").values.astype(float), run.tokens["sample"].values
    sums, lengths = (np.bincount(sample, values) for values in (kl, np.ones_like(kl)))
    drawn = np.random.default_rng(2).integers(100, size=(4000, 100))
    means = sums[drawn].sum(1) / lengths[drawn].sum(1)
    # A standard deviation of 4000 values has a relative error of 1.1 %; that of 100 texts is sqrt(99 / 100) too small.
    assert next_token_kl(run).kl_se == pytest.approx(means.std(), rel=0.05)


def test_the_data_has_the_mean_of_changes(tmp_path: Path) -> None:
    run = with_neutral(tmp_path)
    own, about = forgetting(run).sel(texts="data"), changes(run).attrs
    assert about["n_repeated"] > 0
    assert [float(own[name]) for name in ("kl", "kl_se")] == pytest.approx([about["kl"], about["kl_se"]])
    assert (int(own["n_tokens"]), int(own["n_samples"])) == (about["n_tokens"], about["n_samples"])


def test_a_files_texts_are_data_too(tmp_path: Path) -> None:
    run = with_neutral(tmp_path, provenance={"settings": {"data": ["wiki.txt"]}})
    result, neutral = forgetting(run), open_neutral(run)
    assert neutral is not None
    assert result.attrs["source"] == "of wiki.txt"
    assert " samples of wiki.txt the next token moves by " in describe_forgetting(run, "default")
    assert float(result["kl"][0]) == pytest.approx(changes(neutral).attrs["kl"])
    assert float(result["miub"][0]) == pytest.approx(0.1)


def test_one_text_has_no_error_and_a_run_without_kl_no_mean(tmp_path: Path) -> None:
    run = with_neutral(tmp_path, n_texts=1)
    result = forgetting(run).sel(texts="neutral")
    assert np.isfinite(result["kl"])
    assert np.isnan(result["kl_se"])
    del run.arrays["adapters/default/kl"]  # type: ignore[attr-defined]
    assert np.isnan(next_token_kl(run).kl)
    assert next_token_kl(run).n_tokens == 0


def test_a_result_is_saved(tmp_path: Path) -> None:
    result = forgetting(with_neutral(tmp_path))
    save(result, tmp_path / "f.nc")
    xr.testing.assert_allclose(open_result(tmp_path / "f.nc").to_dataset(), result)


def test_texts_of_another_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="has no neutral texts; its capture with `--neutral 32` adds them"):
        forgetting(store(tmp_path / "alone.zarr", *chains(8), 40, seed=1))
    run = with_neutral(tmp_path, provenance={"model": {"sha256": "ab"}})
    with pytest.raises(StoreError, match="run.zarr/neutral. is of another model or adapter than the run around it; d"):
        forgetting(run)
