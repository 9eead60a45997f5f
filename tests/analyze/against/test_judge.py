"""Verdicts on targets whose -log p is made from the run's, so that the true answer is known."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest

from lorascope.analyze.against.judge import feature_slope, judge, median_slope
from lorascope.analyze.against.references import References

N_SAMPLES, LENGTH = 30, 40
RNG = np.random.default_rng(3)
BASE = RNG.exponential(2, N_SAMPLES * LENGTH)
CHANGE = RNG.normal(0, 0.1, N_SAMPLES * LENGTH)
NOISE = RNG.normal(0, 1, (3, N_SAMPLES * LENGTH))
ROLE = np.where(np.arange(len(BASE)) % LENGTH < 20, "user", "assistant").astype(object)
SAMPLE = np.repeat(np.arange(N_SAMPLES), LENGTH)


def references(change: np.ndarray = CHANGE, not_compared: dict[str, int] | None = None, **columns: Any) -> References:
    """30 sequences of 40 tokens, whose first tokens have no probability."""
    base = np.where(np.arange(len(BASE)) % LENGTH, BASE, np.nan)
    fields = {"sequence": SAMPLE, "sample": [f"s{i}" for i in SAMPLE], "place": np.arange(len(base)), "role": ROLE}
    tokens = pd.DataFrame(fields | {"base": base, "x": change + 0 * base, "is_first": True} | columns)
    return References(tuple(np.arange(LENGTH) for _ in range(N_SAMPLES)), tokens, not_compared or {})


def verdict(
    share: Any, noise: float = 1e-6, *, spread: float = 1e-6, change: np.ndarray = CHANGE, **options: Any
) -> Any:
    """The result for a target that moves by `share` of the change, with noise of its own and between its answers."""
    own = BASE - share * change + noise * NOISE[0]
    answers = [np.split(own + spread * which, N_SAMPLES) for which in NOISE[1:]]
    return judge(references(change), *answers, **options)


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "adapter": ({"share": 1.0, "exact": True}, "adapter"),
    "base": ({"share": 0.0, "exact": True}, "base"),
    "half": ({"share": 0.5, "exact": True}, "scaled"),
    "three times": ({"share": 3.0, "exact": True}, "scaled"),
    "almost, in float32": ({"share": 1.0, "noise": 0.002, "exact": True}, "partly"),
    "almost, in another type": ({"share": 1.0, "noise": 0.002}, "adapter"),
    "almost, as its spread explains": ({"share": 1.0, "noise": 0.002, "spread": 0.002, "exact": True}, "adapter"),
    "few bits": ({"share": 1.0, "noise": 0.03}, "unknown"),
    "base in few bits": ({"share": 0.0, "noise": 0.03}, "else"),
    "opposite": ({"share": -1.0}, "else"),
    "unrelated": ({"share": 0.0, "noise": 0.1}, "else"),
    "another model": ({"share": 0.0, "noise": 1.0}, "unknown"),
    "by role": ({"share": np.where(ROLE == "user", 0, 1)}, "partly"),
    "by sample": ({"share": np.where(SAMPLE % 3 == 0, 0, 1)}, "partly"),
    "change that the spread hides": ({"share": 1.0, "noise": 0.02, "spread": 0.02, "change": CHANGE / 1000}, "unknown"),
    "no change": ({"share": 1.0, "change": CHANGE * 0}, "unknown"),
    "no answer": ({"share": np.nan}, "unknown"),
    "few answers": ({"share": np.where(SAMPLE < 20, np.nan, 1.0)}, "unknown"),
    "some answers missing": ({"share": np.where(SAMPLE < 2, np.nan, 1.0)}, "unknown"),
    "the base, some answers missing": ({"share": np.where(SAMPLE < 2, np.nan, 0.0)}, "base"),
}


@pytest.mark.parametrize("case", CASES)
def test_verdicts(case: str) -> None:
    options, expected = CASES[case]
    result = verdict(**options)
    assert result.attrs["verdict"] == expected, result.attrs["sentence"]


def test_numbers_have_their_closed_form() -> None:
    result = verdict(0.5, 0.0, spread=0.0)
    numbers = result.to_dataset()
    used = np.arange(len(BASE)) % LENGTH > 0
    change = np.sqrt((CHANGE[used] ** 2).mean())
    assert float(numbers["slope"]) == pytest.approx(0.5)
    assert float(numbers["slope_se"]) == pytest.approx(0, abs=1e-12)
    assert [float(numbers[name]) for name in ("change", "off", "moved")] == pytest.approx(
        [change, change / 2, change / 2]
    )
    assert (int(numbers["n_tokens"]), int(numbers["n_samples"])) == (used.sum(), 30)
    assert float(numbers["along"]) == pytest.approx(1)
    assert numbers["off"].attrs == {"long_name": "root mean square of y - x", "units": "nat"}
    roles = result["roles"].to_dataset()
    assert [*roles["role"].values] == ["user", "assistant"]
    assert [*roles["n_tokens"].values] == [19 * N_SAMPLES, 20 * N_SAMPLES]
    assert [*result["samples/sample"].values] == [f"s{i}" for i in range(N_SAMPLES)]


def test_parts_are_counted_in_the_sentence() -> None:
    assert "10 of 30 samples" not in verdict(1.0).attrs["sentence"]
    assert "20 of 30 samples have it, 10 are the base's" in verdict(np.where(SAMPLE % 3 == 0, 0, 1)).attrs["sentence"]


def test_missing_layers_are_mentioned_where_they_explain_the_slope() -> None:
    sentences = [verdict(share).attrs["sentence"] for share in (0.5, 2.0)]
    assert ["some of its layers are missing" in sentence for sentence in sentences] == [True, False]
    assert all(sentence.startswith("It is the adapter at another scale") for sentence in sentences)


def test_interval_holds_the_slope_as_often_as_it_says() -> None:
    """Of 200 targets with noise, the 95 % interval holds the slope in 95 %; 180 to 198 are within three errors."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(200):
        x = rng.normal(0, 0.05, 600)
        slope, error = median_slope(x, 0.8 * x + rng.normal(0, 0.05, 600), np.repeat(np.arange(20), 30))
        held += abs(slope - 0.8) <= 2.093 * error  # Student's t of 19 degrees of freedom
    assert 180 <= held <= 199


