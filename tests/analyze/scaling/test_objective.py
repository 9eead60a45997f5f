import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats

from lorascope.analyze.scaling import objective
from lorascope.analyze.scaling.design import Design
from lorascope.analyze.scaling.objective import (
    MAD_TO_SD,
    Objective,
    Residual,
    automatic_delta,
    descend,
    minimise,
    random_starts,
)
from lorascope.analyze.scaling.simulate import simulate_study
from lorascope.analyze.scaling.solve import least_squares

DesignOf = Callable[..., Design]
TRUTH = {"A": 1.0, "alpha": 0.5, "B": 0.8, "beta": 0.6}
RESIDUALS: tuple[Residual, ...] = ("relative", "log", "absolute")
residuals = pytest.mark.parametrize("residual", RESIDUALS)


def study(seed: int, **options: Any) -> pd.DataFrame:
    """A study with outliers: a tenth of the cells has ten times the noise."""
    given = {"N": (1e8, 3e8, 1e9, 3e9, 1e10), "R": (4.0, 16.0, 64.0, 256.0), "groups": {"a": 1.5, "b": 2.5}}
    rng = np.random.default_rng(seed)
    frame = simulate_study(TRUTH, **{**given, **options}, noise=0.01, random=rng)
    return frame.assign(y=frame["y"] * np.exp(0.1 * rng.standard_normal(len(frame)) * (rng.random(len(frame)) < 0.1)))


def by_definition(design: Design, residual: Residual, parameters: np.ndarray) -> np.ndarray:
    """(n,) residuals at levels, coefficients and exponents, without a line in place of the logarithm."""
    g, k = design.levels.shape[1], len(design.columns)
    at = parameters[g + k :]
    terms = [c * one.centred(at) for c, one in zip(parameters[g : g + k], design.columns, strict=True)]
    f = design.levels @ parameters[:g] + sum(terms)
    return {"relative": (design.y - f) / design.y, "log": np.log(design.y / f), "absolute": design.y - f}[residual]


@residuals
@pytest.mark.parametrize("delta", [1e-4, 1e-2, 0.1, 1e9, math.inf])
@pytest.mark.parametrize("counted", [False, True])
def test_loss_is_hubers(design_of: DesignOf, residual: Residual, delta: float, counted: bool) -> None:
    design = design_of(study(0), residuals=residual)
    counts = np.arange(40.0) % 3 if counted else None
    loss = Objective(design.problem, residual, delta, counts)
    at = loss.pack(least_squares(design.problem))
    at[:2] += 0.05
    rest = by_definition(design, residual, at)
    losses = special.huber(delta, rest) if math.isfinite(delta) else rest**2 / 2
    value, gradient = loss.value(at)
    assert value == pytest.approx((losses * (1 if counts is None else counts)).sum(), rel=1e-12, abs=0)
    expected = np.zeros_like(at)
    for k in range(len(at)):
        step = 1e-5 * np.eye(len(at))[k]
        near, far = ((loss.value(at + m * step)[0] - loss.value(at - m * step)[0]) / (2e-5 * m) for m in (1, 2))
        expected[k] = (4 * near - far) / 3
    np.testing.assert_allclose(
        gradient, expected, rtol=1e-6 if delta > 0.05 else 3e-4, atol=1e-8 * np.abs(gradient).max()
    )


@settings(max_examples=25)
@given(st.integers(0, 999), st.sampled_from(RESIDUALS))
def test_derivatives_of_residuals(design_of: DesignOf, seed: int, residual: Residual) -> None:
    design = design_of(study(seed % 5), residuals=residual)
    loss = Objective(design.problem, residual)
    rng = np.random.default_rng(seed)
    at = loss.pack(least_squares(design.problem)) * rng.uniform(0.8, 1.2, 6)
    _, slopes = loss.residuals(at)
    for k in range(6):
        step = 1e-5 * np.eye(6)[k]
        near, far = ((loss.residuals(at + m * step)[0] - loss.residuals(at - m * step)[0]) / (2e-5 * m) for m in (1, 2))
        np.testing.assert_allclose(slopes[:, k], (4 * near - far) / 3, rtol=1e-6, atol=1e-7)


