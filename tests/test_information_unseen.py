"""The unseen tasks with known mutual information: their sources against log densities written again."""

import sys
import zlib
from collections.abc import Callable
from inspect import get_annotations, isfunction
from itertools import pairwise, product

import numpy as np
import pytest
from scipy import special, stats

from .test_information_tasks import information_tasks, same_within_error

pytestmark = pytest.mark.slow

continuous = sys.modules["information_sources_continuous"]
discrete = sys.modules["information_sources_discrete"]

SHAPES = np.array([0.7, 2.0]), np.array([1.5, 0.8, 3.0])


def copula_ratio(cumulative: Callable, step: float = 1e-4) -> Callable:
    """Logarithm of a copula's density: mixed differences of its cumulative distribution."""

    def ratio(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        h, k = step * u * (1 - u), step * v * (1 - v)
        corners = (i * j * cumulative(u + i * h, v + j * k) for i, j in product((-1, 1), repeat=2))
        return np.log(sum(corners) / (4 * h * k))

    return ratio


def plackett(u: np.ndarray, v: np.ndarray, theta: float = 15.0) -> np.ndarray:
    a = 1 + (theta - 1) * (u + v)
    return (a - np.sqrt(a**2 - 4 * theta * (theta - 1) * u * v)) / (2 * (theta - 1))


def dirichlet_ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    def log_density(rows: np.ndarray, shapes: np.ndarray) -> np.ndarray:
        whole = np.column_stack([rows, 1 - rows.sum(axis=1)]).T
        return stats.dirichlet([*shapes, 6.0 - sum(shapes)]).logpdf(whole / whole.sum(axis=0))

    both = np.column_stack([x, y])
    return log_density(both, [1.0, 0.7, 2.0, 1.5]) - log_density(x, [1.0, 0.7, 2.0]) - log_density(y, [1.5])


def gamma_ratio_ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """By compound gamma densities, coordinate by coordinate, given those before."""

    def log_density(rows: np.ndarray, shapes: np.ndarray, below: float, before: np.ndarray | float) -> np.ndarray:
        total = 0.0
        for column, shape in zip(rows.T, shapes, strict=True):
            total = total + stats.betaprime(shape, below, scale=1 + before).logpdf(column)
            before, below = before + column, below + shape
        return total

    a, b = SHAPES
    return log_density(y, b, 1.2 + a.sum(), x.sum(axis=1)) - log_density(y, b, 1.2, 0.0)


def axis_ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    c = (x * y).sum(axis=1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    there = stats.vonmises_fisher([0, 0, 1], 10.0)
    around = [there.pdf(np.column_stack([np.sqrt(1 - c**2), 0 * c, sign * c])) for sign in (1, -1)]
    return np.log(sum(around) / 2) + np.log(4 * np.pi)


def regimes_ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    def log_density(rows: np.ndarray) -> np.ndarray:
        logs = [stats.norm(0, s).logpdf(rows).sum(axis=1) for s in (0.5, 1.0, 3.0)]
        return special.logsumexp(logs, axis=0)

    return log_density(np.column_stack([x, y])) - log_density(x) - log_density(y) + np.log(3)


def lissajous_ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    t = 2 * np.pi * np.arange(120) / 120
    a, b = (stats.norm(f, 0.15).pdf(side[:, None]) for f, side in ((np.cos(2 * t), x), (np.sin(3 * t), y)))
    return np.log((a * b).mean(axis=1)) - np.log(a.mean(axis=1)) - np.log(b.mean(axis=1))


def downton_ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The other square, given the one, is a noncentral chi-square."""
    return stats.ncx2(2, 2 * 0.75 * x / 0.25, scale=0.25 / 2).logpdf(y) - stats.expon.logpdf(y)


def table_ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    cells = np.random.default_rng([21, 5]).dirichlet(np.full(12, 0.5)).reshape(3, 4)
    return np.log(cells[x, y] / cells.sum(axis=1)[x] / cells.sum(axis=0)[y])


def ordered_ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    cuts_x, cuts_y = np.array([-30, -1.0, 0.2, 30]), np.array([-30, -0.5, 0.0, 1.2, 30])
    below = stats.multivariate_normal(cov=[[1, 0.7], [0.7, 1]]).cdf
    corners = np.array([[below([a, b]) for b in cuts_y] for a in cuts_x])
    cells = np.diff(np.diff(corners, axis=0), axis=1)
    return np.log(cells[x, y] / cells.sum(axis=1)[x] / cells.sum(axis=0)[y])


def shared_rate_ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Counts given those before are negative binomial again, with a rate that these have taught."""

    def log_density(rows: np.ndarray, shape: float, rate: float) -> np.ndarray:
        total = 0.0
        for column, mean in zip(rows.T, (0.3, 1.5, 4.0), strict=True):
            total = total + stats.nbinom(shape, rate / (rate + mean)).logpmf(column)
            shape, rate = shape + column, rate + mean
        return total

    return log_density(y, 1.5 + x.sum(axis=1), 1.5 + 3.5) - log_density(y, 1.5, 1.5)


def chain_ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Sums over all paths of the hidden states."""

    def probability(rows: np.ndarray) -> np.ndarray:
        total = np.zeros(len(rows))
        for path in product((-1, 1), repeat=rows.shape[1]):
            moved = np.prod([0.9 if a == b else 0.1 for a, b in pairwise(path)])
            total += 0.5 * moved * np.where(rows * np.array(path) > 0, 0.85, 0.15).prod(axis=1)
        return total

    return np.log(probability(np.column_stack([x, y])) / probability(x) / probability(y))


def label_ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.log(2 / (1 + np.exp(np.where(y, -1, 1) * 1.5 * x)))


def topics_ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    angle = 2 * np.pi * np.arange(5) / 5
    distances = np.hypot(y[:, :1] - 2.5 * np.cos(angle), y[:, 1:] - 2.5 * np.sin(angle))
    given = np.exp(-(distances**2) / 2)
    return np.log((given * x).sum(axis=1)) - np.log(given.mean(axis=1))


def hurdle_ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    cells = np.array([[0.55, 0.1], [0.1, 0.25]])
    a, b = (x > 0).astype(int), (y > 0).astype(int)
    logs = [np.log(np.where(side > 0, side, 1.0)) for side in (x, y)]
    dependent = stats.norm(0.8 * logs[0], 0.6).logpdf(logs[1]) - stats.norm.logpdf(logs[1])
    return np.log(cells[a, b] / cells.sum(axis=1)[a] / cells.sum(axis=0)[b]) + a * b * dependent


RATIOS = {
    "ali_mikhail_haq": (
        continuous.ali_mikhail_haq(0.95),
        copula_ratio(lambda u, v: u * v / (1 - 0.95 * (1 - u) * (1 - v))),
    ),
    "ali_mikhail_haq, negative": (
        continuous.ali_mikhail_haq(-0.9),
        copula_ratio(lambda u, v: u * v / (1 + 0.9 * (1 - u) * (1 - v))),
    ),
    "plackett": (continuous.plackett(15.0), copula_ratio(plackett)),
    "joe": (
        continuous.joe(2.4),
        copula_ratio(lambda u, v: 1 - ((1 - u) ** 2.4 + (1 - v) ** 2.4 - (1 - u) ** 2.4 * (1 - v) ** 2.4) ** (1 / 2.4)),
    ),
    "dirichlet": (continuous.dirichlet([1.0, 0.7, 2.0], [1.5], 0.8), dirichlet_ratio),
    "gamma_ratio": (continuous.gamma_ratio(*map(list, SHAPES), 1.2), gamma_ratio_ratio),
    "downton": (continuous.downton(0.75), downton_ratio),
    "circle_sum": (
        continuous.circle_sum(2, 0.25),
        lambda x, y: stats.uniform(0, 0.25).logpdf((y - x.sum(axis=1)) % 1),
    ),
    "lissajous": (continuous.lissajous(2, 3, 0.15), lissajous_ratio),
    "wrapped_cauchy": (
        continuous.wrapped_cauchy(5, 0.8),
        lambda x, y: stats.wrapcauchy(0.8).logpdf((y - 5 * x) % (2 * np.pi)) + np.log(2 * np.pi),
    ),
    "axis": (continuous.axis(10.0, 0.3), axis_ratio),
    "regimes": (continuous.regimes(3, 2, [0.5, 1.0, 3.0]), regimes_ratio),
    "table": (discrete.table(3, 4, 0.5, key=5), table_ratio),
    "ordered": (discrete.ordered(0.7, [-1.0, 0.2], [-0.5, 0.0, 1.2]), ordered_ratio),
    "shared_rate": (discrete.shared_rate(1.5, [0.5, 1.0, 2.0], [0.3, 1.5, 4.0]), shared_rate_ratio),
    "chain": (discrete.chain(3, 2, 0.9, 0.85), chain_ratio),
    "label": (discrete.label(1.5), label_ratio),
    "topics": (discrete.topics(5, 2.5, one_hot=True), topics_ratio),
    "hurdle": (discrete.hurdle(0.25, 0.1, 0.8), hurdle_ratio),
}
"""Sources, and the logarithm of p(x, y) / p(x) / p(y)."""

GRID = np.linspace(-9, 9, 721)[1::2]
GIVEN = {
    "laplace_noise": (
        continuous.laplace_noise(0.2),
        lambda y, x: stats.laplace.pdf(y, x, 0.2),
        (GRID, stats.norm.pdf(GRID)),
    ),
    "fan": (
        continuous.fan(0.2, 1.5),
        lambda y, x: stats.norm.pdf(y, x, 0.2 * np.exp(1.5 * x)),
        (GRID / 9, np.ones(len(GRID))),
    ),
    "gate": (
        continuous.gate(2, 0.4),
        lambda y, x: stats.norm.pdf(y, 0, np.sqrt(x**2 + 0.4**2)),
        (np.maximum(GRID, 0), stats.norm.pdf(GRID)),
    ),
}
"""Sources, p(y | x) for each coordinate of y, and middles of intervals of x with their weights, which give p(y)."""


@pytest.mark.parametrize("name", RATIOS)
def test_a_truth_is_the_mean_log_density_ratio_of_its_rows(name: str) -> None:
    source, ratio = RATIOS[name]
    x, y = source.draw(np.random.default_rng(0), 20_000)
    assert same_within_error(ratio(x, y), source.truth)


@pytest.mark.parametrize("name", GIVEN)
def test_a_truth_is_the_mean_log_density_ratio_where_that_of_y_is_a_sum_over_x(name: str) -> None:
    source, given, (grid, weights) = GIVEN[name]
    x, y = (np.column_stack([side]) for side in source.draw(np.random.default_rng(0), 3000))
    alone = given(y[:, None], grid[:, None]).prod(axis=2) @ weights / weights.sum()
    assert same_within_error(np.log(given(y, x).prod(axis=1) / alone), source.truth)


def test_each_source_is_compared() -> None:
    makers = {
        name
        for module in (continuous, discrete)
        for name, made in vars(module).items()
        if isfunction(made) and made.__module__ == module.__name__ and "return" in get_annotations(made)
        if get_annotations(made)["return"] is continuous.Source
    }
    assert len(makers) > 20
    assert makers == {name.split(",")[0] for name in [*RATIOS, *GIVEN]}


def test_there_are_many_tasks_none_of_them_one_of_the_first_set() -> None:
    tasks = information_tasks.tasks()
    unseen, first = ([task for task in tasks if task.set == name] for name in ("unseen", "choosing"))
    assert len(unseen) >= 44
    for task in unseen:
        alike = [other.name for other in first if other.truth == pytest.approx(task.truth, rel=1e-6)]
        assert task.truth == 0 or not alike


def test_rows_of_unseen_tasks_begin_with_a_seed_of_their_own() -> None:
    task = information_tasks.Task("a", "b", "unseen", lambda rng, n: (rng.random(n), rng.random(n)), 0.0)
    x, _ = task.sample(5)
    np.testing.assert_array_equal(x[:, 0], np.random.default_rng([22, zlib.crc32(b"a")]).random(5))
    assert not np.array_equal(x, task._replace(set="choosing").sample(5)[0])
