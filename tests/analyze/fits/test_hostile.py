"""What two hostile readers tried: each was accepted, or answered wrongly, before."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze import fit_scaling_law
from lorascope.analyze.fits.frame import group_labels

from .simulated import simulate_study

SIZES: dict[str, Any] = {"N": (1e8, 3e8, 1e9, 3e9), "R": (8.0, 32.0, 128.0, 512.0)}
TRUTH = {"A": 3.0, "alpha": 0.5, "B": 1.0, "beta": 0.7}
GROUPS = {"a": 5.0, "b": 6.0, "c": 7.0, "d": 8.0}


def study(truth: dict[str, float] = TRUTH, *, seed: int = 1, noise: float = 0.01, **options: Any) -> pd.DataFrame:
    defaults = {**SIZES, "groups": GROUPS, **options}
    return simulate_study(truth, **defaults, noise=noise, random=np.random.default_rng(seed))


def fitted(frame: pd.DataFrame, **options: Any) -> Any:
    return fit_scaling_law(frame, "y", **({"N": "N", "R": "R", "groups": ["group"]} | options))


def test_a_response_that_does_not_vary() -> None:
    flat = study().assign(y=lambda rows: rows["group"].map(GROUPS))
    with pytest.raises(ValueError, match="'y' doesn't vary within its groups, 5 in the first row; there is nothing to"):
        fitted(flat)
    with pytest.raises(ValueError, match="'y' doesn't vary at all, 5 in the first row"):
        fitted(flat.assign(y=5.0), groups=[], repeat="group")


def test_an_amplitude_is_open_where_its_exponent_may_be_zero() -> None:
    """What is allowed of B has two branches that meet in infinity; each was once given as an interval of its own."""
    frame = simulate_study(
        {"A": 3.0, "alpha": 0.5, "B": 1.0, "beta": 0.3}, N=(1e7, 1e8, 1e9, 1e10), R=SIZES["R"],
        groups={"a": 5.0, "b": 6.0, "c": 7.0}, noise=0.02, random=np.random.default_rng(5),
    )  # fmt: skip
    intervals = fitted(frame).conf_int()
    assert intervals.loc["beta", "low"] < 0 < intervals.loc["beta", "high"]
    assert intervals.loc["B", "low_open"]
    assert intervals.loc["B", "high_open"]
    assert not intervals.loc["A", ["low_open", "high_open"]].any()  # alpha stays above 0


def test_sizes_that_differ_in_the_seventh_digit_are_two_settings() -> None:
    frame = study(N=(1000001.0, 1000002.0, 5e6, 2e7))
    assert len(set(fitted(frame).design.settings)) == 16


def test_groups_that_only_slashes_tell_apart() -> None:
    names = {"a": ("hf", "llama/x"), "b": ("hf/llama", "x"), "c": ("c", "c"), "d": ("d", "d")}
    frame = study().assign(hub=lambda rows: rows["group"].map(lambda name: names[name][0]))
    frame["model"] = frame["group"].map(lambda name: names[name][1])
    words = "of columns 'hub', 'model' would both be called 'hf/llama/x'; write one of them without a slash"
    with pytest.raises(ValueError, match=words):
        fitted(frame, groups=["hub", "model"])
    assert group_labels(frame.iloc[:1], ["hub", "model"]).tolist() == ["hf/llama/x"]


@pytest.mark.parametrize("n_draws", [0, -1, 1.5, True])
def test_draws_that_are_none(n_draws: Any) -> None:
    with pytest.raises(ValueError, match="`n_draws` is .*; give a whole number of at least 1"):
        fitted(study()).bootstrap(n_draws=n_draws)


def test_a_seed_below_0_is_refused() -> None:
    with pytest.raises(ValueError, match="`seed` is -1; give a whole number of at least 0"):
        fitted(study()).bootstrap(seed=-1)


def test_noisy_relative_residuals_are_warned_of() -> None:
    assert any("divide by the observed response" in note for note in fitted(study(noise=0.2)).notes)
    assert not any("divide by the observed response" in note for note in fitted(study()).notes)