def test_logarithm_goes_on_as_a_line_where_the_law_is_not_positive(design_of: DesignOf) -> None:
    design = design_of(study(0), residuals="log")
    loss = Objective(design.problem, "log")
    at = loss.pack(least_squares(design.problem))
    for level in (-at[0] * 3, 1e-9):
        moved = at.copy()
        moved[0] = level
        value, gradient = loss.value(moved)
        assert math.isfinite(value)
        step = np.eye(len(at))[0] * 1e-6
        assert gradient[0] == pytest.approx(
            (loss.value(moved + step)[0] - loss.value(moved - step)[0]) / 2e-6, rel=1e-5
        )
    edges = [objective.LEAST * (1 - 1e-9), objective.LEAST * (1 + 1e-9)]
    one = replace(design.problem, target=np.ones(40), columns=(), bounds=np.zeros((0, 2)), levels=np.ones((40, 1)))
    found = [Objective(one, "log").residuals(np.array([edge])) for edge in edges]
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-8)  # the line goes on where the logarithm ends,
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-8)  # and as steeply


@residuals
def test_curvature_is_that_of_squares_inside(design_of: DesignOf, residual: Residual) -> None:
    design = design_of(study(0), residuals=residual)
    counts = np.arange(40.0) % 3
    loss = Objective(design.problem, residual, 0.01, counts)
    at = loss.pack(least_squares(design.problem))
    rest, slopes = loss.residuals(at)
    kept = (np.abs(rest) <= 0.01) * counts
    assert 0 < (kept > 0).sum() < 35
    np.testing.assert_allclose(loss.curvature(at), np.einsum("ni,n,nj->ij", slopes, kept, slopes), rtol=1e-12)


# The optimum, against searches of our own over the printed parameters.


def peer(design: Design, residual: Residual, delta: float, seed: int, n_starts: int = 3) -> tuple[float, np.ndarray]:
    """The least summed Huber loss of E + A x^alpha, and its parameters: L-BFGS from many starts, then simplexes."""
    x, y = np.exp(design.terms.logs["N"]), design.y
    rng = np.random.default_rng(seed)

    def loss(p: np.ndarray) -> float:
        f = p[0] + p[1] * x ** p[2]
        if residual == "log" and (f <= 0).any():
            return 1e6
        rest = {"relative": 1 - f / y, "log": np.log(y) - np.log(np.maximum(f, 1e-9)), "absolute": y - f}[residual]
        return float(special.huber(delta, rest).sum()) / min(delta, 1)

    ends = []
    for _ in range(n_starts):
        begin = np.array([rng.uniform(0.5, 2), rng.uniform(0.3, 2), rng.uniform(0.1, 1.5)])
        ends.append(optimize.minimize(loss, begin, method="L-BFGS-B", bounds=[(None, None), (None, None), (0.02, 25)]))
    best = min(ends, key=lambda end: end.fun)
    for size in (0.3, 0.03, 0.003, 1e-3):
        simplex = best.x + size * np.vstack([np.zeros(3), np.eye(3)]) * rng.choice([-1, 1], 3)
        options = {"initial_simplex": simplex, "xatol": 1e-12, "fatol": 1e-16, "maxiter": 2000}
        best = min([best, optimize.minimize(loss, best.x, method="Nelder-Mead", options=options)], key=lambda e: e.fun)
    return best.fun * min(delta, 1), best.x


