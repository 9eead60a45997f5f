"""The unseen tasks with known mutual information; nothing was chosen by them.

They were made when all of `information_tasks.py` had been looked at. Names, parameters and seeds were fixed before any
estimator was run on a task of this set. Rows come from `np.random.default_rng([UNSEEN_SEED, zlib.crc32(name)])`.
"""

from functools import cache

import numpy as np
from information_combined import hidden, independent, mapped, side_by_side
from information_maps import (
    CUBE,
    NORMAL,
    coupling,
    margin,
    power,
    rotation,
    stretch,
    swirl,
    triangular,
    wiggle,
)
from information_sources import (
    Array,
    Source,
    cauchy_sum,
    channel,
    checkers,
    correlation,
    cube,
    dense,
    factors,
    frank,
    gamma_sum,
    gaussian,
    gumbel,
    length,
    lomax,
    mixture,
    parity,
    product,
    rectified,
    ring,
    rounded,
    scale,
    sine,
    sparse,
    sphere,
    student,
    symbols,
    turns,
    uniform_noise,
    von_mises,
)
from information_sources_continuous import (
    ali_mikhail_haq,
    axis,
    circle_sum,
    dirichlet,
    downton,
    fan,
    gamma_ratio,
    gate,
    joe,
    laplace_noise,
    lissajous,
    plackett,
    regimes,
    wrapped_cauchy,
)
from information_sources_discrete import chain, hurdle, label, ordered, shared_rate, table, topics
from numpy.random import Generator
from scipy import stats

UNSEEN_SEED = 22
"""Begins the seeds of the rows of this set; matrices have keys from 101 on."""


def around_circle(rng: Generator, n: int, noise: float) -> Array:
    angle = rng.uniform(0, 2 * np.pi, (n, 1))
    return np.column_stack([np.cos(angle), np.sin(angle)]) + noise * rng.normal(size=(n, 2))


