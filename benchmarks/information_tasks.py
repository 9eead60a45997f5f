"""Tasks with known mutual information, made for examinations: some to choose by, others to be looked at once.

`python benchmarks/information_tasks.py --list` prints names, dimensions, truths and sets; `--set` limits it to one.

A task's rows come from a generator of its own, `np.random.default_rng([SEED, zlib.crc32(name)])`, and its matrices from
keys written next to it. Names, seeds and sets were fixed before any estimator was run on a task. Each family has two
siblings, which differ in parameters, dimensions or maps. One of each was unseen at first; when all had been looked at,
they became the ones to choose by, and those of `information_unseen.py`, whose seeds begin otherwise, came in their
place. Three rules make larger tasks of smaller ones: independent pairs
add up, independent coordinates add nothing, and invertible maps of either side change nothing.
"""

import argparse
import zlib
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from information_combined import hidden, independent, mapped, side_by_side
from information_maps import CUBE, EXP, NORMAL, SINH, margin, rotation, swirl, triangular, wiggle
from information_sources import (
    SEED,
    Array,
    Source,
    cauchy_sum,
    channel,
    checkers,
    correlation,
    counts,
    cube,
    dense,
    factors,
    frank,
    gamma_sum,
    gaussian,
    gumbel,
    laplace_sum,
    length,
    lomax,
    mixture,
    morgenstern,
    overlapping,
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
    with_atom,
)
from information_unseen import UNSEEN_SEED, unseen_families
from numpy.random import Generator
from scipy import stats

ROWS = 5000
SETS = ("choosing", "unseen")


class Task(NamedTuple):
    """One task: its name, its family, its set, how it is drawn, and its mutual information in nats."""

    name: str
    family: str
    set: str
    draw: Callable[[Generator, int], tuple[Array, Array]]
    truth: float

    def sample(self, n: int = ROWS) -> tuple[Array, Array]:
        """x (n, dx) and y (n, dy), float64, the same ones at every call."""
        seed = UNSEEN_SEED if self.set == "unseen" else SEED
        x, y = self.draw(np.random.default_rng([seed, zlib.crc32(self.name.encode())]), n)
        return np.column_stack([x]).astype(float), np.column_stack([y]).astype(float)


CIRCLE = [(float(2 * np.cos(a)), float(2 * np.sin(a))) for a in np.arange(6) * np.pi / 3]


