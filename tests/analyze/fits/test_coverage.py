"""Studies simulated again and again: how often intervals hold the truth, and what is said where it can't be told."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.fits.design import Design
from lorascope.analyze.fits.diagnostics import verdicts
from lorascope.analyze.fits.estimate import Estimate, estimate
from lorascope.analyze.fits.profile import Interval, profile, threshold
from lorascope.analyze.fits.solve import least_squares

from .simulated import simulate_study

DesignOf = Callable[..., Design]
TRUTH = {"A": 1.0, "B": 1.0, "alpha": 0.5, "beta": 0.5}
N_STUDIES = 200
PHI3 = (2_235_546_624, 2_462_051_328, 2_915_060_736, 3_821_079_552)
NO_TESTS = pd.DataFrame()
FIVE = {f"set{k}": 1500.0 + 20 * k for k in range(5)}


def identifying(seed: int) -> pd.DataFrame:
    """Five sizes over two decades times five ranks, in two groups, with 2 % noise."""
    return simulate_study(
        TRUTH, N=tuple(np.geomspace(1e8, 1e10, 5)), R=(4, 16, 64, 256, 1024), groups={"a": 1.5, "b": 2.0}, noise=0.02,
        random=np.random.default_rng(seed),
    )  # fmt: skip


def holds_the_truth(found: Estimate, name: str) -> bool:
    """Whether the sum of squares with the true value held is below the threshold of the interval by F."""
    problem = found.design.problem
    if name in found.design.exponents:
        held = problem.fix(found.design.exponents.index(name), TRUTH[name])
    else:
        own = next(one for one in problem.columns if one.amplitude == name)
        others = tuple(one for one in problem.columns if one.amplitude != name)
        held = replace(problem, columns=others, known=((own, TRUTH[name]),))
    limit = threshold(found.ssr, found.df, 0.95)
    return least_squares(held, [found.parts[2]], grid="coarse").ssr <= limit


@pytest.mark.slow
def test_intervals_by_f_hold_the_truth_19_times_of_20(design_of: DesignOf) -> None:
    held = dict.fromkeys(TRUTH, 0)
    estimates = []
    for seed in range(N_STUDIES):
        found = estimate(design_of(identifying(seed)), grid="coarse")
        for name in TRUTH:
            held[name] += holds_the_truth(found, name)
        estimates.append([found.values[name] for name in (*TRUTH, "E[a]", "E[b]")])
    for name, count in held.items():
        assert 0.90 <= count / N_STUDIES <= 0.98, name
    bias = np.mean(estimates, axis=0) - [*TRUTH.values(), 1.5, 2.0]
    error = np.std(estimates, axis=0, ddof=1) / math.sqrt(N_STUDIES)
    assert (np.abs(bias / error)[[2, 3]] < 3).all()  # alpha and beta: none that 200 studies would show
    assert (np.abs(bias) < 0.01 * np.array([*TRUTH.values(), 1.5, 2.0])).all()


# Designs that don't tell an exponent.


def interval(found: Estimate, name: str) -> Interval:
    """The reported interval of one exponent."""
    return profile(found, name, threshold(found.ssr, found.df, 0.95)).interval


def reaches_a_bound(found: Estimate, name: str) -> bool:
    """Whether the data don't speak against an exponent at an end of its range, which leaves its interval open."""
    problem, place = found.design.problem, found.design.exponents.index(name)
    limit = threshold(found.ssr, found.df, 0.95)
    ends = problem.bounds[place]
    return any(least_squares(problem.fix(place, end), [found.parts[2]], grid="coarse").ssr <= limit for end in ends)


def narrow(seed: int) -> pd.DataFrame:
    """Five sizes within a tenth of a decade, in five groups, with 2 % noise."""
    groups = {f"set{k}": 1.5 + k / 4 for k in range(5)}
    sizes = tuple(np.geomspace(10**9.9, 1e10, 5))
    return simulate_study(TRUTH, N=sizes, groups=groups, noise=0.02, random=np.random.default_rng(seed))


def as_in_the_paper(seed: int) -> pd.DataFrame:
    """Sizes at one rank and three ranks at one size, in five groups; what the ranks do is next to nothing."""
    truth = {"A": 3.0, "alpha": 8.8, "B": 1.0, "beta": 0.5}
    return simulate_study(
        truth, N=PHI3, R=(32, 128, 512), layout="cross", groups=FIVE, noise=0.009, random=np.random.default_rng(seed)
    )


def straight(seed: int) -> pd.DataFrame:
    """A line in ln R over two decades: an exponent of 0, which a claim of any other contradicts."""
    return simulate_study(
        {"slope_R": 0.3}, R=(4, 16, 64, 256, 1024), law="log", groups={"a": 3.0, "b": 4.0}, noise=0.02,
        random=np.random.default_rng(seed),
    )  # fmt: skip


def word(found: Estimate, name: str, own: Interval) -> str:
    every = verdicts(found, {name: own}, NO_TESTS, 0.95)
    return next(one.word for one in every if one.claim == f"under this law, these data determine {name}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("study", "name", "share"),
    [(narrow, "alpha", 0.95), (as_in_the_paper, "beta", 0.95), (straight, "beta", 0.9)],
    ids=["a tenth of a decade", "the paper's shape", "a line in ln R"],
)
def test_an_exponent_that_the_design_does_not_tell(
    design_of: DesignOf, study: Callable[[int], pd.DataFrame], name: str, share: float
) -> None:
    """In the last case the true exponent lies inside of its bounds, so that one in twenty is the rate to be had."""
    untold = []
    for seed in range(40):
        found = estimate(design_of(study(seed)), grid="coarse")
        is_open = reaches_a_bound(found, name)
        if seed < 3 or not is_open:
            own = interval(found, name)
            assert is_open == (own.low_open or own.high_open)
            untold.append(word(found, name, own) == "not identified")
            assert untold[-1] or not is_open
        else:
            untold.append(True)
    assert np.mean(untold) >= share