@cache
def unseen_families() -> dict[str, dict[str, Source]]:
    """One to three siblings of each family, by their difference."""
    turn, r = rotation, correlation
    laplace, uniform, expon = stats.laplace, stats.uniform, stats.expon
    return {
        "gaussian-sparse": {
            "16-10-stretched": mapped(
                gaussian(sparse(16, 10, [0.65, -0.6, 0.5, 0.3]), 16), (turn(101),), (stretch(102, 4.0),)
            ),
        },
        "gaussian-dense": {"5-20": gaussian(dense(25, 0.5), 5)},
        "gaussian-factors": {
            "30-35": gaussian(factors(65, 5, 4.0, key=103), 30),
            "50-6": gaussian(factors(56, 1, 2.5, key=104), 50),
        },
        "gaussian-redundant": {
            "3-30-stretched": mapped(gaussian(factors(33, 3, 0.7, key=105), 3), y=(stretch(106, 10.0),))
        },
        "gaussian-strong": {
            "2-3-stretched": mapped(
                gaussian(sparse(2, 3, [r(2.8), r(1.0)]), 2), (stretch(107, 5.0),), (stretch(108, 5.0),)
            ),
        },
        "gaussian-weak": {
            "2-2": gaussian(sparse(2, 2, [r(0.025)]), 2),
            "1-10-rotated": mapped(gaussian(sparse(1, 10, [-r(0.05)]), 1), y=(turn(109),)),
        },
        "student": {"4-3-dof2.5": student(factors(7, 1, 1.0, key=110), 4, 2.5)},
        "student-mapped": {
            "2-3-laplace": mapped(student(dense(5, 0.45), 2, 6.0), *[(margin(laplace, stats.t(6.0)),)] * 2),
        },
        "linear-map": {
            "laplace-40-30": mapped(
                hidden(side_by_side(*[laplace_noise(1.0)] * 4), 36, 26), (turn(111),), (stretch(112, 3.0),)
            ),
            "cauchy-6-5": mapped(hidden(side_by_side(*[cauchy_sum(0.8)] * 2), 4, 3), (turn(113),), (turn(114),)),
        },
        "laplace-noise": {"1-1": laplace_noise(0.2)},
        "uniform-noise": {
            "3-2-coupled": mapped(
                hidden(side_by_side(uniform_noise(0.2), uniform_noise(0.45)), 1, 0), (coupling(0.5),), (coupling(0.3),)
            ),
        },
        "gamma-sum": {"2-2": side_by_side(gamma_sum(0.7, 0.7), gamma_sum(4.0, 2.5))},
        "clayton": {"2-4-lomax": mapped(lomax(2, 4, 0.8), (power(0.5),))},
        "gumbel": {"2-3": mapped(hidden(side_by_side(gumbel(3.0), gumbel(1.2)), 0, 1), (margin(laplace),))},
        "joe": {"1-1-exponential": mapped(joe(2.4), (margin(expon),), (margin(expon),))},
        "plackett": {"2-2-laplace": mapped(side_by_side(plackett(15.0), plackett(0.25)), *[(margin(laplace),)] * 2)},
        "smooth-copula": {
            "1-1": ali_mikhail_haq(0.95),
            "3-3-normal": mapped(
                side_by_side(ali_mikhail_haq(-0.9), frank(12.0), ali_mikhail_haq(0.8)), (NORMAL,), (NORMAL, turn(115))
            ),
        },
        "gamma-ratio": {"2-3": gamma_ratio([0.7, 2.0], [1.5, 0.8, 3.0], 1.2)},
        "shares": {"3-2": dirichlet([1.0, 0.7, 2.0], [1.5, 0.9], 0.8)},
        "squares": {"3-2": hidden(mapped(downton(0.9), (margin(stats.norm, expon),)), 2, 1)},
        "contaminated": {
            "2-2-rotated": mapped(
                hidden(mixture([(0.0, 0.0)] * 3, 1.0, [0.98, 0.0, 0.0]), 1, 1), (turn(116),), (turn(117),)
            ),
        },
        "blobs": {
            "seven-1-1": mixture(
                [(-3.0, 0.5), (-2.0, -2.5), (-0.5, 2.0), (0.0, -0.5), (1.5, -3.0), (2.0, 1.5), (3.5, -1.0)],
                0.5,
                [0.8, -0.8, 0.5, -0.9, 0.3, 0.9, -0.5],
            ),
        },
        "turns": {"7-1-1": turns(7, 0.22)},
        "circle-sum": {"2-1": circle_sum(2, 0.25)},
        "angles": {
            "5-1-1": wrapped_cauchy(5, 0.8),
            "2-3-2": hidden(side_by_side(wrapped_cauchy(-2, 0.7), von_mises(1, 1.5)), 1, 0),
        },
        "lissajous": {"2-3-1-1": lissajous(2, 3, 0.15)},
        "sine-hidden": {
            "1-8-8-rotated": mapped(hidden(mapped(sine(1, 0.35), (NORMAL,)), 7, 7), (turn(118),), (turn(119),)),
        },
        "checkers": {"8-1-1": checkers(8, 0.96), "2-3-3": hidden(checkers(2, 0.9), 2, 2)},
        "parity": {"2-2": hidden(parity(1, 2, 0.94), 1, 0)},
        "chain": {"4-4": chain(4, 4, 0.95, 0.95)},
        "cube-hidden": {"6-15": mapped(hidden(cube(0.15), 5, 14), (turn(120),), (turn(121),))},
        "fan": {"1-1": fan(0.2, 1.5), "12-6-rotated": mapped(hidden(fan(0.1, 1.0), 11, 5), (turn(122),), (turn(123),))},
        "product": {"3-2": mapped(hidden(product(0.2), 1, 1), (turn(124),), (coupling(0.3),))},
        "length": {"5-4-rotated": mapped(hidden(length(5, 0.15), 0, 3), y=(turn(125),))},
        "scale": {"2-3": hidden(scale(3, 0.8), 1, 0)},
        "regimes": {"1-1": regimes(1, 1, [0.2, 1.0, 5.0]), "5-4": regimes(5, 4, [1.0, 3.0])},
        "gate": {"1-1": gate(1, 0.1), "3-8-rotated": mapped(hidden(gate(6, 0.4), 2, 2), y=(turn(126),))},
        "ring": {"3-2-rotated": mapped(hidden(ring(0.08), 2, 1), (turn(127),), (turn(128),))},
        "sphere": {
            "3-4-radii": hidden(sphere(3.0, 0.7), 0, 1),
            "axis-3-3": axis(10.0, 0.3),
        },
        "swirl": {
            "5-3": mapped(gaussian(dense(8, 0.6), 5), (swirl(0.15),), (turn(129), swirl(0.25))),
            "2-2-student": mapped(
                student(dense(4, 0.5), 2, 5.0),
                (margin(uniform, stats.t(5.0)), swirl(1.5)),
                (margin(stats.norm, stats.t(5.0)),),
            ),
        },
        "warped": {
            "coupled-4-5": mapped(
                gaussian(sparse(4, 5, [0.85, 0.6]), 4), (turn(130), coupling(0.4)), (turn(131), coupling(0.5))
            ),
            "power-2-2": mapped(
                gaussian(sparse(2, 2, [0.8, -0.7]), 2), (wiggle(0.2, 4.5), power(0.4)), (triangular(0.5), CUBE)
            ),
        },
        "symbols": {
            "3-2": hidden(symbols([0.0, 1.5, 3.0, 8.0, 9.5, 20.0]), 2, 1),
        },
        "topics": {
            "9-1-2": topics(9, 4.0),
            "5-5-25-rotated": mapped(hidden(topics(5, 2.5, one_hot=True), 0, 23), y=(turn(132),)),
        },
        "label": {"1-1": label(1.5), "20-1-rotated": mapped(hidden(label(5.0), 19, 0), (turn(133),))},
        "channel": {
            "table-1-1": table(4, 6, 0.4, key=134),
            "table-2-2": side_by_side(table(3, 3, 1.0, key=135), channel([1, 2, 0, 4, 3, 5], 0.5)),
        },
        "ordered": {"1-1": ordered(0.7, [-1.0, 0.2, 0.9], [-0.5, 0.0, 1.2, 2.0])},
        "counts": {
            "shared-3-4": shared_rate(1.5, [0.5, 1.0, 2.0], [0.3, 0.8, 1.5, 3.0]),
        },
        "atoms": {
            "hurdle-2-2": side_by_side(hurdle(0.25, 0.1, 0.8), hurdle(0.1, 0.3, -0.9)),
        },
        "cut": {
            "3-3-stretched": mapped(hidden(side_by_side(rectified(0.3), rounded(0.6, 0.8)), 1, 1), (stretch(136, 3.0),))
        },
        "independent-heavy": {
            "4-2": independent(
                lambda rng, n: rng.standard_t(1.5, (n, 1)) * rng.normal(size=(n, 4)),
                lambda rng, n: np.exp(rng.standard_t(4.0, (n, 2))),
            ),
        },
        "independent-wide": {
            "35-12": mapped(
                independent(
                    lambda rng, n: rng.exponential(size=(n, 3)) @ np.ones((3, 35)) + rng.laplace(size=(n, 35)),
                    lambda rng, n: rng.normal(size=(n, 12)),
                ),
                (stretch(137, 5.0),),
                (coupling(0.3),),
            ),
        },
        "independent-curved": {
            "2-2": independent(lambda rng, n: around_circle(rng, n, 0.05), lambda rng, n: around_circle(rng, n, 0.3)),
        },
        "independent-mixed": {
            "2-4": independent(
                lambda rng, n: rng.negative_binomial(1, 0.3, (n, 2)),
                lambda rng, n: np.maximum(rng.normal(size=(n, 1)) + rng.normal(size=(n, 4)), 0),
            ),
        },
    }
