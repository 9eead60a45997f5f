import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import digamma

from lorascope.analyze.information.estimators import (
    ESTIMATORS,
    PANEL,
    ceilings,
    evaluate,
    resolve_estimators,
)
from lorascope.analyze.information.gaussian import gaussian_bias, gaussian_information, noise_curve, normal_scores
from lorascope.analyze.information.ksg import extrapolated_ksg, ksg
from lorascope.analyze.information.pairs import Settings, check_pairs

DRAWING = {"classifier"}
"""Those that treat sides or rows differently, at random or by their place."""
HALVING = {*DRAWING, "cca_ksg", "quadratic_cca_ksg", "characteristic_ksg"}
SPREAD = 0.06
"""Nats: no estimate of 600 rows here has a larger standard deviation over seeds."""


def value(name: str, x: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None, **settings: Any) -> float:
    return float(evaluate(check_pairs(x, y, groups), [name], Settings(**settings))[0])


TIPPING = ("quadratic_cca_ksg", "characteristic_ksg")


def panel(x: np.ndarray, y: np.ndarray) -> float:
    return float(evaluate(check_pairs(x, y), resolve_estimators("panel"), Settings())[-1])


def two_pairs(seed: int, n: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """Two independent pairs of rho 0.9 and 0.6: 0.83 and 0.22 nats."""
    rng = np.random.default_rng(seed)
    x, noise, rho = rng.normal(size=(n, 2)), rng.normal(size=(n, 2)), np.array([0.9, 0.6])
    return x, rho * x + np.sqrt(1 - rho**2) * noise


@pytest.mark.parametrize("name", ESTIMATORS)
def test_independent_sides_give_what_shuffled_rows_give(name: str) -> None:
    rng = np.random.default_rng(11)
    x, y = two_pairs(0)[0][:500], two_pairs(1)[1][:500]
    null = [value(name, x, y[rng.permutation(500)]) for _ in range(12)]
    # Of normal values, 5 standard deviations from 12 of them are passed once in 1,000 times. A certificate is cut at 0.
    least = 0.01 if name == "classifier" else 0.0
    assert abs(value(name, x, y) - np.mean(null)) <= max(least, 5 * np.std(null, ddof=1))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_sides_change_places(name: str) -> None:
    x, y = two_pairs(0)
    there, back = value(name, x, y[:, ::-1]), value(name, y[:, ::-1], x)
    # Where rows are drawn for one side alone, up to the noise; else to rounding, which may decide whether a point is
    # within a radius where scores tie, at equal distances from their middle, or values differ by what tells ties apart.
    tolerance = 2 * SPREAD if name in DRAWING else 5 / 600 if name in TIPPING else 1e-12
    assert there == pytest.approx(back, abs=tolerance)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_seed_is_all_that_is_random(name: str) -> None:
    x, y = two_pairs(0)
    assert value(name, x, y, seed=3) == value(name, x, y, seed=3)
    assert (value(name, x, y, seed=3) != value(name, x, y, seed=4)) == (name in HALVING)


# Norms of one column may tell more than norms of two do, of which the second doesn't belong to the first.
@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name != "radial_ksg"])
@pytest.mark.parametrize("side", ["x", "y"])
def test_a_column_less_tells_no_more(name: str, side: str) -> None:
    gains = []
    for seed in range(3):
        x, y = two_pairs(seed)
        fewer = (x[:, :1], y) if side == "x" else (x, y[:, 1:])
        gains.append(value(name, x, y) - value(name, *fewer))
    assert np.mean(gains) > -4 * SPREAD / math.sqrt(3)
    if side == "y":  # 0.83 of the 1.05 nats went
        assert np.mean(gains) > 0.1


@pytest.mark.parametrize("name", PANEL)
def test_members_of_the_panel_see_ranks_alone_where_tails_are_heavy(name: str) -> None:
    x, y = two_pairs(0)
    sees_ranks = ESTIMATORS[name].sees == "scores"
    assert value(name, x**3, np.exp(2 * y) + 1) == value(name, x**5 if not sees_ranks else x, np.exp(3 * y))
    assert (value(name, np.tanh(x), y) == value(name, x, y)) == sees_ranks


@pytest.mark.parametrize("name", ["ksg1", "ksg_copula", "gaussian", "gaussian_copula"])
def test_the_unit_of_a_column_means_nothing(name: str) -> None:
    x, y = two_pairs(0)
    # Powers of two are scaled without rounding, so that no distance changes its order.
    assert value(name, x * [2.0**30, 2.0**-30], y) == pytest.approx(value(name, x, y), abs=1e-12)


def test_neighbours_see_the_columns_that_their_name_says() -> None:
    x, y = two_pairs(0)
    x = x * [100, 1]
    assert value("ksg1", x, y, k=5) == ksg(x / x.std(axis=0), y / y.std(axis=0), k=5)
    assert value("ksg_copula", x, y, k=5) == extrapolated_ksg(normal_scores(x), normal_scores(y), k=5)


