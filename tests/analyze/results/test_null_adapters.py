"""An adapter against random ones of its size, from values of each in each sample."""

from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from lorascope.analyze.results.null_adapters import compare_variants, describe_nulls

MEASURES = ("ce_change", "kl", "miub")


def stored(own: Any, nulls: Any, n_samples: int = 12, noise: float = 0.01) -> xr.Dataset:
    """Values (sample, variant) of every measure: means by variant that are (own, *nulls), and noise that sums to 0."""
    rng = np.random.default_rng(0)
    means = np.array([own, *np.broadcast_to(np.asarray(nulls, float).T, (3, len(nulls))).T])  # (variant, measure)
    values = rng.normal(size=(n_samples, len(means), 3))
    values = means + noise * (values - values.mean(axis=0))
    values = np.concatenate([values, np.full((1, len(means), 3), np.nan)])  # a sample that wasn't read
    return xr.Dataset({name: (("sample", "variant"), values[..., at]) for at, name in enumerate(MEASURES)})


NULLS = np.random.default_rng(1).normal(size=(9, 3))


def test_numbers_are_those_of_plain_formulas() -> None:
    data = stored((-5.0, 7.0, 0.1), NULLS)
    result, n = compare_variants(data), 9
    assert (result.attrs["n_nulls"], result.attrs["n_samples"]) == (9, 12)
    np.testing.assert_allclose(result["nulls"], NULLS, rtol=1e-12)
    for at, name in enumerate(MEASURES):
        row, own = result.sel(measure=name), data[name].values[:-1]
        spread = NULLS[:, at].std(ddof=1)
        assert float(row["value"]) == pytest.approx(own[:, 0].mean())
        assert float(row["se"]) == pytest.approx(stats.sem(own[:, 0]))
        assert float(row["difference"]) == pytest.approx(own[:, 0].mean() - NULLS[:, at].mean())
        assert float(row["difference_se"]) == pytest.approx(stats.sem(own[:, 0] - own[:, 1:].mean(axis=1)))
        assert float(row["spreads"]) == pytest.approx(float(row["difference"]) / spread)
        t = float(row["difference"]) / (spread * np.sqrt(1 + 1 / n))
        assert float(row["p"]) == pytest.approx(2 * stats.t.sf(abs(t), n - 1))
        # The same as a t test of one value against nine, with equal variances.
        assert float(row["p"]) == pytest.approx(two_sample_p(own[:, 0].mean(), NULLS[:, at]))
    assert result["rank"].values.tolist() == [10, 1, 1 + (NULLS[:, 2] > 0.1).sum()]
    assert result["units"].values.tolist() == ["nat/token", "nat/token", "nat"]


def two_sample_p(value: float, others: np.ndarray) -> float:
    """p of Student's t test with pooled variance, which for one value is that of the others."""
    n = len(others)
    t = (value - others.mean()) / np.sqrt(others.var(ddof=1) * (1 / n + 1))
    return float(2 * stats.t.cdf(-abs(t), n - 1))


@pytest.mark.parametrize("n", [1, 2, 7])
def test_with_fewer_than_eight_there_is_a_rank_alone(n: int) -> None:
    result = compare_variants(stored((-5.0, 7.0, 9.0), NULLS[:n]))
    assert np.isnan(result["spreads"]).all()
    assert np.isnan(result["p"]).all()
    assert result["rank"].values.tolist() == [n + 1, 1, 1]
    assert describe_nulls(result).startswith(
        "Can't tell whether it is more than chance, which takes 8 different random adapters of the same size: "
        f"its loss is number 1 of {n + 1} from the lowest (change -5.0000 ± "
    )


@pytest.mark.parametrize(
    ("own", "noise", "claim"),
    [
        (
            (-9.0, 9.0, 0.0),
            0.1,
            "More than chance: the loss is lower than with random adapters of the same size (change ",
        ),
        ((9.0, 9.0, 0.0), 0.1, "More than chance, and for the worse: the loss is higher than with random adapters of "),
        (
            (0.3, 9.0, 0.0),
            0.1,
            "Next tokens move further than with random adapters of the same size, but the loss isn't clearly lower "
            "(KL(base || adapted) 9.000 ± ",
        ),
        ((0.3, -9.0, 0.0), 0.1, "Not clearly more than chance: the loss isn't clearly lower than with random "),
        ((0.3, 0.1, 50.0), 0.1, "Not clearly more than chance: "),
        ((-3.5, 0.1, 0.0), 0.1, "Not clearly more than chance: "),  # p = 0.03
        ((-9.0, 0.1, 0.0), 40.0, "Not clearly more than chance: "),  # on these samples alone
    ],
)
def test_claims(own: Any, noise: float, claim: str) -> None:
    assert describe_nulls(compare_variants(stored(own, NULLS, noise=noise))).startswith(claim)


def test_adapters_that_do_nothing_are_no_more_than_unknown() -> None:
    result = compare_variants(stored((0.0, 0.0, 0.0), np.zeros((8, 3)), noise=0))
    assert np.isnan(result["p"]).all()
    assert describe_nulls(result).startswith("Can't tell")


@pytest.mark.parametrize(
    ("own", "sentence"),
    [
        (
            (-9.0, 1.25, 0.004),
            "More than chance: the loss is lower than with random adapters of the same size "
            "(change -9.0000 ± 0.0036 nat per token, with 8 of them 0.20 ± 0.21, 43.0 of their spreads apart).",
        ),
        (
            (0.2, 1.25, 0.004),
            "Next tokens move further than with random adapters of the same size, but the loss isn't clearly lower "
            "(KL(base || adapted) 1.2500 ± 0.0031 nat per token, with 8 of them 0.0150 ± 0.0053, "
            "231 of their spreads apart).",
        ),
    ],
)
def test_the_sentence_has_the_numbers_of_its_claim(own: Any, sentence: str) -> None:
    nulls = [[0, 0.01, 0.005]] * 4 + [[0.4, 0.02, 0.006]] * 4
    assert describe_nulls(compare_variants(stored(own, nulls))) == sentence
