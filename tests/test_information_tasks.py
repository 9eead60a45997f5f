"""Tasks with known mutual information: truths against log density ratios of many rows, with densities written again."""

import sys
from collections.abc import Callable
from inspect import get_annotations, isfunction

import numpy as np
import pytest
from scipy import stats
from statsmodels.distributions.copula import api as copulas

from .printed import benchmark

pytestmark = pytest.mark.slow

information_tasks = benchmark("information_tasks")
sources = sys.modules["information_sources"]  # those that the tasks are made of, not a second copy
maps = sys.modules["information_maps"]
quadrature = sys.modules["information_quadrature"]
tasks = information_tasks.tasks()

COVARIANCE = np.array([[1.0, 0.3, 0.5], [0.3, 2.0, -0.4], [0.5, -0.4, 1.5]])
BLOBS = ([(0.0, 2.0), (1.0, 4.0), (2.0, 1.0)], 0.5, [0.6, 0.0, -0.6])
MEANS = np.array([0.0, 6.0, 3.0, 12.0, 9.0])


def joint_and_sides(x: np.ndarray, y: np.ndarray, family: Callable) -> np.ndarray:
    both = np.column_stack([x, y])
    return family(COVARIANCE, both) - family(COVARIANCE[:2, :2], x) - family(COVARIANCE[2:, 2:], y)


def lomax_chain(rows: np.ndarray, shape: float, before: np.ndarray | float = 0.0, n_before: int = 0) -> np.ndarray:
    """Log density of rows, coordinate by coordinate, given the sum of those before."""
    total = 0.0
    for j, column in enumerate(rows.T):
        total = total + stats.lomax(shape + n_before + j, scale=1 + before).logpdf(column)
        before = before + column
    return total


def mixture_ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    means, spread, rhos = BLOBS
    both = np.column_stack([x, y])
    joint = [
        stats.multivariate_normal(m, spread**2 * np.array([[1, rho], [rho, 1]])).pdf(both)
        for m, rho in zip(means, rhos, strict=True)
    ]
    sides = [[stats.norm(m[i], spread).pdf(side) for m in means] for i, side in enumerate((x, y))]
    return np.log(np.mean(joint, axis=0)) - sum(np.log(np.mean(side, axis=0)) for side in sides)


def ring_ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    angle = 2 * np.pi * np.arange(60) / 60
    a, b = (stats.norm(f(angle), 0.2).pdf(side[:, None]) for f, side in ((np.cos, x), (np.sin, y)))
    return np.log((a * b).mean(axis=1)) - np.log(a.mean(axis=1)) - np.log(b.mean(axis=1))