def families() -> dict[str, dict[str, Source]]:
    """The two siblings of each family, by their difference."""
    turn, r = rotation, correlation
    lomax_normal = margin(stats.norm, stats.lomax(0.5))
    return {
        "gaussian-sparse": {
            "4-4": gaussian(sparse(4, 4, [0.8, -0.5]), 4),
            "12-20-rotated": mapped(gaussian(sparse(12, 20, [0.7, 0.7, 0.4]), 12), (turn(1),), (turn(2),)),
        },
        "gaussian-dense": {"10-3": gaussian(dense(13, 0.35), 10), "30-30": gaussian(dense(60, 0.2), 30)},
        "gaussian-factors": {
            "40-50": gaussian(factors(90, 2, 5.0, key=3), 40),
            "8-16": gaussian(factors(24, 3, 2.0, key=4), 8),
        },
        "gaussian-redundant": {
            "24-2": gaussian(factors(26, 2, 0.5, key=5), 24),
            "2-45": gaussian(factors(47, 2, 0.8, key=6), 2),
        },
        "gaussian-strong": {
            "1-1": gaussian(sparse(1, 1, [r(3.5)]), 1),
            "4-4-rotated": mapped(gaussian(sparse(4, 4, [r(1.5)] * 4), 4), (turn(7),), (turn(8),)),
        },
        "gaussian-weak": {
            "1-1": gaussian(sparse(1, 1, [r(0.01)]), 1),
            "6-8": gaussian(sparse(6, 8, [r(0.02), -r(0.02)]), 6),
        },
        "student": {
            "2-2-dof1.5": student(dense(4, 0.4), 2, 1.5),
            "6-4-dof4": student(np.eye(10), 6, 4.0),
        },
        "student-mapped": {
            "1-1-uniform": mapped(
                student(dense(2, 0.6), 1, 3.0),
                (margin(stats.uniform, stats.t(3)),),
                (margin(stats.uniform, stats.t(3)),),
            ),
            "3-2-normal": mapped(
                student(dense(5, 0.3), 3, 2.5),
                (margin(stats.norm, stats.t(2.5)),),
                (margin(stats.norm, stats.t(2.5)), turn(9)),
            ),
        },
        "uniform-noise": {
            "1-1": uniform_noise(0.03),
            "4-4-rotated": mapped(side_by_side(*[uniform_noise(0.4)] * 4), (turn(10),), (turn(11),)),
        },
        "gamma-sum": {
            "1-1": gamma_sum(1.0, 1.0),
            "3-3": side_by_side(gamma_sum(2.0, 0.5), gamma_sum(0.5, 1.0), gamma_sum(1.0, 3.0)),
        },
        "heavy-sum": {"cauchy-1-1": cauchy_sum(0.3), "laplace-2-2": side_by_side(laplace_sum(0.3), laplace_sum(0.8))},
        "clayton": {
            "1-1-normal": mapped(lomax(1, 1, 0.5), (lomax_normal,), (lomax_normal,)),
            "3-5-lomax": lomax(3, 5, 1.5),
        },
        "gumbel": {
            "1-1-normal": mapped(gumbel(2.0), (NORMAL,), (NORMAL,)),
            "2-2-cauchy": mapped(
                side_by_side(gumbel(1.5), gumbel(1.3)), (margin(stats.cauchy),), (margin(stats.cauchy),)
            ),
        },
        "smooth-copula": {
            "frank-1-1": mapped(frank(8.0), (margin(stats.expon),), (margin(stats.lognorm(1.0)),)),
            "morgenstern-3-3": mapped(
                side_by_side(morgenstern(0.95), morgenstern(-0.8), frank(-4.0)), (margin(stats.laplace),), (NORMAL,)
            ),
        },
        "cross": {
            "1-1": mixture([(0.0, 0.0)] * 2, 1.0, [0.95, -0.95]),
            "3-3-rotated": mapped(hidden(mixture([(0.0, 0.0)] * 2, 1.0, [0.97, -0.9]), 2, 2), (turn(12),), (turn(13),)),
        },
        "blobs": {
            "circle-1-1": mixture(CIRCLE, 0.3, [0.0, 0.6, -0.6] * 2),
            "latin-2-2": side_by_side(
                mixture([(0.0, 2.0), (1.0, 4.0), (2.0, 1.0), (3.0, 3.0), (4.0, 0.0)], 0.3, [0.0] * 5),
                mixture([(-1.0, 0.0), (0.0, 1.0), (1.0, 0.0), (0.0, -1.0)], 0.4, [0.5, 0.0, -0.5, 0.0]),
            ),
        },
        "turns": {"5-1-1": turns(5, 0.15), "9-1-1-normal": mapped(turns(9, 0.3), (NORMAL,), (NORMAL,))},
        "angles": {
            "4-1-1": von_mises(4, 10.0),
            "3-2-2": side_by_side(von_mises(3, 4.0), von_mises(-2, 2.0)),
        },
        "sine": {"3-1-1": sine(3, 0.3), "6-1-1": sine(6, 0.15)},
        "sine-hidden": {
            "2-5-5-rotated": mapped(hidden(mapped(sine(2, 0.2), (NORMAL,)), 4, 4), (turn(14),), (turn(15),)),
            "4-6-1": hidden(sine(4, 0.25), 5, 0),
        },
        "checkers": {"4-1-1": checkers(4, 1.0), "6-2-2": hidden(checkers(6, 0.95), 1, 1)},
        "parity": {
            "2-1": parity(2, 1, 0.97),
            "3-3": hidden(parity(2, 2, 1.0), 1, 1),
        },
        "cube-hidden": {
            "10-10-rotated": mapped(hidden(cube(0.1), 9, 9), (turn(16),), (turn(17),)),
            "3-20": hidden(mapped(cube(0.05), (margin(stats.norm, stats.uniform(-1, 2)),), (CUBE,)), 2, 19),
        },
        "product": {"2-1": product(0.3), "6-4-rotated": mapped(hidden(product(0.5), 4, 3), (turn(18),), (turn(19),))},
        "length": {"3-1": length(3, 0.2), "10-2": hidden(length(8, 0.3), 2, 1)},
        "scale": {"1-1": scale(1, 1.0), "3-6": hidden(scale(6, 0.5), 2, 0)},
        "ring": {
            "1-1": ring(0.1),
            "2-2-rotated": mapped(side_by_side(ring(0.2), ring(0.3)), (turn(20),), (turn(21),)),
        },
        "sphere": {
            "torus-4-4": side_by_side(von_mises(1, 5.0, points=True), von_mises(2, 3.0, points=True)),
            "3-3-radii": sphere(8.0, 0.4),
        },
        "swirl": {
            "3-3": mapped(gaussian(sparse(3, 3, [0.8]), 3), (turn(22), swirl(0.6)), (turn(23), swirl(-0.3))),
            "2-4-uniform": mapped(hidden(mapped(uniform_noise(0.1), (NORMAL,)), 1, 3), (swirl(0.5),), (swirl(0.4),)),
        },
        "warped": {
            "wiggle-1-1": mapped(gaussian(sparse(1, 1, [0.9]), 1), (wiggle(0.24, 4.0),), (wiggle(0.15, 6.0),)),
            "triangular-4-3": mapped(gaussian(dense(7, 0.4), 4), (turn(24), triangular(0.4)), (triangular(-0.6), SINH)),
        },
        "symbols": {
            "1-1": symbols([0.0, 6.0, 3.0, 12.0, 9.0]),
            "2-2": side_by_side(overlapping(7), mapped(symbols([0.0, 0.0, 2.0, 4.0]), y=(EXP,))),
        },
        "channel": {
            "1-1": channel([2, 0, 3, 1], 0.2),
            "2-2": side_by_side(channel([7, 2, 5, 0, 9, 4, 1, 8, 3, 6], 0.4), channel([0, 1], 0.1)),
        },
        "counts": {"1-1": counts(1.0, 2.0, 0.0), "2-2": side_by_side(counts(2.0, 6.0, 0.3), counts(3.0, 1.5, 0.1))},
        "atoms": {
            "laplace-1-1": with_atom(0.4, two_sided=True),
            "exponential-3-2": hidden(with_atom(0.2, two_sided=False), 2, 1),
        },
        "cut": {"rounded-1-1": rounded(0.3, 0.5), "rectified-2-2": side_by_side(rectified(0.5), rounded(0.5, 1.0))},
        "independent-heavy": {
            "3-3": independent(
                lambda rng, n: rng.standard_cauchy((n, 3)),
                lambda rng, n: rng.standard_t(1.0, (n, 1)) * np.ones(3) + rng.normal(size=(n, 3)),
            ),
            "1-20": independent(lambda rng, n: rng.pareto(1.1, n), lambda rng, n: rng.lognormal(0, 2, (n, 20))),
        },
        "independent-wide": {
            "50-50": independent(lambda rng, n: rng.normal(size=(n, 50)), lambda rng, n: rng.normal(size=(n, 50))),
            "25-40": mapped(
                independent(
                    lambda rng, n: rng.normal(size=(n, 1)) + 0.5 * rng.normal(size=(n, 25)),
                    lambda rng, n: rng.random((n, 40)),
                ),
                (triangular(0.2),),
                (turn(25),),
            ),
        },
        "independent-mixed": {
            "1-1": independent(lambda rng, n: rng.integers(5, size=n), lambda rng, n: rng.poisson(3.0, n)),
            "3-2": independent(
                lambda rng, n: np.maximum(rng.normal(size=(n, 3)), 0),
                lambda rng, n: rng.integers(2, size=(n, 1)) + 0.1 * rng.normal(size=(n, 2)),
            ),
        },
    }


@cache
def tasks() -> tuple[Task, ...]:
    """All tasks, in the order of their families, the unseen ones last."""
    found = []
    for name, of_set in zip(SETS, (families(), unseen_families()), strict=True):
        for family, siblings in of_set.items():
            found += [Task(f"{family}-{which}", family, name, *source) for which, source in siblings.items()]
    return tuple(found)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--list", action="store_true", help="print names, dimensions, truths and sets")
    parser.add_argument("--set", choices=SETS)
    options = parser.parse_args()
    if not options.list:
        parser.print_help()
        return
    print("| task | dimensions | truth, nat | set |")
    print("|---|---|---|---|")
    for task in tasks():
        if options.set in (None, task.set):
            x, y = task.sample(2)
            print(f"| {task.name} | {x.shape[1]} + {y.shape[1]} | {task.truth:.4f} | {task.set} |")


if __name__ == "__main__":
    main()