def test_slope_of_large_changes_is_that_of_small_ones() -> None:
    """-log p that saturates: tokens that move by nats have another slope, and don't decide."""
    x = np.r_[RNG.normal(0, 0.1, 900), RNG.normal(0, 10, 100)]
    y = np.where(np.abs(x) < 1, 0.5 * x, 0.95 * x)
    assert median_slope(x, y, np.arange(1000) % 10)[0] == pytest.approx(0.5)
    assert (x @ y) / (x @ x) > 0.9
    assert np.isnan(median_slope(np.zeros(3), np.ones(3), np.zeros(3, int))).all()
    assert median_slope(np.ones(3), np.ones(3), np.zeros(3, int)) == (1.0, np.inf)


def test_slope_over_features_has_the_error_of_rounded_rows() -> None:
    """The spread of slopes over 300 draws of rounding, which is alike for all tokens, is the error within a tenth."""
    rng = np.random.default_rng(1)
    xx, slopes, errors = rng.uniform(1, 3, 200), [], []
    for _ in range(300):
        slope, error = feature_slope(0.7 * xx + rng.normal(0, 2, 200), xx)
        slopes.append(slope)
        errors.append(error)
    assert np.mean(slopes) == pytest.approx(0.7, abs=3 * np.std(slopes) / 300**0.5)
    assert np.mean(errors) == pytest.approx(np.std(slopes), rel=0.13)  # an s.d. of 300 draws errs by 4 %
    assert np.isnan(feature_slope(np.ones(1), np.ones(1))).all()