@pytest.mark.parametrize(
    ("residual", "delta"),
    [("log", 1e-4), ("log", 1e-3), ("log", 1e-2), ("log", 1e9), ("relative", 1e-4), ("relative", 1e-2),
     ("absolute", 1e-4), ("absolute", 1e9)],
)  # fmt: skip
def test_optimum_is_that_of_other_searches(design_of: DesignOf, residual: Residual, delta: float) -> None:
    frame = study(3, R=(), groups={"a": 1.5}, N=tuple(np.geomspace(1e8, 1e10, 20)))
    design = design_of(frame, residuals=residual)
    value, (level, amplitude, alpha) = peer(design, residual, delta, 0)
    loss = Objective(design.problem, residual, delta)
    found = minimise(loss, least_squares(design.problem))
    assert found.value <= value * (1 + 1e-9)
    assert found.value == pytest.approx(value, rel=1e-6, abs=0)
    assert found.parameters[2] == pytest.approx(alpha, rel=1e-4)
    assert found.parameters[1] / found.parameters[2] == pytest.approx(amplitude, rel=1e-4)
    assert found.parameters[0] - found.parameters[1] / found.parameters[2] == pytest.approx(level, rel=1e-4)
    assert found.converged


@residuals
@pytest.mark.parametrize("delta", [1e-2, 1e9])
def test_optimum_is_that_of_scipys_huber(design_of: DesignOf, residual: Residual, delta: float) -> None:
    """Two sizes and groups: SciPy's trust region on the printed parameters, with its own loss."""
    design = design_of(study(4), residuals=residual)
    x, y = (np.exp(design.terms.logs[axis]) for axis in "NR"), design.y
    n, r = x

    def rest(p: np.ndarray) -> np.ndarray:
        f = design.levels @ p[:2] + p[2] * n ** p[4] + p[3] * r ** p[5]
        return {"relative": 1 - f / y, "log": np.log(y) - np.log(np.maximum(f, 1e-9)), "absolute": y - f}[residual]

    at = np.array([1.5, 2.5, 1, 1, 0.4, 0.6])
    for scale in (1.0, 0.1, 0.03, 0.01):  # less and less like least squares
        done = optimize.least_squares(
            rest, at, loss="huber", f_scale=max(delta, scale), x_scale="jac", xtol=1e-15, ftol=1e-15, gtol=1e-15,
            max_nfev=300,
        )  # fmt: skip
        at = done.x
    value = float(special.huber(delta, rest(at)).sum())
    found = minimise(Objective(design.problem, residual, delta), least_squares(design.problem))
    assert found.value <= value * (1 + 1e-9)
    assert found.value == pytest.approx(value, rel=1e-8, abs=0)
    np.testing.assert_allclose(found.parameters[4:], at[4:], rtol=1e-4)


@residuals
def test_no_step_from_the_optimum_lowers_the_loss(design_of: DesignOf, residual: Residual) -> None:
    design = design_of(study(5), residuals=residual)
    rng = np.random.default_rng(0)
    for delta in (1e-4, 1e-2):
        loss = Objective(design.problem, residual, delta)
        found = minimise(loss, least_squares(design.problem))
        spread = 1 / np.linalg.norm(loss.residuals(found.parameters)[1], axis=0)
        for size in (1e-2, 1e-4, 1e-6):
            steps = size * spread * rng.standard_normal((200, len(spread)))
            values = [loss.value(found.parameters + step)[0] for step in steps]
            assert min(values) >= found.value * (1 - 1e-9)


def test_an_outlier_pulls_no_harder_however_far(design_of: DesignOf) -> None:
    frame = study(0)
    ends = []
    for factor in (2.0, 4.0):
        far = frame.copy()
        far.loc[7, "y"] *= factor
        design = design_of(far, residuals="log")
        ends.append(minimise(Objective(design.problem, "log", 0.01), least_squares(design.problem)).parameters)
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-5)


def test_counts_are_repeated_rows(design_of: DesignOf) -> None:
    design = design_of(study(1))
    counts = np.array([0.0, 1, 2, 3] * 10)
    rows = np.repeat(np.arange(40), counts.astype(int))
    repeated = design.take(rows)
    for residual in RESIDUALS:
        start = least_squares(repeated.problem)
        found = minimise(Objective(design.problem, residual, 0.01, counts), start)
        again = minimise(Objective(repeated.problem, residual, 0.01), start)
        assert found.value == pytest.approx(again.value, rel=1e-9, abs=0)
        np.testing.assert_allclose(found.parameters, again.parameters, rtol=1e-5)