def test_gaussians_come_without_their_bias() -> None:
    x, y = two_pairs(0)
    assert value("gaussian", x, y) == gaussian_information(x, y) - gaussian_bias(600, 2, 2)
    scores = normal_scores(x), normal_scores(y)
    assert value("gaussian_copula", x, y) == gaussian_information(*scores) - gaussian_bias(600, 2, 2)
    for name in ("gaussian", "gaussian_copula"):
        assert ESTIMATORS[name].bias is gaussian_bias


def test_the_noise_curve_has_a_name_for_each_point() -> None:
    x, y = two_pairs(0)
    names = resolve_estimators("noise")
    assert names == ("noise_0.03", "noise_0.1", "noise_0.3", "noise_1")
    np.testing.assert_array_equal(evaluate(check_pairs(x, y), names, Settings()), noise_curve(x, y))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_tokens_of_a_sample_that_follow_each_other_add_nothing(name: str) -> None:
    """Independent sides, each row five times with little noise: the truth is 0."""
    rng = np.random.default_rng(4)
    groups = np.repeat(np.arange(120), 5)
    x, y = (rng.normal(size=(120, 2))[groups] + 1e-3 * rng.normal(size=(600, 2)) for _ in range(2))
    # Only groups are independent of each other: a fifth of the rows.
    assert value(name, x, y, groups, k=20) < 4 * SPREAD * math.sqrt(5)
    if name in {"ksg1", "ksg_copula", "cca_ksg", "quadratic_cca_ksg", "characteristic_ksg", "radial_ksg"}:
        assert value(name, x, y) > 1  # as these rows look when nobody says that they belong together


def test_the_panel_is_its_largest_member() -> None:
    x, y = two_pairs(0)
    names = resolve_estimators(["panel", "gaussian"])
    assert names == (*PANEL, "panel", "gaussian")
    found = dict(zip(names, evaluate(check_pairs(x, y), names, Settings()).tolist(), strict=True))
    assert found["panel"] == max(found[name] for name in PANEL)
    assert found["gaussian"] == value("gaussian", x, y)


@pytest.mark.parametrize("name", [name for name, estimator in ESTIMATORS.items() if estimator.has_ceiling])
def test_a_copy_comes_up_to_the_ceiling(name: str) -> None:
    x = np.random.default_rng(5).normal(size=(600, 1))
    pairs = check_pairs(x, x)
    (ceiling,) = ceilings(pairs, [name], Settings())
    (found,) = evaluate(pairs, [name], Settings())
    # Scores tie at equal distances from their middle, so that a few rows have one neighbour less on the radius.
    above = 1e-12 if name == "ksg1" else 5 / 600
    assert found <= ceiling + above
    assert found > 0.8 * ceiling


def test_symbols_and_atoms_are_as_good_as_any() -> None:
    """A channel of three symbols, a fifth of them changed; and zeros among values. Both repeat, and tie."""
    rng = np.random.default_rng(7)
    sent = rng.integers(3, size=2000)
    received = (sent + (rng.random(2000) < 0.2) * rng.integers(1, 3, 2000)) % 3
    truth = math.log(3) + 0.8 * math.log(0.8) + 0.2 * math.log(0.1)
    # A scatter of 1/sqrt(n) times that of the log density ratio, and edges between symbols, which smooth.
    assert panel(sent, received) == pytest.approx(truth, abs=0.07)
    is_there = rng.random(2000) < 0.4
    x, y = (np.where(is_there, rng.exponential(size=2000), 0.0) for _ in range(2))
    assert panel(x, y) == pytest.approx(-0.4 * math.log(0.4) - 0.6 * math.log(0.6), abs=0.07)


def test_ceilings_in_closed_form() -> None:
    pairs = check_pairs(*two_pairs(0, n=400))
    names = ("ksg1", "quadratic_cca_ksg", "gaussian", "panel", "noise_1")
    found = ceilings(pairs, names, Settings(k=2))
    expected = [digamma(400) - digamma(2), digamma(400) - digamma(2), *[math.nan] * 3]
    np.testing.assert_allclose(found, expected, rtol=1e-14)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("ksg3", "`estimator` names 'ksg3'; allowed are panel, noise, .*, classifier; did you mean 'ksg1'"),
        (["ksg1", "mine"], "`estimator` names 'mine'; allowed are"),
        ([], "`estimator` names nothing; allowed are"),
    ],
)
def test_unknown_names_are_refused_in_words(given: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        resolve_estimators(given)


def test_the_docs_list_every_estimator_and_its_best_verdict() -> None:
    page = (Path(__file__).parents[3] / "docs" / "mutual-information.md").read_text()
    table = page[page.index("| name | what it computes") : page.index("**The panel**")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:] if line.startswith("|")]
    listed = {name: verdict for names, _, verdict, _ in rows for name in re.findall(r"`([\w.]+)`", names)}
    assert listed == {name: estimator.says for name, estimator in ESTIMATORS.items()}
