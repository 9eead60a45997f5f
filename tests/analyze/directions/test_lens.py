import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from safetensors.numpy import load_file
from scipy import stats

from lorascope.analyze import lens, open_result, save, save_steering
from lorascope.analyze.directions.lens import _score_vocabulary
from lorascope.stores import Run, StoreError, open_run

from ...stored import make_unembedding, store_states
from ..conftest import Small

WIDTH, N = 400, 700


def of_deltas(path: Path, deltas: dict[str, np.ndarray], unembedding: xr.Dataset | None = None) -> Run:
    rng = np.random.default_rng(1)
    n_tokens = len(next(iter(deltas.values())))
    unembedding = make_unembedding(WIDTH, N) if unembedding is None else unembedding
    states = {name: (rng.normal(size=delta.shape), delta) for name, delta in deltas.items()}
    return store_states(path, states, lengths=[n_tokens // 2, n_tokens - n_tokens // 2], unembedding=unembedding)


def test_planted_tokens_come_first(tmp_path: Path) -> None:
    unembedding = make_unembedding(WIDTH, N)
    seen = unembedding["weight"].values * unembedding["norm"].values
    seen /= np.linalg.norm(seen, axis=1, keepdims=True)
    rng = np.random.default_rng(2)
    planted, against = [17, 333, 600], [4, 555]
    direction = seen[planted].sum(axis=0) - seen[against].sum(axis=0)
    deltas = direction + rng.normal(size=(400, WIDTH))  # of one token alone, noise hides it
    run = of_deltas(tmp_path / "run.zarr", {"model.layers.0.self_attn.o_proj": deltas})
    found = lens(run, n_top=3).isel(site=0)
    assert set(found["promoted_id"].values.tolist()) == set(planted)
    assert set(found["promoted"].values.tolist()) == {f"word{index}" for index in planted}
    assert set(found["suppressed_id"].values[:2].tolist()) == set(against)
    assert (found["promoted_p"].values == 1 / 201).all()
    assert (found["suppressed_p"].values[:2] == 1 / 201).all()
    assert found["n_promoted"] == 3
    assert found["n_suppressed"] == 2
    assert found["delta_norm"] == pytest.approx(np.linalg.norm(deltas.mean(axis=0)), rel=1e-6)


@pytest.mark.parametrize("centred", [False, True])
def test_z_is_that_of_all_signs(centred: bool) -> None:
    given = make_unembedding(6, 9, centred=centred, shift=0.3)
    delta = np.random.default_rng(4).normal(size=6) + 1
    w, g = given["weight"].values.astype(float), given["norm"].values

    def score(one: np.ndarray) -> np.ndarray:
        logits = (w * g - (w * g).mean(axis=1, keepdims=True) * centred) @ one
        return np.asarray(logits - logits.mean())

    every = np.array([score(delta * signs) for signs in itertools.product((-1, 1), repeat=6)])
    found = _score_vocabulary(given, delta[None], 19, 0, None)
    plain = w @ (g * (delta - delta.mean() * centred))
    np.testing.assert_allclose(found.raw[0], plain - plain.mean(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(every.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(found.z[0], score(delta) / every.std(axis=0), rtol=1e-5)


def test_p_is_the_share_of_draws_with_as_large_a_z_anywhere() -> None:
    given, n_draws = make_unembedding(WIDTH, 300, shift=0.3), 60
    deltas = np.random.default_rng(5).normal(size=(2, WIDTH))
    found = _score_vocabulary(given, deltas, n_draws, 7, None)
    draws = np.random.default_rng(7).choice(np.array([-1, 1], np.float32), (n_draws, WIDTH))
    for site, delta in enumerate(deltas):
        largest = [np.abs(_score_vocabulary(given, (delta * signs)[None], 19, 0, None).z).max() for signs in draws]
        np.testing.assert_allclose(np.sort(largest), found.largest[site], rtol=1e-4)
        z = np.sort(found.z[site])
        counted = [(1 + sum(one >= value for one in found.largest[site])) / (1 + n_draws) for value in z]
        np.testing.assert_allclose(found.p(site, z), counted, atol=1e-12)


def test_a_huge_feature_names_no_token() -> None:
    given = make_unembedding(WIDTH, 400, shift=0.3)
    given["weight"][:, 3] *= 30
    deltas = np.random.default_rng(3).normal(size=(40, WIDTH))
    deltas[:, 3] = 200
    found = _score_vocabulary(given, deltas, 99, 9, None)
    smallest = np.array([found.p(site, np.abs(z)).min() for site, z in enumerate(found.z)])
    assert (smallest <= 0.05).sum() <= stats.binom(40, 0.05).ppf(0.9995)


@pytest.mark.parametrize("heavy", [False, True])
def test_random_deltas_name_a_token_no_more_often_than_p_says(heavy: bool) -> None:
    n = 600
    rng = np.random.default_rng(8)
    deltas = rng.standard_t(2.0, size=(n, WIDTH)) if heavy else rng.normal(size=(n, WIDTH))
    found = _score_vocabulary(make_unembedding(WIDTH, 400, shift=0.3), deltas, 99, 9, None)
    smallest = np.array([found.p(site, np.abs(z)).min() for site, z in enumerate(found.z)])
    assert stats.binom(n, 0.05).ppf(0.0005) <= (smallest <= 0.05).sum() <= stats.binom(n, 0.05).ppf(0.9995)


def test_no_delta_names_nothing(tmp_path: Path) -> None:
    run = of_deltas(tmp_path / "run.zarr", {"model.layers.0.mlp.down_proj": np.zeros((40, WIDTH))})
    found = lens(run)
    assert (found["promoted_p"].values == 1).all()
    assert not found["n_promoted"].any()
    assert not found["n_suppressed"].any()


def test_raw_scores_favour_long_unembeddings() -> None:
    given = make_unembedding(WIDTH, 2000, shift=0.3)
    length = np.linalg.norm(given["weight"].values * given["norm"].values, axis=1)
    found = _score_vocabulary(given, np.random.default_rng(6).normal(size=(50, WIDTH)), 19, 0, None)
    longest = length > np.quantile(length, 0.9)
    assert longest[found.raw.argmax(axis=1)].mean() > 0.9
    assert longest[found.z.argmax(axis=1)].mean() < 0.3


SELECTIONS: dict[Any, Callable[[Run], np.ndarray]] = {
    "all": lambda run: np.ones(run.n_tokens, bool),
    "from:3": lambda run: run.tokens["position"].values >= 3,
    "first:4": lambda run: run.tokens["position"].values < 4,
    "last:1": lambda run: (
        run.tokens["position"].values == run.samples["length"].values[run.tokens["sample"].values] - 1
    ),
    "answer": lambda run: run.tokens["role"].values == 2,
    (3, 1, 30): lambda run: np.isin(np.arange(run.n_tokens), [1, 3, 30]),
}


@pytest.mark.parametrize("options", [{}, {"factored": False}, {"is_weighted": True}, {"stream": "pair"}], ids=str)
@pytest.mark.parametrize("tokens", SELECTIONS)
def test_means_go_over_the_tokens_that_are_asked_for(
    make_small: Callable[..., Small], monkeypatch: pytest.MonkeyPatch, options: Any, tokens: Any
) -> None:
    small = make_small(**options)
    monkeypatch.setattr(Run, "unembedding", lambda run: make_unembedding(16, 200))
    found = lens(small.run, tokens=tokens)
    assert found["site"].values.tolist() == [f"model.layers.{layer}.down_proj" for layer in (0, 1)]
    assert found["layer"].values.tolist() == [0, 1]
    chosen = SELECTIONS[tokens](small.run)
    for site in found["site"].values:
        expected = np.average(small.delta[site][chosen], axis=0, weights=small.weight[chosen])
        np.testing.assert_allclose(found["delta"].sel(site=site), expected, rtol=2e-5, atol=1e-6)
    assert (found["n_tokens"] == chosen.sum()).all()


def test_rows_that_are_not_there_are_left_out(
    unfinished: Path, many_rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "unembedding", lambda run: make_unembedding(24, 2500))
    run, whole = open_run(unfinished), open_run(many_rows)
    path = "model.layers.0.mlp.down_proj"
    found = lens(run, component=path)
    kept = run.committed.values
    assert 0 < kept.sum() < run.n_tokens
    assert found["n_tokens"].item() == kept.sum()
    np.testing.assert_allclose(found["delta"][0], whole.delta(path).values[kept].mean(axis=0), rtol=1e-4, atol=1e-6)


def test_tokens_whose_delta_is_not_finite_are_left_out(tmp_path: Path) -> None:
    delta = np.random.default_rng(3).normal(size=(60, WIDTH))
    delta[[5, 50], 3] = np.nan, np.inf
    run = of_deltas(tmp_path / "run.zarr", {"layers.0.fc2": delta})
    found = lens(run)
    assert found["n_tokens"].item() == 58
    np.testing.assert_allclose(found["delta"][0], np.delete(delta, [5, 50], axis=0).mean(axis=0), atol=1e-6)


def test_a_component_that_is_nowhere_finite_costs_the_others_nothing(tmp_path: Path) -> None:
    delta = np.random.default_rng(3).normal(size=(60, WIDTH))
    deltas = {"layers.0.fc2": delta * np.nan, "layers.1.fc2": delta}
    found = lens(of_deltas(tmp_path / "run.zarr", deltas))
    assert found["site"].values.tolist() == ["layers.1.fc2"]
    with pytest.raises(StoreError, match="is finite at none of the tokens"):
        lens(of_deltas(tmp_path / "none.zarr", {"layers.0.fc2": delta * np.nan}))


def test_seeds_and_progress(tmp_path: Path) -> None:
    delta = np.random.default_rng(3).normal(size=(60, WIDTH))
    run = of_deltas(tmp_path / "run.zarr", {"layers.0.fc2": delta, "layers.0.q_proj": delta})
    seen: list[tuple[int, int]] = []
    found = lens(run, progress=lambda *parts: seen.append(parts))
    assert seen == [(1, 1), (N, N)]
    assert found.identical(lens(run))
    assert not found["promoted_p"].equals(lens(run, seed=1)["promoted_p"])
    assert found["site"].values.tolist() == ["layers.0.fc2"]  # q_proj is as wide, but doesn't write
    assert found.attrs["no_sums"] == "stream 'adapted' has no pass without the adapter to compare with"


def test_results_are_saved_and_steer(tmp_path: Path) -> None:
    delta = np.random.default_rng(3).normal(size=(60, WIDTH))
    found = lens(of_deltas(tmp_path / "run.zarr", {"layers.0.fc2": delta, "layers.1.fc2": -delta}))
    assert open_result(save(found, tmp_path / "lens.zarr")).to_dataset().equals(found)
    path = save_steering(found, tmp_path / "steer.safetensors")
    vectors = load_file(path)
    assert vectors.keys() == {"layers.0.fc2", "layers.1.fc2"}
    np.testing.assert_array_equal(vectors["layers.1.fc2"], found["delta"].values[1])
    with pytest.raises(FileExistsError, match="is there already"):
        save_steering(found, path)
    with pytest.raises(ValueError, match=r"its name must end in \.safetensors"):
        save_steering(found, tmp_path / "steer.pt")


REFUSED = {
    "n_top": ({"n_top": 0}, ValueError, "`n_top` is 0; give a whole number of at least 1"),
    "n_draws": ({"n_draws": 18}, ValueError, "`n_draws` is 18; give a whole number of at least 19"),
    "tokens": (
        {"tokens": "first:0"},
        ValueError,
        r"`tokens` is 'first:0'; allowed are 'all', 'prompt', .*'first:N', 'last:N', 'from:N' and 'every:K'.*; or a "
        "sequence of indices",
    ),
    "seed": ({"seed": -1}, ValueError, "`seed` is -1; give a whole number of at least 0"),
    "none": ({"tokens": "answer"}, StoreError, "`tokens` takes none of the tokens of"),
    "index": ({"tokens": [99]}, IndexError, "`tokens` holds 99; this run's tokens are 0 to 59"),
    "unknown": ({"component": "layers.0.fc3"}, StoreError, "no component 'layers.0.fc3' among the 2 of this run"),
    "reader": ({"component": "layers.0.q_proj"}, StoreError, "'layers.0.q_proj' doesn't write into the residual"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_read_is_refused(tmp_path: Path, case: str) -> None:
    options, kind, words = REFUSED[case]
    delta = np.random.default_rng(3).normal(size=(60, WIDTH))
    run = of_deltas(tmp_path / "run.zarr", {"layers.0.fc2": delta, "layers.0.q_proj": delta})
    with pytest.raises(kind, match=words):
        lens(run, **options)


def test_an_unembedding_that_can_not_be_used_is_refused(make_small: Callable[..., Small], tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no unembedding; capture with `--unembedding`"):
        lens(make_small().run)
    deltas, unembedding = {"layers.0.fc2": np.ones((60, WIDTH))}, make_unembedding(WIDTH - 1, N)
    with pytest.raises(StoreError, match="no component of .* is 399 wide and of one of the kinds c_proj, dense"):
        lens(of_deltas(tmp_path / "narrow.zarr", deltas, unembedding))
    with pytest.raises(StoreError, match="the unembedding knows 40 tokens, but the run has token 59"):
        lens(of_deltas(tmp_path / "short.zarr", deltas, make_unembedding(WIDTH, 40)))
    unembedding = make_unembedding(WIDTH, N)
    unembedding["weight"][3, 4] = np.nan
    with pytest.raises(StoreError, match="the unembedding holds numbers that aren't finite"):
        lens(of_deltas(tmp_path / "broken.zarr", deltas, unembedding))
