import numpy as np
import pytest
from scipy.signal import lfilter

from lorascope.analyze import mutual_information
from lorascope.analyze.information.pairs import check_pairs
from lorascope.analyze.information.serial import FEWEST, effective_rows


def series(rng: np.random.Generator, n: int, d: int, coefficient: float) -> np.ndarray:
    """Stationary autoregressive series of variance 1, float64 (n, d)."""
    noise = rng.normal(size=(n, d))
    noise[1:] *= np.sqrt(1 - coefficient**2)
    return np.asarray(lfilter([1], [1, -coefficient], noise, axis=0))


@pytest.mark.parametrize("d", [1, 8])
def test_independent_rows_all_count(d: int) -> None:
    for seed in range(50):
        rng = np.random.default_rng(seed)
        pairs = check_pairs(*rng.normal(size=(2, 500, d)))
        assert effective_rows(pairs) > FEWEST * 500
        # One side alone may follow itself: its rows still meet the other side's in a random order.
        assert effective_rows(pairs._replace(x=series(rng, 500, d, 0.98))) > FEWEST * 500


@pytest.mark.parametrize("coefficient", [0.5, 0.9])
def test_serial_rows_count_as_often_as_bartlett_says(coefficient: float) -> None:
    """1 + 2 sum r^2h = (1 + r^2) / (1 - r^2) rows of such series count once."""
    found = []
    for seed in range(50):
        rng = np.random.default_rng(seed)
        found.append(effective_rows(check_pairs(*(series(rng, 4000, 1, coefficient) for _ in range(2)))))
    expected = 4000 * (1 - coefficient**2) / (1 + coefficient**2)
    assert np.median(found) == pytest.approx(expected, rel=0.1)


def test_seasons_and_interleaved_series_are_serial_though_rows_that_meet_are_not_alike() -> None:
    rng = np.random.default_rng(0)
    quarters = np.pi / 2 * np.arange(400)  # a quarter turn on, nothing of a wave is left
    season = check_pairs(*(np.sin(quarters + phase) + 0.3 * rng.normal(size=400) for phase in (1.0, 0.3)))
    assert effective_rows(season) < 0.1 * 400
    for seed in range(10):
        rng = np.random.default_rng(seed)
        interleaved = check_pairs(*(series(rng, 200, 5, 0.98).ravel() for _ in range(2)))
        assert effective_rows(interleaved) < FEWEST * 1000


def test_rare_symbols_that_both_sides_share_arent_serial() -> None:
    for seed in range(50):
        rare = (np.random.default_rng(seed).random(500) < 0.02).astype(int)
        rare[0] = 1
        assert effective_rows(check_pairs(rare, rare)) > FEWEST * 500


def test_independent_series_are_told_unless_groups_say_what_depends_on_what() -> None:
    rng = np.random.default_rng(0)
    x, y = (series(rng, 500, 1, 0.98) for _ in range(2))
    found = mutual_information(x, y, n_shuffles=5)
    assert float(found["value"].sel(estimator="panel")) > 0.15  # of independent series
    assert set(found["verdict"].values.tolist()) == {"serial"}
    assert found.attrs["n_effective"] < 100
    grouped = mutual_information(x, y, n_shuffles=5, groups=np.arange(500) // 50)
    assert "serial" not in grouped["verdict"].values
    assert grouped.attrs["n_effective"] == 500
    order = rng.permutation(500)
    shuffled = mutual_information(x[order], y[order], n_shuffles=5)
    assert "serial" not in shuffled["verdict"].values  # whoever shuffles says that rows are independent
