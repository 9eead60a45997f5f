"""Larger pairs with known mutual information, made of smaller ones."""

from collections.abc import Callable

import numpy as np
from information_maps import Map
from information_sources import Array, Source
from numpy.random import Generator


def side_by_side(*sources: Source) -> Source:
    """Independent pairs, side by side."""

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        xs, ys = zip(*(source.draw(rng, n) for source in sources), strict=True)
        return np.column_stack(xs), np.column_stack(ys)

    return Source(draw, sum(source.truth for source in sources))


def hidden(source: Source, n_x: int, n_y: int) -> Source:
    """A pair among `n_x` and `n_y` more coordinates, independent standard normals."""
    return side_by_side(source, Source(lambda rng, n: (rng.normal(size=(n, n_x)), rng.normal(size=(n, n_y))), 0.0))


def mapped(source: Source, x: tuple[Map, ...] = (), y: tuple[Map, ...] = ()) -> Source:
    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        sides = [np.column_stack([side]) for side in source.draw(rng, n)]
        for i, maps in enumerate((x, y)):
            for one in maps:
                sides[i] = one.forward(sides[i])
        return sides[0], sides[1]

    return Source(draw, source.truth)


def independent(x: Callable[[Generator, int], Array], y: Callable[[Generator, int], Array]) -> Source:
    return Source(lambda rng, n: (x(rng, n), y(rng, n)), 0.0)