def test_loss_of_least_squares_is_half_its_sum(design_of: DesignOf) -> None:
    design = design_of(study(0))
    best = least_squares(design.problem)
    loss = Objective(design.problem, "relative")
    value, gradient = loss.value(loss.pack(best))
    assert value == pytest.approx(best.ssr / 2, rel=1e-12, abs=0)
    sizes = np.linalg.norm(loss.residuals(loss.pack(best))[1], axis=0) * math.sqrt(best.ssr)
    np.testing.assert_allclose(gradient / sizes, 0, atol=1e-6)


def test_relative_residuals_keep_the_weights_of_the_problem(design_of: DesignOf) -> None:
    """Where the target was changed, as by a bootstrap, weights stay those of the response."""
    design = design_of(study(0))
    changed = replace(design.problem, target=design.y * 1.1)
    loss = Objective(changed, "relative")
    at = loss.pack(least_squares(changed))
    assert loss.value(at)[0] == pytest.approx(least_squares(changed).ssr / 2, rel=1e-9, abs=0)


# Random starts.


def test_random_starts_come_from_their_generator(design_of: DesignOf) -> None:
    design = design_of(study(0))
    loss = Objective(design.problem, "relative")
    one, again, other = (random_starts(loss, 8, np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, again)
    assert (np.stack(one) != np.stack(other)).any()
    exponents = np.stack([start[-2:] for start in random_starts(loss, 99, np.random.default_rng(0))])
    low, high = design.bounds.T
    assert (exponents >= low).all()
    assert (exponents <= high).all()
    assert (np.quantile(exponents, 0.9, axis=0) > high / 3).all()  # over the whole of the range
    assert (np.quantile(exponents, 0.1, axis=0) < 0.3).all()


def test_a_start_leads_to_the_optimum(design_of: DesignOf) -> None:
    design = design_of(study(0), residuals="absolute")
    loss = Objective(design.problem, "absolute")
    best = least_squares(design.problem)
    ends = [descend(loss, start) for start in random_starts(loss, 8, np.random.default_rng(0))]
    values = np.array([value for _, value, _ in ends])
    assert values.min() == pytest.approx(best.ssr / 2, rel=1e-6, abs=0)
    assert (values > best.ssr / 2 * (1 - 1e-9)).all()
    assert (values < best.ssr / 2 * (1 + 1e-6)).mean() >= 0.5
    at = min(ends, key=lambda end: end[1])[0]
    np.testing.assert_allclose(at[-2:], best.exponents, rtol=1e-3)


def test_starts_that_are_better_are_taken(design_of: DesignOf) -> None:
    design = design_of(study(0))
    loss = Objective(design.problem, "relative", 0.01)
    best = minimise(loss, least_squares(design.problem))
    held = least_squares(design.problem.fix(0, 20.0).fix(1, 11.0))  # a poor one
    assert minimise(loss, held, [best.parameters]).value == pytest.approx(best.value, rel=1e-9, abs=0)


# Delta by itself.


def test_automatic_delta_is_1_345_standard_deviations() -> None:
    values = np.random.default_rng(0).normal(3, 0.2, 200_001)
    assert automatic_delta(values) == pytest.approx(1.345 * 0.2, rel=0.01)
    assert stats.norm.ppf(0.75) == pytest.approx(1 / MAD_TO_SD, rel=1e-12)
    assert automatic_delta(np.array([0.0, 1.0, 3.0, 7.0])) == pytest.approx(1.345 * 1.5 / stats.norm.ppf(0.75))
    few = np.array([-0.2, -0.1, 0.0, 0.1, 0.2])
    assert automatic_delta(1e6 * few) == pytest.approx(1e6 * automatic_delta(few), rel=1e-12)


def test_no_delta_follows_from_zeros() -> None:
    words = "half of the residuals are 0, so that no `huber` delta follows from them; give it as a number"
    for values in (np.zeros(5), np.array([0.0, 0.0, 0.0, 1.0, -2.0])):
        with pytest.raises(ValueError, match=re.escape(words)):
            automatic_delta(values)
