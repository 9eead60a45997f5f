import doctest
import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.linalg import hadamard

from lorascope.analyze import mutual_information
from lorascope.analyze.information.estimators import PANEL, evaluate, resolve_estimators
from lorascope.analyze.information.evidence import FIELDS, VERDICTS
from lorascope.analyze.information.gaussian import gaussian_information, normal_scores
from lorascope.analyze.information.pairs import Settings, check_pairs

TASKS = Path(__file__).parents[4] / "shared" / "mi_tasks"


def pairs(seed: int = 0, n: int = 400, d: int = 1, rho: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    return x, rho * x + math.sqrt(1 - rho**2) * rng.normal(size=(n, d))


def values(result: xr.Dataset, field: str = "value") -> dict[str, Any]:
    return dict(zip(result["estimator"].values.tolist(), result[field].values.tolist(), strict=True))


def alone(x: np.ndarray, y: np.ndarray, estimator: Any) -> dict[str, float]:
    """Values without null, ladder and interval, and with the panel's bias."""
    names = resolve_estimators(estimator)
    return dict(zip(names, evaluate(check_pairs(x, y), names, Settings()).tolist(), strict=True))


def test_the_example_runs() -> None:
    module = importlib.import_module("lorascope.analyze.information.mutual_information")
    assert doctest.testmod(module).failed == 0


def test_an_estimate_comes_with_all_that_says_how_far_to_believe_it() -> None:
    result = mutual_information(*pairs(d=2), n_shuffles=2, groups=np.arange(400) // 4)
    assert tuple(result.data_vars) == FIELDS
    assert result.sizes == {"estimator": 7}
    assert result["estimator"].values.tolist() == [*PANEL, "panel"]
    assert result["long_name"].dims == ("estimator",)
    assert set(result["verdict"].values.tolist()) <= set(VERDICTS)


def test_attributes_say_how_it_was_made() -> None:
    x, y = pairs(d=2)
    options: dict[str, Any] = {"k": 5, "n_shuffles": 4, "seed": 7}
    result = mutual_information(x, y[:, 0], estimator="ksg1", groups=np.arange(400) // 4, unit="bit", **options)
    shape = {"n": 400, "n_groups": 100, "n_effective": 400, "dimensions_x": 2, "dimensions_y": 1}
    expected = {"units": "bit", **options, "p_floor": 0.2, **shape}
    assert result.attrs | expected == result.attrs
    assert set(result.attrs) - set(expected) == {"null", "interval"}


def test_the_same_seed_gives_the_same_numbers_on_any_threads() -> None:
    x, y = pairs(d=2)
    calls: list[tuple[int, int]] = []
    first, second, other = (
        mutual_information(x, y, n_shuffles=3, seed=seed, n_workers=n_workers, progress=lambda *at: calls.append(at))
        for seed, n_workers in ((1, 1), (1, 3), (2, 1))
    )
    assert calls == 3 * [(done, 18) for done in range(1, 19)]  # all rows, 3 shuffles, 2 + 4 + 8 parts
    xr.testing.assert_identical(first, second)
    assert not first.equals(other)


def test_twenty_strong_pairs_are_too_much_for_all_but_gaussians() -> None:
    truth = -10 * math.log(1 - 0.99**2)
    assert truth == pytest.approx(39.17, abs=0.01)
    x, y = pairs(0, 5000, 20, 0.99)
    names = ["ksg1", "gaussian", "gaussian_copula"]
    found = mutual_information(x, y, estimator=names, n_shuffles=0, n_workers=1)
    words, numbers = values(found, "verdict"), values(found)
    assert words["ksg1"] == "saturated"
    for name in ("gaussian", "gaussian_copula"):
        assert numbers[name] == pytest.approx(truth, rel=0.01)


def test_one_pair_that_is_nearly_a_copy_is_within_reach() -> None:
    truth = -0.5 * math.log(1 - 0.9999**2)
    assert truth == pytest.approx(4.2586, abs=1e-4)
    found = alone(*pairs(0, 5000, 1, 0.9999), ["panel", "ksg1", "gaussian"])
    # A Gaussian estimate has a standard deviation of rho/sqrt(n) = 0.014.
    for name in ("panel", "ksg1", "gaussian"):
        assert found[name] == pytest.approx(truth, abs=0.05)


def test_where_there_is_nothing_nothing_is_found() -> None:
    x, y = np.random.default_rng(3).normal(size=(2, 600, 5))
    found = mutual_information(x, y, estimator=["panel", "ksg1", "gaussian"], n_shuffles=19, n_workers=1)
    assert (abs(found["value"]) < 2 * found["null_sd"]).all()
    assert (found["p"] > 0.05).all()


@pytest.mark.slow
def test_the_panel_comes_near_the_truth_of_tasks_and_not_above_it() -> None:
    """The 24 tasks of Czyz et al. 2023 (arXiv 2306.11078), 5,000 rows each, less what one shuffle gives."""
    paths = [path for path in sorted(TASKS.glob("*.npz")) if not path.name.startswith("extra")]
    if not paths:
        pytest.skip(f"needs the samples with known mutual information in {TASKS.parent.name}/{TASKS.name}")
    errors = []
    for path in paths:
        task = np.load(path)
        x, y, shuffled = task["x"], task["y"], np.random.default_rng(0).permutation(len(task["x"]))
        panel = alone(x, y, "panel")["panel"] - alone(x, y[shuffled], "panel")["panel"]
        errors.append(panel - float(task["mi_true"]))
    assert len(errors) == 24
    assert np.abs(errors).mean() < 0.03  # of the best estimators before it 0.053
    assert max(errors) < 0.03


X, Y = pairs(4, 60, 2)


@pytest.mark.parametrize(
    ("x", "y", "options", "words"),
    [
        (X, Y, {"seed": -1}, "`seed` is -1; give a whole number of at least 0"),
        (X, Y, {"seed": None}, "`seed` is None; give a whole number"),
        (X, Y, {"n_shuffles": 2.5}, "`n_shuffles` is 2.5; give a whole number"),
        (X, Y, {"k": True}, "`k` is True; give a whole number"),
        (X, Y, {"estimator": None}, "`estimator` is None; give a name, or a list of names"),
        (X, Y, {"k": 60}, "`k` is 60, and a pair has 59 pairs of other groups; give more groups"),
        (X, Y, {"unit": "hartley"}, "`unit` is 'hartley'; allowed are 'nat', 'bit'"),
        (X, Y, {"n_workers": 0}, "`n_workers` is 0; give a whole number of at least 1"),
        (np.stack([X[:, 0], 2 * X[:, 0]], axis=1), Y, {}, "the 2 columns of `x` have rank 1; project to at most 1"),
    ],
)
def test_mistakes_are_answered_in_words(x: Any, y: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        mutual_information(x, y, **options)


def clusters(n_labels: int, d: int, noise: float, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Both sides are the centre of a label that they share, each with noise of its own: at most ln(labels)."""
    rng = np.random.default_rng(1)
    centres, labels = rng.normal(size=(n_labels, d)), rng.integers(n_labels, size=n)
    x, y = (centres[labels] + noise * rng.normal(size=(n, d)) for _ in range(2))
    return x, y


def outlier_events(d: int, share: float, n: int) -> tuple[np.ndarray, np.ndarray, float]:
    """A share of the rows has large values on both sides, in one of 2 d patterns of signs, and else nothing in common.

    Patterns are rows of a Hadamard matrix and their negatives; sizes are 1 + Exp(1) on each side alone, and other rows
    lie within 1 in every coordinate. What is shared is the event and its pattern: H(share) + share ln(2 d).
    """
    rng = np.random.default_rng(2)
    patterns = np.concatenate([hadamard(d), -hadamard(d)])
    happens, which = rng.random(n) < share, rng.integers(2 * d, size=n)
    x, y = (
        np.where(happens[:, None], patterns[which] * (1 + rng.exponential(size=(n, d))), rng.uniform(-1, 1, (n, d)))
        for _ in range(2)
    )
    entropy = -share * math.log(share) - (1 - share) * math.log1p(-share)
    return x, y, entropy + share * math.log(2 * d)


@pytest.mark.parametrize(("n_labels", "d", "noise"), [(20, 8, 0.1), (50, 8, 0.3), (300, 8, 0.3)])
def test_clusters_dont_lead_the_panel_astray(n_labels: int, d: int, noise: float) -> None:
    """The Gaussian of their covariance has up to three times as much."""
    x, y = clusters(n_labels, d, noise, 2500)
    assert gaussian_information(normal_scores(x), normal_scores(y)) > 1.2 * math.log(n_labels)
    assert max(alone(x, y, "panel").values()) < math.log(n_labels) + 0.03


@pytest.mark.parametrize(("d", "share"), [(4, 0.2), (32, 0.05)])
def test_outliers_that_come_together_dont_lead_the_panel_astray(d: int, share: float) -> None:
    x, y, truth = outlier_events(d, share, 3000)
    assert gaussian_information(normal_scores(x), normal_scores(y)) > truth
    found = mutual_information(x, y, n_shuffles=3)
    error = float(found["se"].sel(estimator="panel"))
    assert values(found)["panel"] < truth + 2 * error
