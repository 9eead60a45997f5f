from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from lorascope.analyze.fits import solve
from lorascope.analyze.fits.design import Design
from lorascope.analyze.fits.laws import Column
from lorascope.analyze.fits.solve import Problem, least_squares, local_minima

from .simulated import simulate_study

DesignOf = Callable[..., Design]
TRUTH = {"A": 1.0, "alpha": 0.5, "B": 0.8, "beta": 0.6, "C": 0.5, "gamma": 0.9}
N, R, D = (1e8, 3e8, 1e9, 3e9, 1e10), (4.0, 16.0, 64.0, 256.0), (1e3, 1e4, 1e5, 1e6)


def study(seed: int, *, truth: dict[str, float] | None = None, **options: Any) -> pd.DataFrame:
    defaults = {"N": N, "R": R, "groups": {"a": 1.5, "b": 2.5}, "noise": 0.01}
    return simulate_study(truth or TRUTH, **{**defaults, **options}, random=np.random.default_rng(seed))


def plain_ssr(problem: Problem, exponents: np.ndarray) -> float:
    """Levels, printed columns and a linear regression."""
    columns = [column.printed(exponents) for column in problem.columns]
    known = sum((a * column.printed(exponents) for column, a in problem.known), start=np.zeros(len(problem.target)))
    x = problem.weights[:, None] * np.column_stack([problem.levels, *columns])
    y = problem.weights * (problem.target - known)
    return float(((y - x @ np.linalg.lstsq(x, y)[0]) ** 2).sum())


@pytest.mark.parametrize(
    ("values", "places"),
    [
        ([3.0, 1.0, 2.0, 0.5, 4.0], [3, 1]),
        ([0.0, 1.0, 2.0], [0]),
        ([2.0, 1.0, 0.0], [2]),
        ([[9.0, 8.0, 7.0], [6.0, 1.0, 5.0], [0.0, 4.0, 3.0]], [6, 4, 8]),  # neighbours share an edge
        ([2.0, 2.0, 3.0], [0, 1]),
        ([[1.0, 2.0], [3.0, 0.5]], [3, 0]),
        ([7.0], [0]),
    ],
)
def test_minima_of_a_grid(values: list[Any], places: list[int]) -> None:
    assert list(local_minima(np.array(values))) == places


# Against other programs.


def full(design: Design) -> tuple[float, np.ndarray]:
    """The least SSR over all printed parameters at once, from many starts, and the exponents there."""
    x = {axis: np.exp(logs) for axis, logs in design.logs.items()}
    weights = 1 / design.y
    n = len(x)

    def residuals(p: np.ndarray) -> np.ndarray:
        terms = sum(a * size**e for a, e, size in zip(p[:n], p[n : 2 * n], x.values(), strict=True))
        return weights * (design.y - design.levels @ p[2 * n :] - terms)

    low, high = np.full(2 * n + design.levels.shape[1], -np.inf), np.full(2 * n + design.levels.shape[1], np.inf)
    low[n : 2 * n], high[n : 2 * n] = design.bounds.T
    ends = []
    for start in (0.3, 0.8, 1.5):
        begin = np.r_[np.ones(n), np.full(n, start), np.full(design.levels.shape[1], design.y.min())]
        done = optimize.least_squares(
            residuals, begin, bounds=(low, high), x_scale="jac", xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=2000
        )
        ends.append((2 * done.cost, done.x[n : 2 * n]))
    return min(ends, key=lambda end: end[0])


@pytest.mark.parametrize(
    "sizes", [{}, {"R": ()}, {"N": ()}, {"D": D, "R": (4.0, 32.0, 256.0), "N": (1e8, 1e9, 1e10)}], ids=str
)
@pytest.mark.parametrize("seed", range(2))
def test_optimum_is_that_of_all_parameters_at_once(design_of: DesignOf, sizes: dict[str, Any], seed: int) -> None:
    design = design_of(study(seed, **sizes))
    ssr, exponents = full(design)
    solution = least_squares(design.problem)
    assert solution.ssr == pytest.approx(ssr, rel=1e-9)
    assert solution.ssr <= ssr * (1 + 1e-12)
    np.testing.assert_allclose(solution.exponents, exponents, rtol=1e-4)


