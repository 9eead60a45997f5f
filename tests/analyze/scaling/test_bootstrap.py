import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorascope.analyze.scaling import bootstrap as module
from lorascope.analyze.scaling.bootstrap import Bootstrap, bootstrap, weighted_quantile
from lorascope.analyze.scaling.design import Design
from lorascope.analyze.scaling.estimate import Estimate, estimated
from lorascope.analyze.scaling.simulate import simulate_study
from lorascope.analyze.scaling.solve import least_squares

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


def drawn(found: Estimate, kind: Any = "cluster", n_draws: int = 20, seed: int = 0, **options: Any) -> Bootstrap:
    return bootstrap(found, kind, n_draws=n_draws, random=np.random.default_rng(seed), **options)


@pytest.mark.parametrize(
    ("law", "name", "residuals", "delta"),
    [
        ("additive", "alpha", "relative", math.inf),
        ("additive", "alpha", "absolute", math.inf),
        ("additive", "alpha", "log", math.inf),
        ("log", "slope_N", "relative", 0.01),
    ],
)
def test_four_groups_are_all_ordered_draws(
    design_of: DesignOf, law: str, name: str, residuals: str, delta: float
) -> None:
    design = design_of(study(law=law, R=(), N=(1e8, 1e9, 3e9, 1e10)), law=law, residuals=residuals)
    found = drawn(estimated(design, delta=delta))
    assert (found.kind, found.exact, found.n_undetermined, len(found.values)) == ("cluster", True, 0, 35)
    assert found.weights.sum() == pytest.approx(1, rel=1e-12)
    rows = [np.flatnonzero(design.groups == f"g{k}") for k in range(4)]
    refits: dict[tuple[int, ...], float] = {}
    every = []
    for order in product(range(4), repeat=4):
        key = tuple(sorted(order))
        if key not in refits:
            refits[key] = estimated(design.take(np.concatenate([rows[k] for k in key])), delta=delta).values[name]
        every.append(refits[key])
    assert len(every) == 256
    np.testing.assert_allclose(np.sort(found.values[name]), np.sort(list(refits.values())), rtol=1e-5)
    assert (found.values[name] * found.weights).sum() == pytest.approx(np.mean(every), rel=1e-6)
    for level in (0.5, 0.9, 0.95):
        ends = np.quantile(every, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
        assert found.interval(name, level)[:2] == pytest.approx(tuple(ends), rel=1e-5)


def test_weights_are_multinomial(design_of: DesignOf) -> None:
    found = drawn(estimated(design_of(study(3), law="log")))
    counted = Counter(tuple(sorted(order)) for order in product(range(3), repeat=3))
    np.testing.assert_allclose(np.sort(found.weights), np.sort(np.array(list(counted.values())) / 27), rtol=1e-12)


def test_levels_of_groups_are_not_among_the_values(design_of: DesignOf) -> None:
    """A group that isn't drawn has none."""
    frame = study().assign(sweep=lambda rows: np.where(np.arange(len(rows)) % 2, "x", "y"))
    for kind in ("cluster", "wild"):
        found = drawn(estimated(design_of(frame, offsets=["sweep"])), kind)
        assert list(found.values.columns) == ["offset[sweep=x]", "A", "B", "alpha", "beta"]


def test_all_signs_of_four_groups(design_of: DesignOf) -> None:
    design = design_of(study())
    best = estimated(design)
    found = drawn(best, "wild")
    assert (found.kind, found.exact, len(found.values)) == ("wild", True, 16)
    np.testing.assert_allclose(found.weights, 1 / 16)
    names = list(found.values.columns)
    np.testing.assert_allclose(found.values.iloc[0], [best.values[name] for name in names], rtol=1e-6)
    member = np.array([int(label[1:]) for label in design.groups])
    for row, signs in zip(found.values.to_numpy(), product((1.0, -1.0), repeat=4), strict=True):
        flipped = best.fitted + np.array(signs)[member] * (design.y - best.fitted)
        again = least_squares(replace(design.problem, target=flipped))  # weights stay those of the response
        assert row[-2:] == pytest.approx(tuple(again.exponents), rel=1e-5)


@pytest.mark.parametrize("residuals", ["log", "relative", "absolute"])
@pytest.mark.parametrize("delta", [math.inf, 0.05])
def test_first_of_all_signs_is_the_fit_itself(design_of: DesignOf, residuals: str, delta: float) -> None:
    best = estimated(design_of(study(2), residuals=residuals), delta=delta)
    found = drawn(best, "wild")
    for name, value in found.values.iloc[0].items():
        assert value == pytest.approx(best.values[name], rel=1e-4)


def test_signs_of_a_straight_law_are_symmetric(design_of: DesignOf) -> None:
    best = estimated(design_of(study(law="log"), law="log", residuals="absolute"))
    slopes = drawn(best, "wild").values["slope_N"].to_numpy() - best.values["slope_N"]
    np.testing.assert_allclose(np.sort(slopes), np.sort(-slopes), atol=1e-12)


def test_many_groups_are_drawn(design_of: DesignOf) -> None:
    best = estimated(design_of(study(7, law="log"), law="log"))
    one, again, other = (drawn(best, n_draws=200, seed=seed) for seed in (1, 1, 2))
    assert (one.exact, len(one.values)) == (False, 200)
    pd.testing.assert_frame_equal(one.values, again.values)
    assert (one.values["slope_N"].to_numpy() != other.values["slope_N"].to_numpy()).any()
    np.testing.assert_allclose(one.weights, 1 / 200)
    signs = drawn(estimated(design_of(study(11, law="log"), law="log")), "wild", n_draws=60)
    assert (signs.exact, len(signs.values)) == (False, 60)


def test_drawn_sets_agree_with_the_exact_ones(design_of: DesignOf, monkeypatch: pytest.MonkeyPatch) -> None:
    best = estimated(design_of(study(3, law="log"), law="log"))
    exact = drawn(best)
    monkeypatch.setattr(module, "MOST_SETS", 1)
    some = drawn(best, n_draws=1000)
    mean, spread = some.values["slope_N"].mean(), some.values["slope_N"].std()
    assert (exact.values["slope_N"] * exact.weights).sum() == pytest.approx(mean, abs=4 * spread / math.sqrt(1000))


def test_draws_that_do_not_determine_the_law_are_counted(design_of: DesignOf) -> None:
    """Two groups have half of the sizes each: alone they can't tell an exponent."""
    sizes = (1e8, 3e8, 1e9, 3e9, 1e10)
    frame = study(3, N=sizes, R=())
    kept = {"g0": sizes[:2], "g1": sizes[3:], "g2": sizes}
    frame = frame[[row.N in kept[row.group] for row in frame.itertuples()]].reset_index(drop=True)
    found = drawn(estimated(design_of(frame)))
    # of the ten sets of three: (0,0,0), (1,1,1) and the two of 0 and 1 alone have 4 sizes but 2 levels
    assert found.n_undetermined == 10 - len(found.values)
    assert found.n_undetermined >= 2
    assert found.weights.sum() == pytest.approx(1, rel=1e-12)
    assert np.isfinite(found.values.to_numpy()).all()


def test_no_draw_determines_the_law(design_of: DesignOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "determined", lambda design, spare: False)
    with pytest.raises(ValueError, match="no draw of groups determines the law; groups need more settings each"):
        drawn(estimated(design_of(study(2), law="log")))


def test_an_exponent_at_its_bound_has_an_open_end(design_of: DesignOf) -> None:
    found = drawn(estimated(design_of(study(), bounds={"alpha": (0.02, 0.4)})))
    low, high, low_open, high_open = found.interval("alpha", 0.95)
    assert high == pytest.approx(0.4, abs=1e-6)
    assert (low_open, high_open) == (low == pytest.approx(0.02, abs=1e-6), True)
    assert found.interval("A", 0.95)[2:] == (False, False)
    assert found.bounds == {"alpha": (0.02, 0.4), "beta": (-1.5, 12.0)}


def test_progress_is_told_to_the_end(design_of: DesignOf) -> None:
    seen: list[tuple[int, int]] = []
    drawn(estimated(design_of(study(3), law="log")), progress=lambda done, n: seen.append((done, n)))
    assert seen == [(done, 10) for done in range(1, 11)]


def test_one_group_has_no_bootstrap(design_of: DesignOf) -> None:
    words = "a bootstrap over groups needs at least two groups; name the columns that tell them apart"
    for kind in ("cluster", "wild"):
        with pytest.raises(ValueError, match=words):
            drawn(estimated(design_of(study(1), law="log")), kind)


def test_a_kind_that_is_none(design_of: DesignOf) -> None:
    with pytest.raises(ValueError, match=re.escape("`kind` is 'pairs'; it is 'cluster' or 'wild'")):
        drawn(estimated(design_of(study(2), law="log")), "pairs")


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(1, 5)), min_size=1, max_size=12), st.floats(0.01, 0.99))
def test_weighted_quantile_is_that_of_repeated_values(pairs: list[tuple[int, int]], share: float) -> None:
    values, counts = (np.array(one) for one in zip(*pairs, strict=True))
    repeated = np.repeat(values, counts)
    if abs(share * len(repeated) - round(share * len(repeated))) < 1e-6:
        return
    expected = np.quantile(repeated, share, method="inverted_cdf")
    assert weighted_quantile(values.astype(float), counts / counts.sum(), share) == expected


def test_quantiles_at_steps() -> None:
    values, weights = np.array([3.0, 1.0, 2.0]), np.array([0.5, 0.25, 0.25])
    found = [weighted_quantile(values, weights, share) for share in (0.0, 0.25, 0.26, 0.5, 0.51, 1.0)]
    assert found == [1.0, 1.0, 2.0, 2.0, 3.0, 3.0]