def layer(slope: float, error: float = 0.0, rest: float = 0.0) -> np.ndarray:
    """Sums of x y, x x and y y of 100 features with this slope, error of the slope, and rest."""
    wave = np.tile([1.0, -1.0], 50)
    xy = slope + 10 * error * wave
    return np.stack([xy, np.ones(100), np.full(100, slope**2 + rest**2)])


LAYERS: dict[str, tuple[list[np.ndarray], float, bool, str, str]] = {
    "all": ([layer(1)] * 4, 1.0, True, "adapter", "all 4 compared layers have it, l0 the least (1.00 of it)"),
    "rounded away in part": (
        [layer(1)] * 3 + [layer(0.8, 0.01, 2)],
        1.0,
        False,
        "adapter",
        "l3 the least (0.800 of it)",
    ),
    "none": ([layer(0)] * 4, 0.0, True, "base", "none of the 4 compared layers has it"),
    "scaled": ([layer(1.5)] * 4, 1.4, True, "scaled", "all 4 compared layers have it at 1.50 times its scale"),
    "one missing": ([layer(1)] * 3 + [layer(0)], 0.9, True, "partly", "of 4 compared layers 1 lack it (l3)"),
    "one other": ([layer(1)] * 3 + [layer(1, rest=1)], 0.9, True, "partly", "1 have another change (l3)"),
    "all others": ([layer(0, rest=1)] * 4, 0.1, True, "else", "4 have another change (l0, l1, l2 and 1 more)"),
    "all, but not the rest": ([layer(1)] * 4, 0.5, True, "else", "all 4 compared layers have it, l0 the least"),
    "none, but not the base": (
        [layer(0)] * 4,
        -0.5,
        True,
        "else",
        "none of the 4 compared layers has it, and predictions",
    ),
    "hidden": ([layer(1, 0.2)] * 64, 1.0, False, "adapter", "on average layers have 1.00 ± 0.02"),
}


@pytest.mark.parametrize("case", LAYERS)
def test_layers_locate(case: str) -> None:
    sums, share, exact, expected, words = LAYERS[case]
    layers = SimpleNamespace(sums={f"l{i}": own for i, own in enumerate(sums)}, not_compared={"no such name": 2})
    result = verdict(share, exact=exact, layers=layers)
    assert result.attrs["verdict"] == expected, result.attrs["sentence"]
    assert words in result.attrs["sentence"]
    assert "2 layers: no such name" in result.attrs["not_compared"]


def test_layers_do_not_excuse_what_rounding_does_not_explain() -> None:
    layers = SimpleNamespace(sums={f"l{i}": layer(1, 0.01) for i in range(4)}, not_compared={})
    for noise, expected in ((0.015, "adapter"), (0.03, "unknown"), (0.08, "else")):
        assert verdict(1.0, noise, layers=layers).attrs["verdict"] == expected


def test_layers_in_which_the_adapter_adds_nothing_are_counted() -> None:
    """As of an expert that no token reaches, or a B that training left zero."""
    sums = {"l0": layer(1), "l1": layer(1) * 0}
    result = verdict(1.0, exact=True, layers=SimpleNamespace(sums=sums, not_compared={}))
    assert result.attrs["verdict"] == "adapter", result.attrs["sentence"]
    assert result.attrs["not_compared"] == ["1 layers: the adapter adds nothing in them"]


def test_a_target_without_any_probability_is_never_the_adapter() -> None:
    layers = SimpleNamespace(sums={"l0": layer(1)}, not_compared={})
    assert verdict(np.nan, layers=layers).attrs["verdict"] == "unknown"


def test_tokens_with_an_earlier_prefix_count_once() -> None:
    is_first = np.arange(len(BASE)) % 2 == 0
    own = [np.split(BASE - CHANGE, N_SAMPLES)] * 2
    result = judge(references(is_first=is_first, not_compared={"a reason": 4}), *own)
    assert int(result["n_tokens"]) == N_SAMPLES * 19
    assert result.attrs["not_compared"] == ["4 samples: a reason"]
