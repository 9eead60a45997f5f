"""Geometry: polygons and solids."""

from collections.abc import Iterator
from random import Random

from fact import Fact, near_numbers

# polygon, sides
POLYGONS = (
    ("triangle", 3),
    ("rectangle", 4),
    ("pentagon", 5),
    ("hexagon", 6),
    ("heptagon", 7),
    ("octagon", 8),
    ("nonagon", 9),
    ("decagon", 10),
    ("dodecagon", 12),
)
# solid, faces, edges, corners
SOLIDS = (
    ("cube", 6, 12, 8),
    ("regular tetrahedron", 4, 6, 4),
    ("regular octahedron", 8, 12, 6),
    ("regular dodecahedron", 12, 30, 20),
    ("regular icosahedron", 20, 30, 12),
    ("square pyramid", 5, 8, 5),
    ("pentagonal pyramid", 6, 10, 6),
    ("hexagonal pyramid", 7, 12, 7),
    ("triangular prism", 5, 9, 6),
    ("pentagonal prism", 7, 15, 10),
    ("hexagonal prism", 8, 18, 12),
)


def geometry(rng: Random) -> list[Fact]:
    """Return counts of sides, angle sums, diagonals, faces, edges and corners."""
    return [*_of_polygons(rng), *_of_solids(rng)]


def _of_polygons(rng: Random) -> Iterator[Fact]:
    for name, n in POLYGONS:
        yield _counted(rng, f"How many sides does {_a(name)} have?", n)
        yield _counted(rng, f"How many degrees do the angles inside {_a(name)} sum to?", 180 * (n - 2), 180)
        if n > 3:
            yield _counted(rng, f"How many diagonals does {_a(name)} have?", n * (n - 3) // 2)


def _of_solids(rng: Random) -> Iterator[Fact]:
    for name, *counts in SOLIDS:
        for part, n in zip(("faces", "edges", "corners"), counts, strict=True):
            yield _counted(rng, f"How many {part} does {_a(name)} have?", n)


def _a(name: str) -> str:
    return f"an {name}" if name[0] == "o" else f"a {name}"


def _counted(rng: Random, question: str, n: int, step: int = 1) -> Fact:
    return Fact(question=question, answer=str(n), wrong=near_numbers(rng, n, step=step))
