import doctest
import itertools
import math
import re

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.comparison import relabel
from lorascope.analyze.comparison.compare_metrics import compare_metrics
from lorascope.analyze.comparison.relabel import relabel_test, relabelled_pearson, setting_orders
from lorascope.analyze.comparison.within import pooled_pearson
from lorascope.study.paper_tables import paper_study

RNG = np.random.default_rng(0)


def by_merging(frame: pd.DataFrame, order: dict[str, str]) -> float:
    """Pooled r after x's settings were renamed and both sides joined by block and setting."""
    moved = frame[["block", "setting", "x"]].assign(setting=frame["setting"].map(order))
    both = frame[["block", "setting", "y"]].merge(moved, on=["block", "setting"])
    x, y = (both[name] - both.groupby("block")[name].transform("mean") for name in "xy")
    return float((x @ y) / math.sqrt((x @ x) * (y @ y)))


def study(seed: int, relation: float, *, n_settings: int, n_blocks: int = 7) -> pd.DataFrame:
    """Accuracy, M and CE with an effect of each setting, common to all blocks, and half as much noise; M's effect is
    `relation` times that of accuracy, turned around, beside one of its own."""
    rng = np.random.default_rng(seed)
    accuracy, own, other = rng.normal(size=(3, n_settings))
    place = list(itertools.product(range(n_blocks), range(n_settings)))
    setting = np.array([s for _, s in place])
    noise = 0.5 * rng.normal(size=(3, len(place)))
    return pd.DataFrame(place, columns=["block", "setting"]).assign(
        ACC=0.5 + 0.03 * (accuracy[setting] + noise[0]),
        M=(own - relation * accuracy)[setting] + noise[1],
        CE=other[setting] + noise[2],
    )


def shares(relation: float, n_runs: int, n_settings: int = 6) -> dict[str, float]:
    """How often M is said to follow accuracy, and more closely than CE: by the rules, and without setting_p."""
    found = []
    for seed in range(n_runs):
        one = compare_metrics(study(seed, relation, n_settings=n_settings), metrics=["M", "CE"], blocks="block")
        words = {verdict.claim: verdict.word == "supported" for verdict in one.verdicts}
        metric, pair = one.metrics.iloc[0], one.pairs.iloc[0]
        found.append(
            {
                "follows": words["M follows accuracy within blocks"],
                "closer": words["M follows accuracy more closely than CE"],
                "follows by cells": metric["p_effective"] <= 0.05 and metric["high"] < 0,
                "closer by cells": pair["williams_p_effective"] <= 0.05 and pair["low"] > 0,
                "setting_p": metric["setting_p"] <= 0.05,
                "setting_p of pairs": pair["setting_p"] <= 0.05,
            }
        )
    return {name: float(share) for name, share in pd.DataFrame(found).mean().items()}


@pytest.mark.parametrize("n_settings", [1, 2, 5, 7])
def test_few_settings_have_all_orders(n_settings: int) -> None:
    orders = setting_orders(n_settings, 0, RNG)
    assert orders[0].tolist() == list(range(n_settings))
    assert len(np.unique(orders, axis=0)) == len(orders) == math.factorial(n_settings)


def test_many_settings_have_random_orders() -> None:
    orders, again = (setting_orders(8, 500, np.random.default_rng(3)) for _ in range(2))
    assert orders.shape == (501, 8)
    assert orders[0].tolist() == list(range(8))
    assert (np.sort(orders, axis=1) == np.arange(8)).all()
    assert (orders == again).all()
    np.testing.assert_allclose(orders[1:].mean(axis=0), 3.5, atol=0.4)


@pytest.mark.parametrize("lacking", [[], [3], [0, 6, 11]], ids=["whole", "one", "three"])
def test_same_as_joined_tables(lacking: list[int]) -> None:
    place = list(itertools.product("abc", "rstu"))
    frame = pd.DataFrame(place, columns=["block", "setting"]).assign(x=RNG.normal(size=12), y=RNG.normal(size=12))
    frame = frame.sample(frac=1, random_state=1).drop(index=lacking)
    block, setting = (pd.factorize(frame[name], sort=True)[0] for name in ("block", "setting"))
    orders = setting_orders(4, 0, RNG)
    x, y = frame["x"].to_numpy(), frame["y"].to_numpy()
    found = relabelled_pearson(x, y, block, setting, orders)
    wanted = [by_merging(frame, {"rstu"[p]: "rstu"[s] for s, p in enumerate(order)}) for order in orders]
    np.testing.assert_allclose(found, wanted)
    assert found[0] == pytest.approx(pooled_pearson(x, y, block))
    swapped = relabelled_pearson(y, x, block, setting, np.argsort(orders, axis=1))
    np.testing.assert_allclose(swapped, found)