def sphere_ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    c = (x * y).sum(axis=1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    turned = np.column_stack([np.sqrt(1 - c**2), 0 * c, c])
    return stats.vonmises_fisher([0, 0, 1], 8.0).logpdf(turned) + np.log(4 * np.pi)


def points_ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    a, b = (np.arctan2(side[:, 1], side[:, 0]) for side in (x, y))
    return stats.vonmises(3.0).logpdf(b - 2 * a) + np.log(2 * np.pi)


def counts_ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    zero = 0.3 * (y == 0)
    mixed = stats.nbinom(2.0, 2.0 / (2.0 + 6.0))
    return np.log(zero + 0.7 * stats.poisson(x).pmf(y)) - np.log(zero + 0.7 * mixed.pmf(y))


def rounded_ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    given, alone = stats.norm(x, 0.3), stats.norm(0, np.sqrt(1 + 0.3**2))
    return np.log(given.cdf(y + 0.25) - given.cdf(y - 0.25)) - np.log(alone.cdf(y + 0.25) - alone.cdf(y - 0.25))


def rectified_ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    given, alone = stats.norm(x, 0.5), stats.norm(0, np.sqrt(1 + 0.5**2))
    return np.where(y > 0, given.logpdf(y) - alone.logpdf(y), given.logcdf(0) - alone.logcdf(0))


RATIOS = {
    "gaussian": (
        sources.gaussian(COVARIANCE, 2),
        lambda x, y: joint_and_sides(x, y, lambda c, rows: stats.multivariate_normal(cov=c).logpdf(rows)),
    ),
    "student": (
        sources.student(COVARIANCE, 2, 1.5),
        lambda x, y: joint_and_sides(x, y, lambda c, rows: stats.multivariate_t(shape=c, df=1.5).logpdf(rows)),
    ),
    "uniform_noise": (
        sources.uniform_noise(0.4),
        lambda x, y: (
            stats.uniform(x - 0.4, 0.8).logpdf(y) - stats.trapezoid(0.8 / 1.8, 1 / 1.8, loc=-0.4, scale=1.8).logpdf(y)
        ),
    ),
    "gamma_sum": (
        sources.gamma_sum(2.0, 0.5),
        lambda x, y: stats.gamma(0.5).logpdf(y - x) - stats.gamma(2.5).logpdf(y),
    ),
    "cauchy_sum": (
        sources.cauchy_sum(0.3),
        lambda x, y: stats.cauchy(x, 0.3).logpdf(y) - stats.cauchy(0, 1.3).logpdf(y),
    ),
    "lomax": (
        sources.lomax(3, 5, 1.5),
        lambda x, y: lomax_chain(y, 1.5, x.sum(axis=1), 3) - lomax_chain(y, 1.5),
    ),
    "clayton": (
        information_tasks.mapped(sources.lomax(1, 1, 0.5), *[(maps.margin(stats.uniform, stats.lomax(0.5)),)] * 2),
        lambda x, y: copulas.ClaytonCopula(2.0).logpdf(1 - np.column_stack([x, y])),  # of survivals
    ),
    "gumbel": (sources.gumbel(2.0), lambda x, y: copulas.GumbelCopula(2.0).logpdf(np.column_stack([x, y]))),
    "frank": (sources.frank(8.0), lambda x, y: copulas.FrankCopula(8.0).logpdf(np.column_stack([x, y]))),
    "frank, negative": (
        sources.frank(-4.0),
        lambda x, y: copulas.FrankCopula(4.0).logpdf(np.column_stack([x, 1 - y])),
    ),
    "morgenstern": (
        sources.morgenstern(0.95),
        lambda x, y: np.log(1 + 0.95 * (1 - 2 * x) * (1 - 2 * y)),
    ),
    "mixture": (sources.mixture(*BLOBS), mixture_ratio),
    "ring": (sources.ring(0.2), ring_ratio),
    "checkers": (
        sources.checkers(6, 0.95),
        lambda x, y: np.log(2 * np.where((np.floor(6 * x) + np.floor(6 * y)) % 2 == 0, 0.95, 0.05)),
    ),
    "parity": (
        sources.parity(2, 1, 0.97),
        lambda x, y: np.log(2 * np.where(x[:, 0] * x[:, 1] * y[:, 0] > 0, 0.97, 0.03)),
    ),
    "turns": (sources.turns(5, 0.15), lambda x, y: stats.uniform(0, 0.15).logpdf((y - 5 * x) % 1)),
    "von_mises": (
        sources.von_mises(4, 10.0),
        lambda x, y: stats.vonmises(10.0).logpdf(y - 4 * x) + np.log(2 * np.pi),
    ),
    "von_mises, points": (sources.von_mises(2, 3.0, points=True), points_ratio),
    "sphere": (sources.sphere(8.0, 0.4), sphere_ratio),
    "channel": (
        sources.channel([2, 0, 3, 1], 0.2),
        lambda x, y: np.log(4 * np.where(np.array([2, 0, 3, 1])[x] == y, 0.8, 0.2 / 3)),
    ),
    "counts": (sources.counts(2.0, 6.0, 0.3), counts_ratio),
    "rounded": (sources.rounded(0.3, 0.5), rounded_ratio),
    "rectified": (sources.rectified(0.5), rectified_ratio),
    "with_atom": (
        sources.with_atom(0.4, two_sided=True),
        lambda x, y: stats.laplace(x, 0.4).logpdf(y) - stats.laplace.logpdf(y),
    ),
    "with_atom, one-sided": (
        sources.with_atom(0.2, two_sided=False),
        lambda x, y: stats.expon(x, 0.2).logpdf(y) - stats.expon.logpdf(y),
    ),
}
"""Sources, and the logarithm of p(x, y) / p(x) / p(y)."""

GIVEN = {
    "laplace_sum": (sources.laplace_sum(0.3), lambda y, x: stats.laplace.pdf(y, x, 0.3)),
    "sine": (sources.sine(3, 0.3), lambda y, x: stats.norm.pdf(y, np.sin(6 * np.pi * x), 0.3)),
    "cube": (sources.cube(0.1), lambda y, x: stats.norm.pdf(y, x**3, 0.1)),
    "product": (sources.product(0.3), lambda y, x: stats.norm.pdf(y, x[..., 0] * x[..., 1], 0.3)),
    "length": (sources.length(3, 0.2), lambda y, x: stats.norm.pdf(y, np.linalg.norm(x, axis=-1), 0.2)),
    "scale": (
        sources.scale(2, 1.0),
        lambda y, x: stats.norm.pdf(y[..., 0], 0, np.exp(x[..., 0])) * stats.norm.pdf(y[..., 1], 0, np.exp(x[..., 0])),
    ),
    "symbols": (sources.symbols(list(MEANS)), lambda y, x: stats.norm.pdf(y, MEANS[x])),
    "overlapping": (sources.overlapping(7), lambda y, x: stats.uniform.pdf(y, x, 2)),
}
"""Sources, and p(y | x); that of y alone is its mean over further draws of x."""


def same_within_error(ratios: np.ndarray, truth: float) -> bool:
    return abs(ratios.mean() - truth) <= 4 * ratios.std() / np.sqrt(len(ratios)) + 1e-9


@pytest.mark.parametrize("name", RATIOS)
def test_a_truth_is_the_mean_log_density_ratio_of_its_rows(name: str) -> None:
    source, ratio = RATIOS[name]
    x, y = source.draw(np.random.default_rng(0), 20_000)
    assert same_within_error(ratio(x, y), source.truth)


@pytest.mark.parametrize("name", GIVEN)
def test_a_truth_is_the_mean_log_density_ratio_where_that_of_y_is_a_mean_over_x(name: str) -> None:
    source, given = GIVEN[name]
    x, y = source.draw(np.random.default_rng(0), 3000)
    others, _ = source.draw(np.random.default_rng(1), 1000)
    assert same_within_error(np.log(given(y, x)) - np.log(given(y[:, None], others[None]).mean(axis=1)), source.truth)


def test_each_source_is_compared() -> None:
    makers = {
        name
        for name, made in vars(sources).items()
        if isfunction(made) and get_annotations(made).get("return") is sources.Source and not name.startswith("_")
    }
    assert len(makers) > 20
    assert makers <= {name.split(",")[0] for name in [*RATIOS, *GIVEN]}


def test_coarser_quadratures_give_the_same_truths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quadrature, "PANELS", 44)
    families = [*information_tasks.families().values(), *information_tasks.unseen_families.__wrapped__().values()]
    coarser = [source.truth for family in families for source in family.values()]
    np.testing.assert_allclose([task.truth for task in tasks], coarser, rtol=0, atol=1e-6)


