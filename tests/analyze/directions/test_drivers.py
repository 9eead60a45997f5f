import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from lorascope.analyze.directions import drivers
from lorascope.analyze.directions.drivers import _drivers, directions_by_component
from lorascope.analyze.measuring.sources import component_sources
from lorascope.stores import Run
from lorascope.stores.format.spec import ROW_TOKENS

from ...stored import store_factors

WIDTH, RANK = 16, 4


def write_factors(
    path: Path, factors: dict[str, np.ndarray], *, lengths: Sequence[int], ids: np.ndarray | None = None
) -> Run:
    """A run of these z and a random base; B has orthonormal columns, so that |delta| is |z|."""
    rng = np.random.default_rng(0)
    lora_B = {name: np.linalg.qr(rng.normal(size=(WIDTH, z.shape[1])))[0] for name, z in factors.items()}
    ids = np.arange(sum(lengths)) if ids is None else ids
    bases = {name: rng.normal(size=(len(z), WIDTH)) for name, z in factors.items()}
    return store_factors(path, factors, lora_B, lengths=lengths, bases=bases, ids=ids)


def by_component(run: Run) -> xr.Dataset:
    return directions_by_component(
        run, [source for source in component_sources(run) if source.delta.lora_B is not None]
    )


def test_counts_of_directions_are_those_of_the_whole_delta_and_of_every_other_row(tmp_path: Path) -> None:
    """Of three rows the second has a direction that the others lack."""
    rng = np.random.default_rng(3)
    lengths = [500] * 5
    steep, level = rng.normal(size=(2, 2500, RANK))
    steep *= [1, 0.4, 0.15, 0.01]
    steep[ROW_TOKENS : 2 * ROW_TOKENS, 3] *= 30
    run = write_factors(tmp_path / "run.zarr", {"a.down_proj": steep, "a.up_proj": level}, lengths=lengths)
    result = by_component(run)
    halves = np.arange(2500) // ROW_TOKENS % 2

    def counted(delta: np.ndarray, least: float) -> int:
        squares = np.linalg.svd(delta.astype(np.float64), compute_uv=False)[:RANK] ** 2
        return int((np.cumsum(squares) / squares.sum() < least).sum()) + 1

    for name in run.component_paths:
        delta, row = run.delta(name).values, result.sel(component=name)
        assert (int(row["n_90"]), int(row["n_99"])) == (counted(delta, 0.9), counted(delta, 0.99))
        assert row["n_99_half"].values.tolist() == [counted(delta[halves == half], 0.99) for half in (0, 1)]
        squares = np.linalg.svd(delta, compute_uv=False)[:RANK] ** 2
        assert float(row["first_share"]) == pytest.approx(squares[0] / squares.sum(), rel=1e-5)
    assert result["n_99"].values.tolist() == [4, 4]
    assert result["n_99_half"].values.tolist() == [[3, 4], [4, 4]]
    assert result["kind"].values.tolist() == ["down_proj", "up_proj"]
    assert result.attrs == {"tokens": "all", "n_tokens": 2500}
    first = directions_by_component(run, component_sources(run), np.arange(500))  # of one row, which has no halves
    assert np.isnan(first["n_99_half"]).all()
    assert first.attrs == {"tokens": "500 chosen", "n_tokens": 500}


def test_long_runs_are_read_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    run = write_factors(tmp_path / "run.zarr", {"a.up_proj": rng.normal(size=(4500, RANK))}, lengths=[500] * 9)
    sources = component_sources(run)
    rows = np.arange(4500) // ROW_TOKENS
    monkeypatch.setattr(drivers, "MOST_ROWS", 3)
    part = directions_by_component(run, sources)
    assert part.attrs == {"tokens": "all", "n_tokens": 2452, "rows": "3 evenly spaced rows of 5"}
    chosen = directions_by_component(run, sources, np.flatnonzero(np.isin(rows, [0, 2, 4])))
    xr.testing.assert_equal(part, chosen)
    assert "rows" not in chosen.attrs


def test_a_driver_is_the_token_with_the_smallest_chance_of_all_draws() -> None:
    population = np.repeat([2, 5, 9], [5, 3, 2])
    ids, counts = np.unique(population, return_counts=True)
    draws = list(itertools.combinations(population.tolist(), 4))
    tops = [np.array(top, np.int64) for top in ([5, 5, 9, 5], [9, 9, 2, 2], [], [2, 5, 2, 9])]
    for top, n, chance in zip(tops, *_drivers(tops, ids, counts), strict=True):
        if not len(top):
            assert (n, np.isnan(chance)) == (0, True)
            continue
        chances = {i: np.mean([draw.count(i) >= (top == i).sum() for draw in draws]) for i in np.unique(top).tolist()}
        best = min(chances, key=lambda i: chances[i])
        assert (n, chance) == ((top == best).sum(), pytest.approx(chances[best]))


def test_random_directions_of_tokens_that_cluster_have_a_driver_no_more_often_than_p_says(tmp_path: Path) -> None:
    """Tokens of one id have alike z, so that along any direction few ids hold the extremes."""
    rng = np.random.default_rng(1)
    ids = rng.zipf(1.5, 2000) % 200
    factors = {
        f"{n}.down_proj": rng.normal(size=(200, RANK))[ids] + 0.1 * rng.normal(size=(2000, RANK)) for n in range(60)
    }
    run = write_factors(tmp_path / "run.zarr", factors, lengths=[100] * 20, ids=ids)
    n_driven = int((by_component(run)["driver_p"] <= 0.05).sum())
    assert n_driven <= stats.binom(60, 0.05).ppf(0.999)


def test_a_planted_token_drives_and_a_shared_beginning_does_not(tmp_path: Path) -> None:
    """Two components: one acts at id 7, wherever it stands; one at the first token, the same in all samples."""
    rng = np.random.default_rng(4)
    lengths, starts = [30] * 20, np.arange(20) * 30
    ids = rng.integers(100, 150, 600)
    ids[starts] = 3
    places = starts + rng.integers(1, 30, 20)
    ids[places] = 7
    first, second = 0.1 * rng.normal(size=(2, 600, WIDTH))
    first[places, 0] += 5 + rng.random(20)
    second[starts] = 4 * np.eye(WIDTH)[0]
    run = write_factors(tmp_path / "run.zarr", {"a.down_proj": first, "a.up_proj": second}, lengths=lengths, ids=ids)
    result = by_component(run)
    planted, shared = (result.sel(component=name) for name in run.component_paths)
    scores = first @ np.linalg.svd(first)[2][0]
    strongest = np.argsort(-np.abs(scores), kind="stable")
    different = list(dict.fromkeys(zip(ids[strongest], strongest % 30, strict=True)))[:10]
    assert [(ids[token], token % 30) for token in planted["token"].values] == different
    assert (ids[planted["token"].values] == 7).all()
    assert int(planted["driver_count"]) == 10
    assert float(planted["driver_p"]) <= 0.05
    assert ids[shared["token"].values].tolist().count(3) == 1
    assert float(shared["driver_p"]) > 0.05
