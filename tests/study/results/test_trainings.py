from typing import Any

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]

from lorascope.study.results.claims import percent_change
from lorascope.study.results.items import Means, Spread, Training, spread_between_trainings


def spread_of(seeds: dict[str, list[float]], statistic: Any, settings: tuple[str, ...] = ("a", "b")) -> Spread:
    """The spread of a number of one metric, means by seed of each setting given."""
    trainings = [Training(name, f"{name}-s{k}") for name, own in seeds.items() for k in range(len(own))]
    trained = np.array([[value for own in seeds.values() for value in own]])
    return spread_between_trainings(statistic, ["MIUB"], trained, trainings, settings)


def gap(means: Means) -> np.ndarray:
    return np.asarray(means["MIUB"][1] - means["MIUB"][0])


def test_a_difference_of_two_settings_is_welchs() -> None:
    a, b = [1.0, 1.2, 1.1], [2.0, 2.6, 2.1, 2.4]
    spread = spread_of({"a": a, "b": b}, gap)
    ends = stats.ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
    assert spread.reach == pytest.approx((ends.high - ends.low) / 2)
    assert spread.sd == pytest.approx(np.hypot(np.std(a, ddof=1), np.std(b, ddof=1)))
    assert spread.n_seeds == 3


def test_a_setting_with_one_seed_varies_as_others_do_in_percent() -> None:
    a, c = np.array([1.0, 1.2, 1.1]), np.array([20.0, 26.0])
    spread = spread_of({"a": a.tolist(), "b": [5.0], "c": c.tolist()}, gap)
    lent = ((a / a.mean() - 1) ** 2).sum() + ((c / c.mean() - 1) ** 2).sum()
    of_a, of_b = a.var(ddof=1), 25 * lent / 3
    assert spread.sd == pytest.approx(np.sqrt(of_a + of_b))
    total = of_a / 3 + of_b
    freedom = total**2 / ((of_a / 3) ** 2 / 2 + of_b**2 / 3)
    assert spread.reach == pytest.approx(stats.t.ppf(0.975, freedom) * np.sqrt(total))
    assert spread.n_seeds == 1


def test_a_training_under_two_settings_lends_once() -> None:
    trainings = [Training("r8", "x"), Training("r8", "y"), Training("share1", "x"), Training("share1", "y")]
    trainings.append(Training("r2", "z"))
    spread = spread_between_trainings(gap, ["MIUB"], np.array([[1.0, 1.2, 1.0, 1.2, 7.0]]), trainings, ["r2", "r2"])
    assert spread.reach == pytest.approx(stats.t.ppf(0.975, 1) * 7 * np.sqrt(2 * 2 * (0.1 / 1.1) ** 2))


def test_metrics_of_one_training_move_together() -> None:
    """CE is twice MIUB in every training: their ratio has no spread."""
    trained = np.array([[1.0, 1.3, 2.0], [2.0, 2.6, 4.0]])
    trainings = [Training("a", "0"), Training("a", "1"), Training("b", "2")]

    def ratio(means: Means) -> np.ndarray:
        return np.asarray((means["CE"] / means["MIUB"]).sum(axis=0))

    assert spread_between_trainings(ratio, ["MIUB", "CE"], trained, trainings, ["a", "b"]).reach == pytest.approx(
        0, abs=1e-12
    )


def test_settings_on_which_the_number_does_not_depend_dont_count() -> None:
    spread = spread_of(
        {"a": [1.0, 1.2], "m": [5.0], "b": [2.0, 2.3]},
        lambda means: gap({"MIUB": means["MIUB"][[0, 2]]}),
        ("a", "m", "b"),
    )
    assert spread == spread_of({"a": [1.0, 1.2], "b": [2.0, 2.3]}, gap)
    assert spread.n_seeds == 2


def test_one_seed_everywhere_says_nothing() -> None:
    spread = spread_of({"a": [1.0], "b": [2.0]}, gap)
    assert np.isnan([spread.sd, spread.reach]).all()
    assert spread.n_seeds == 1


@pytest.mark.parametrize("seeds", [(3, 3), (3, 1), (2, 2)])
def test_intervals_hold_what_they_promise(seeds: tuple[int, int]) -> None:
    """A change in percent of settings that vary by 5 % from training to training; a third one has three seeds."""
    random, n_missed = np.random.default_rng(0), 0
    for _ in range(400):
        drawn = [level * (1 + 0.05 * random.normal(size=n)) for level, n in zip((1, 10, 3), (*seeds, 3), strict=True)]
        spread = spread_of(dict(zip("abc", map(list, drawn), strict=True)), percent_change)
        value = 100 * (drawn[1].mean() / drawn[0].mean() - 1)
        n_missed += abs(value - 900) > spread.reach
    assert n_missed <= 20 + 2.6 * np.sqrt(400 * 0.05 * 0.95)