@pytest.mark.parametrize("nats", [0.01, 1.0, 3.5])
def test_a_correlation_gives_the_mutual_information_asked_for(nats: float) -> None:
    rho = sources.correlation(nats)
    assert -0.5 * np.log(1 - rho**2) == pytest.approx(nats)
    assert sources.gaussian(sources.sparse(3, 2, [rho, -rho]), 3).truth == pytest.approx(2 * nats)


def test_pairs_beside_each_other_add_up_and_hidden_ones_add_nothing() -> None:
    parts = sources.gamma_sum(1.0, 1.0), sources.parity(2, 1, 0.9)
    whole = information_tasks.hidden(information_tasks.side_by_side(*parts), 3, 4)
    x, y = whole.draw(np.random.default_rng(0), 50)
    rng = np.random.default_rng(0)
    xs, ys = zip(*(part.draw(rng, 50) for part in parts), strict=True)
    assert (x.shape, y.shape) == ((50, 6), (50, 6))
    np.testing.assert_array_equal(x[:, :3], np.column_stack(xs))
    np.testing.assert_array_equal(y[:, :2], np.column_stack(ys))
    assert whole.truth == pytest.approx(sum(part.truth for part in parts))


MAPS = {
    "rotation": maps.rotation(3),
    "swirl": maps.swirl(0.6),
    "wiggle of x": maps.wiggle(0.24, 4.0),
    "wiggle of y": maps.wiggle(0.15, 6.0),
    "triangular": maps.triangular(-0.6),
    "margin": maps.margin(stats.norm, stats.t(2.5)),
    "margin of two tails": maps.margin(stats.cauchy, stats.norm),
    "cube": maps.CUBE,
    "stretch": maps.stretch(3, 5.0),
    "coupling": maps.coupling(0.5),
    "root": maps.power(0.5),
    "sinh": maps.SINH,
    "exp": maps.EXP,
}


@pytest.mark.parametrize("name", MAPS)
def test_a_map_has_an_inverse_and_a_jacobian_of_one_sign(name: str) -> None:
    one, rows = MAPS[name], np.random.default_rng(0).normal(size=(200, 3))
    there = one.forward(rows)
    assert not np.allclose(there, rows)
    np.testing.assert_allclose(one.inverse(there), rows, atol=1e-7)
    steps = 1e-5 * np.eye(3)
    jacobians = np.stack([(one.forward(rows + h) - one.forward(rows - h)) / 2e-5 for h in steps], axis=2)
    signs = np.sign(np.linalg.det(jacobians))
    assert set(signs) in ({1.0}, {-1.0})


DISCRETE = ("independent-mixed-1-1", "independent-mixed-2-4", "counts-shared-3-4", "atoms-hurdle-2-2")
"""Tasks with atoms in every coordinate, and those of families channel and ordered."""


@pytest.mark.parametrize("task", tasks, ids=lambda task: task.name)
def test_rows_are_finite_reproducible_and_never_repeated_where_they_are_continuous(task) -> None:
    x, y = task.sample(1000)
    again = task.sample(1000)
    assert x.dtype == y.dtype == np.float64
    assert len(x) == len(y) == 1000
    assert all(np.array_equal(*sides) for sides in zip((x, y), again, strict=True))
    assert np.isfinite(x).all()
    assert np.isfinite(y).all()
    rows = {tuple(row) for row in np.column_stack([x, y])}
    discrete = task.family in ("channel", "ordered") or task.name in DISCRETE
    assert (len(rows) < 1000) if discrete else (len(rows) == 1000)


def test_siblings_differ() -> None:
    assert len({task.name for task in tasks}) == len(tasks)
    first = [task for task in tasks if task.set == "choosing"]
    assert len(first) >= 48
    for family in {task.family for task in first}:
        one, other = (task for task in first if task.family == family)
        assert [side.shape for side in one.sample(5)] != [side.shape for side in other.sample(5)] or (
            one.truth != other.truth
        )