def test_an_order_that_leaves_nothing() -> None:
    """Blocks with settings of their own: only orders that keep a pair of them together tell something."""
    block, setting = np.array([0, 0, 1, 1]), np.array([0, 1, 2, 3])
    x, y = np.array([1.0, 2, 1, 3]), np.array([0.1, 0.2, 0.5, 0.8])
    found = relabelled_pearson(x, y, block, setting, setting_orders(4, 0, RNG))
    assert np.isfinite(found).sum() == 4
    done = relabel_test(found)
    assert (done.p, done.floor) == ((20 + 2) / 24, (20 + 1) / 24)


def test_a_column_that_is_constant_where_partners_are_left() -> None:
    block, setting = np.array([0, 0, 0, 1, 1]), np.array([0, 1, 2, 0, 1])
    x, y = np.array([0.1, 0.1, 0.1, 0.3, 0.7]), np.array([0.3, 0.5, 0.9, 0.2, 0.9])
    found = relabelled_pearson(x, y, block, setting, np.array([[0, 1, 2], [1, 0, 2], [2, 1, 0], [2, 0, 1]]))
    assert found[0] == pytest.approx(-found[1])
    assert np.isnan(found[2:]).all()


@pytest.mark.parametrize(
    ("found", "p", "floor"),
    [
        ([0.5, -0.5, 0.4, 0.6], 0.75, 0.25),
        ([0.5, 0.5 - 1e-14, 0.0, 0.1], 0.5, 0.25),
        ([0.5, np.nan, 0.1, 0.1], 0.5, 0.5),
        ([0.0, 0.0], 1.0, 0.5),
    ],
)
def test_p_and_floor(found: list[float], p: float, floor: float) -> None:
    assert relabel_test(np.array(found)) == (p, floor)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_a_number_has_no_test(value: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"the number found is {value!r}; a test needs a finite one")):
        relabel_test(np.array([value, 0.1]))


def test_columns_are_those_of_joined_tables() -> None:
    """On the paper's cells, where a setting lacks in some blocks: 300 of the 5,040 orders, drawn at random."""
    frame = paper_study(once=True)
    found = compare_metrics(frame, metrics=["ln MIUB", "CE"])
    names = sorted(frame["setting"].unique())
    sides = [frame.assign(y=frame["ACC"], x=-x) for x in (np.log(frame["MIUB"]), frame["CE"])]
    rng = np.random.default_rng(5)
    orders = [names, *(list(rng.permutation(names)) for _ in range(300))]
    r = np.array([[by_merging(one, dict(zip(order, names, strict=True))) for one in sides] for order in orders])
    for values, row in [
        (r[:, 0], found.metrics.iloc[0]),
        (r[:, 1], found.metrics.iloc[1]),
        (r[:, 0] - r[:, 1], found.pairs.iloc[0]),
    ]:
        share = (np.abs(values[1:]) >= abs(values[0])).mean()
        error = math.sqrt(max(share * (1 - share), 0.01) / 300)
        assert row["setting_p"] == pytest.approx(share, abs=4 * error)
        assert row["setting_floor"] == 1 / 5040


def test_effects_that_all_blocks_share_are_no_relation() -> None:
    """Settings with effects of their own in each column, which blocks repeat: cells and blocks alone are taken in."""
    n = 200
    found = shares(0, n)
    assert found["follows by cells"] > 0.1
    assert found["closer by cells"] > 0.1
    bound = 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / n)
    for name in ("follows", "closer", "setting_p", "setting_p of pairs"):
        assert found[name] < bound, name


def test_a_relation_between_effects_is_seen() -> None:
    found = shares(3, 40, n_settings=7)
    assert found["follows"] > 0.8
    assert found["closer"] > 0.25


def test_examples_of_the_module_run() -> None:
    assert doctest.testmod(relabel) == (0, 2)
