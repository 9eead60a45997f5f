from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.fits import refits as module
from lorascope.analyze.fits.design import Design
from lorascope.analyze.fits.estimate import Estimate, estimate
from lorascope.analyze.fits.refits import Bootstrap, bootstrap

from .simulated import simulate_study

DesignOf = Callable[..., Design]
TRUTH = {"A": 1.0, "alpha": 0.5, "B": 0.8, "beta": 0.6, "slope_N": 0.3, "slope_R": 0.2}


def study(n_groups: int = 4, law: str = "additive", **options: Any) -> pd.DataFrame:
    """Groups that differ in their alpha, too."""
    sizes: dict[str, Any] = {"N": (1e8, 1e9, 3e9, 1e10), "R": (4.0, 16.0, 64.0)}
    rng = np.random.default_rng(0)
    parts = []
    for k in range(n_groups):
        truth = {**TRUTH, "alpha": 0.4 + 0.05 * k}
        parts.append(
            simulate_study(truth, **{**sizes, **options}, law=law, groups={f"g{k}": 1.5 + k}, noise=0.01, random=rng)
        )
    return pd.concat(parts, ignore_index=True)


def drawn(draws: Estimate, n_draws: int = 500, seed: int = 0, **options: Any) -> Bootstrap:
    return bootstrap(draws, n_draws=n_draws, random=np.random.default_rng(seed), **options)


@pytest.mark.parametrize(
    ("law", "name", "residuals"),
    [("additive", "alpha", "relative"), ("additive", "alpha", "absolute"), ("log", "slope_N", "relative")],
)
def test_four_groups_are_all_ordered_draws(design_of: DesignOf, law: str, name: str, residuals: str) -> None:
    design = design_of(study(law=law, R=(), N=(1e8, 1e9, 3e9, 1e10)), law=law, residuals=residuals)
    draws = drawn(estimate(design))
    assert (draws.n_undetermined, len(draws.values)) == (0, 35)
    assert draws.weights is not None
    assert draws.weights.sum() == pytest.approx(1, rel=1e-12)
    rows = [np.flatnonzero(design.groups == f"g{k}") for k in range(4)]
    refits: dict[tuple[int, ...], float] = {}
    every = []
    for order in product(range(4), repeat=4):
        key = tuple(sorted(order))
        if key not in refits:
            refits[key] = estimate(design.select_rows(np.concatenate([rows[k] for k in key]))).values[name]
        every.append(refits[key])
    assert len(every) == 256
    np.testing.assert_allclose(np.sort(draws.values[name]), np.sort(list(refits.values())), rtol=1e-5)
    assert (draws.values[name] * draws.weights).sum() == pytest.approx(np.mean(every), rel=1e-6)
    for level in (0.5, 0.9, 0.95):
        ends = np.quantile(every, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
        assert tuple(draws.intervals(level).loc[name, ["low", "high"]]) == pytest.approx(tuple(ends), rel=1e-5)


def test_levels_of_groups_are_not_among_the_values(design_of: DesignOf) -> None:
    """A group that isn't drawn has no level."""
    frame = study().assign(sweep=lambda rows: np.where(np.arange(len(rows)) % 2, "x", "y"))
    draws = drawn(estimate(design_of(frame, offsets=["sweep"])), 35)
    assert list(draws.values.columns) == ["offset[sweep=x]", "A", "B", "alpha", "beta"]


def test_many_groups_are_drawn(design_of: DesignOf) -> None:
    best = estimate(design_of(study(7, law="log"), law="log"))
    first, again, other = (drawn(best, n_draws=200, seed=seed) for seed in (1, 1, 2))
    assert (first.weights, len(first.values)) == (None, 200)
    pd.testing.assert_frame_equal(first.values, again.values)
    assert (first.values["slope_N"].to_numpy() != other.values["slope_N"].to_numpy()).any()


def test_draws_that_do_not_determine_the_law_are_counted(design_of: DesignOf) -> None:
    """Two groups have half of the sizes each: alone they can't tell an exponent."""
    sizes = (1e8, 3e8, 1e9, 3e9, 1e10)
    frame = study(3, N=sizes, R=())
    sizes_of = {"g0": sizes[:2], "g1": sizes[3:], "g2": sizes}
    frame = frame[[row.N in sizes_of[row.group] for row in frame.itertuples()]].reset_index(drop=True)
    draws = drawn(estimate(design_of(frame)))
    # of the ten sets of three: (0,0,0), (1,1,1) and the two of 0 and 1 alone have 4 sizes but 2 levels
    assert draws.n_undetermined == 10 - len(draws.values)
    assert draws.n_undetermined >= 2
    assert draws.weights is not None
    assert draws.weights.sum() == pytest.approx(1, rel=1e-12)
    assert np.isfinite(draws.values.to_numpy()).all()


def test_no_draw_determines_the_law(design_of: DesignOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_determined", lambda design, spare: False)
    with pytest.raises(ValueError, match="no draw of groups determines the law; groups need more settings each"):
        drawn(estimate(design_of(study(2), law="log")))


def test_an_exponent_at_its_bound_has_an_open_end(design_of: DesignOf) -> None:
    draws = drawn(estimate(design_of(study(), bounds={"alpha": (0.02, 0.4)})))
    low, high, low_open, high_open = draws.intervals(0.95).loc["alpha"]
    assert high == pytest.approx(0.4, abs=1e-6)
    assert (low_open, high_open) == (low == pytest.approx(0.02, abs=1e-6), True)
    assert not draws.intervals(0.95).loc["A", ["low_open", "high_open"]].any()
    assert draws.bounds == {"alpha": (0.02, 0.4), "beta": (-1.5, 12.0)}


def test_one_group_has_no_bootstrap(design_of: DesignOf) -> None:
    words = "a bootstrap over groups needs at least two groups; name the columns that distinguish them"
    with pytest.raises(ValueError, match=words):
        drawn(estimate(design_of(study(1), law="log")))