@pytest.mark.parametrize(("slope", "lowest"), [(0.1, 1.9453), (-0.1, -1.9453)])
def test_the_lower_of_two_valleys(slope: float, lowest: float) -> None:
    log_x = np.linspace(-2, 2, 9)
    y = 0.7 * np.abs(log_x) + slope * log_x
    problem = Problem(y, np.ones(9), np.ones((9, 1)), (Column("A", log_x[:, None], (0,)),), np.array([[-8.0, 12.0]]))
    dense = np.array([plain_ssr(problem, np.array([e])) for e in np.arange(-7.95, 8, 0.1)])
    assert ((dense[1:-1] < dense[:-2]) & (dense[1:-1] < dense[2:])).sum() == 2
    solution = least_squares(problem)
    assert solution.exponents[0] == pytest.approx(lowest, abs=1e-4)
    assert solution.ssr <= dense.min()


# Bounds, held exponents, starts.


@pytest.mark.parametrize(("bounds", "end"), [((1.2, 4.0), 0), ((0.02, 0.2), 1)])
def test_an_exponent_at_its_bound_is_flagged(design_of: DesignOf, bounds: tuple[float, float], end: int) -> None:
    design = design_of(study(0), bounds={"alpha": bounds})
    solution = least_squares(design.problem)
    assert solution.exponents[0] == pytest.approx(bounds[end], rel=1e-12)
    assert list(design.problem.at_bound(solution.exponents)) == [True, False]
    problem = design_of(study(0)).problem.fix(0, bounds[end])
    fixed = least_squares(problem)
    assert solution.ssr == pytest.approx(fixed.ssr, rel=1e-12)
    assert not problem.at_bound(fixed.exponents)[0]  # a held exponent isn't at a bound


