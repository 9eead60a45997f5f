"""Permuted labels of settings: against joined tables, and their level where settings have effects of their own."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.fits.correlations import permutation_p, permuted_pearson, pooled_pearson, setting_residuals
from lorascope.analyze.fits.resampling import setting_orders

RNG = np.random.default_rng(0)
NAN = np.nan


def by_merging(frame: pd.DataFrame, order: dict[str, str]) -> float:
    """Pooled r after x's settings were renamed and both sides joined by group and setting."""
    moved = frame[["group", "setting", "x"]].assign(setting=frame["setting"].map(order))
    both = frame[["group", "setting", "y"]].merge(moved, on=["group", "setting"])
    x, y = (both[name] - both.groupby("group")[name].transform("mean") for name in "xy")
    return float((x @ y) / math.sqrt((x @ x) * (y @ y)))


def test_few_settings_have_all_orders() -> None:
    orders = setting_orders(5, 120, RNG)
    assert orders[0].tolist() == list(range(5))
    assert len(np.unique(orders, axis=0)) == len(orders) == 120


def test_many_settings_have_random_orders() -> None:
    orders, again = (setting_orders(8, 500, np.random.default_rng(3)) for _ in range(2))
    assert orders.shape == (501, 8)
    assert orders[0].tolist() == list(range(8))
    assert (np.sort(orders, axis=1) == np.arange(8)).all()
    assert (orders == again).all()


@pytest.mark.parametrize("lacking", [[], [3], [0, 6, 11]], ids=["whole", "one", "three"])
def test_same_as_joined_tables(lacking: list[int]) -> None:
    place = list(itertools.product("abc", "rstu"))
    frame = pd.DataFrame(place, columns=["group", "setting"]).assign(x=RNG.normal(size=12), y=RNG.normal(size=12))
    frame = frame.sample(frac=1, random_state=1).drop(index=lacking)
    x, y = (frame.pivot(index="group", columns="setting", values=name).to_numpy() for name in "xy")
    orders = setting_orders(4, 24, RNG)
    r = permuted_pearson(x, y, orders)
    expected = [by_merging(frame, {"rstu"[p]: "rstu"[s] for s, p in enumerate(order)}) for order in orders]
    np.testing.assert_allclose(r, expected)
    assert r[0] == pytest.approx(pooled_pearson(x, y))
    np.testing.assert_allclose(permuted_pearson(y, x, np.argsort(orders, axis=1)), r)


def test_an_order_that_leaves_nothing_counts_as_far() -> None:
    """Groups with settings of their own: only orders that keep a pair of them together tell something."""
    x = np.array([[1.0, 2, NAN, NAN], [NAN, NAN, 1, 3]])
    y = np.array([[0.1, 0.2, NAN, NAN], [NAN, NAN, 0.5, 0.8]])
    r = permuted_pearson(x, y, setting_orders(4, 24, RNG))
    assert np.isfinite(r).sum() == 4
    assert permutation_p(r) == (20 + 2) / 24


def test_a_column_that_is_constant_where_partners_are_left() -> None:
    x, y = np.array([[0.1, 0.1, 0.1], [0.3, 0.7, NAN]]), np.array([[0.3, 0.5, 0.9], [0.2, 0.9, NAN]])
    r = permuted_pearson(x, y, np.array([[0, 1, 2], [1, 0, 2], [2, 1, 0], [2, 0, 1]]))
    assert r[0] == pytest.approx(-r[1])
    assert np.isnan(r[2:]).all()


@pytest.mark.parametrize(
    ("r", "p"),
    [
        ([0.5, -0.5, 0.4, 0.6], 0.75),
        ([0.5, 0.5 - 1e-14, 0.0, 0.1], 0.5),
        ([0.5, NAN, 0.1, 0.1], 0.5),
        ([0.0, 0.0], 1.0),
        ([NAN, 0.1], NAN),
    ],
)
def test_p(r: list[float], p: float) -> None:
    assert permutation_p(np.array(r)) == pytest.approx(p, nan_ok=True)


def shares(spread: np.ndarray, effects: float, n_runs: int = 300) -> tuple[float, float]:
    """How often p of unrelated columns (8 groups, 6 settings) is up to 0.05: with settings' effects, and beyond."""
    rng = np.random.default_rng(1)
    orders = setting_orders(6, 200, rng)
    p = []
    for _ in range(n_runs):
        x, y = (effects * rng.normal(size=6) + spread * rng.normal(size=(8, 6)) for _ in range(2))
        beyond = permuted_pearson(setting_residuals(x)[0], setting_residuals(y)[0], orders)
        p.append([permutation_p(permuted_pearson(x, y, orders)), permutation_p(beyond)])
    first, second = (np.array(p) <= 0.05).mean(axis=0)
    return float(first), float(second)


BOUND = 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / 300)


@pytest.mark.parametrize("effects", [0.0, 3.0], ids=["no effects", "effects that all groups share"])
@pytest.mark.parametrize("spread", [np.ones((8, 1)), np.array([[9.0]] + [[1.0]] * 7)], ids=["alike", "one group rules"])
def test_level_where_settings_have_effects_of_their_own(spread: np.ndarray, effects: float) -> None:
    assert max(shares(spread, effects)) < BOUND


def test_settings_that_vary_more_than_others_break_the_level() -> None:
    """Which is why a verdict asks the draws of groups as well."""
    assert min(shares(np.array([5.0, 1, 1, 1, 1, 1]), 0.0)) > BOUND