def test_an_exponent_held_stays_and_the_rest_moves(design_of: DesignOf) -> None:
    problem = design_of(study(1)).problem
    best = least_squares(problem)
    fixed = least_squares(problem.fix(0, 0.9))
    assert fixed.exponents[0] == 0.9
    assert list(problem.fix(0, 0.9).free) == [1]
    assert fixed.exponents[1] != pytest.approx(best.exponents[1], rel=1e-3)
    lowest = optimize.minimize_scalar(
        lambda beta: plain_ssr(problem, np.array([0.9, beta])),
        bounds=(-1.5, 3),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert fixed.ssr == pytest.approx(lowest.fun, rel=1e-10)
    both = least_squares(problem.fix(0, 0.9).fix(1, 0.4))
    np.testing.assert_array_equal(both.exponents, [0.9, 0.4])
    assert both.ssr == pytest.approx(plain_ssr(problem, both.exponents), rel=1e-10)
    assert both.converged


def test_starts_beside_a_grid(design_of: DesignOf) -> None:
    problem = design_of(study(3)).problem
    starts = [np.array(start) for start in ([0.3, 0.3], [2.0, -1.0], [99.0, -99.0])]  # outside of the bounds, too
    best, again = least_squares(problem), least_squares(problem, starts, grid="coarse")
    assert again.ssr == pytest.approx(best.ssr, rel=1e-10)
    both = least_squares(problem.fix(0, 0.9).fix(1, 0.4))
    assert both.ssr == pytest.approx(plain_ssr(problem, np.array([0.9, 0.4])), rel=1e-10)


def test_nothing_to_search(design_of: DesignOf) -> None:
    design = design_of(study(0), law="log")
    solution = least_squares(design.problem)
    x = design.weights[:, None] * np.column_stack([design.levels, design.logs["N"], design.logs["R"]])
    beta, ssr, *_ = np.linalg.lstsq(x, design.weights * design.y)
    np.testing.assert_allclose([*solution.levels, *solution.coefficients], beta, rtol=1e-10)
    assert solution.ssr == pytest.approx(ssr[0], rel=1e-10)
    levels = least_squares(design.without_sizes(["N", "R"]).problem)
    by_group = [np.average(design.y[design.groups == g], weights=design.y[design.groups == g] ** -2.0) for g in "ab"]
    np.testing.assert_allclose(levels.levels, by_group, rtol=1e-12)


# Columns that depend on each other.


def test_columns_that_depend_on_each_other() -> None:
    rng = np.random.default_rng(0)
    log_x = rng.uniform(0, 3, 12)
    y = 2 + 0.5 * np.exp(0.7 * log_x) + rng.normal(size=12) / 10
    power = Problem(y, np.ones(12), np.ones((12, 1)), (Column("A", log_x[:, None], (0,)),), np.array([[0.02, 5.0]]))
    single = least_squares(power)
    twice = replace(power, columns=(power.columns[0], Column("B", log_x[:, None], (0,))))
    solution = least_squares(twice)
    assert solution.ssr == pytest.approx(single.ssr, rel=1e-10)
    np.testing.assert_allclose(solution.coefficients, np.tile(single.coefficients / 2, 2), rtol=1e-6)
    for nothing in (Column("B", np.zeros(12)[:, None], (0,)), Column("B", np.full((12, 1), 3.0))):  # zero, and a level
        solution = least_squares(replace(power, columns=(power.columns[0], nothing)))
        assert solution.ssr == pytest.approx(single.ssr, rel=1e-10)
        assert np.isfinite(solution.coefficients).all()


# Known terms.


def test_a_known_term_is_taken_off(design_of: DesignOf) -> None:
    problem = design_of(study(4)).problem
    best = least_squares(problem)
    a, b = problem.columns
    known = replace(problem, columns=(b,), known=((a, 1.1),))
    solution = least_squares(known)
    lowest = optimize.minimize(
        lambda e: plain_ssr(known, e), best.exponents, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-16}
    )
    assert solution.ssr == pytest.approx(lowest.fun, rel=1e-8)
    np.testing.assert_allclose(solution.exponents, lowest.x, rtol=1e-4)
    own = best.coefficients[0] * a.per_unit(best.exponents)
    assert least_squares(replace(known, known=((a, own),))).ssr == pytest.approx(best.ssr, rel=1e-10)


# The derivative.


@settings(max_examples=60)
@given(st.floats(0.05, 3), st.floats(-1, 3), st.sampled_from(["plain", "known", "weighted", "deficient"]))
def test_gradient_is_that_of_half_the_sum_of_squares(alpha: float, beta: float, kind: str) -> None:
    rng = np.random.default_rng(1)
    logs = rng.uniform(-2, 0, (2, 16))
    a, b = Column("A", -logs[0][:, None], (0,)), Column("B", logs[1][:, None], (1,))
    y = 1 + np.exp(-0.5 * logs[0]) + np.exp(0.8 * logs[1]) + rng.normal(size=16) / 5
    problem = Problem(y, np.ones(16), np.eye(2)[np.arange(16) % 2], (a, b), np.array([[0.02, 25.0], [-1.5, 12.0]]))
    problem = {
        "plain": problem,
        "known": replace(problem, columns=(b,), known=((a, 0.7),)),
        "weighted": replace(problem, weights=rng.uniform(0.5, 2, 16)),
        "deficient": replace(problem, columns=(a, Column("C", a.log_x, (0,)), b)),
    }[kind]
    at = np.array([alpha, beta])
    residuals = solve._solve_linear(problem, at)[0]
    gradient = solve._projected_slopes(problem, at).T @ residuals

    def half(exponents: np.ndarray) -> float:
        return float((solve._solve_linear(problem, exponents)[0] ** 2).sum()) / 2

    step = 1e-4
    near, far = (
        np.array([(half(at + k * step * e) - half(at - k * step * e)) / (2 * k * step) for e in np.eye(2)])
        for k in (1, 2)
    )
    np.testing.assert_allclose(gradient, (4 * near - far) / 3, rtol=1e-6, atol=1e-9)
